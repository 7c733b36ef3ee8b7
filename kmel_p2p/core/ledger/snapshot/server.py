"""Serves snapshots to newcomers: one frozen copy at a time, in parts, to everybody who asks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.computing import Computing
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.core.ledger.sync.messages import NO_SNAPSHOT, PART_BYTES, SnapshotAsk, SnapshotOffer, SnapshotPart
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import SECOND, Lane, Micros

KEPT_FOR: Micros = 120 * SECOND
"""A frozen copy is dropped when nobody has asked for a part of it for so long."""

FRESH_FOR: Micros = 30 * SECOND
"""A newcomer is offered a copy of at most this age, unless others are fetching an older one."""

BUSY_FOR: Micros = 10 * SECOND
"""Others count as fetching a copy if they asked for a part within this time."""


@dataclass(slots=True)
class FrozenSnapshot:
    """A copy to serve."""

    snapshot: Snapshot
    vector: RosterVector
    prefix: bytes
    made_at_us: Micros
    asked_at_us: Micros
    offer: SnapshotOffer | None = None
    """Known once the digest is computed."""

    @property
    def size_bytes(self) -> int:
        return len(self.prefix) + self.snapshot.accumulator.raw().nbytes

    def part(self, index: int) -> bytes:
        """Bytes of one part; the last may be short."""
        start, end = index * PART_BYTES, min((index + 1) * PART_BYTES, self.size_bytes)
        cut = len(self.prefix)
        head = self.prefix[start:end]
        raw = self.snapshot.accumulator.raw()
        return head + bytes(raw[max(0, start - cut) : max(0, end - cut)])


class SnapshotServer:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(self, ledger: Ledger, computing: Computing, outbox: deque[Effect]) -> None:
        self._ledger = ledger
        self._computing = computing
        self._outbox = outbox
        self._frozen: FrozenSnapshot | None = None
        self._waiting: dict[SiteKey, None] = {}

    def on_ask(self, sender: SiteKey, ask: SnapshotAsk, now: Micros) -> None:
        """Offer a snapshot, or send parts of the one that was offered."""
        frozen = self._frozen
        if frozen is not None and frozen.offer is not None and ask.id == frozen.offer.id:
            frozen.asked_at_us = now
            last = min(ask.first + ask.count, frozen.offer.parts)
            for index in range(ask.first, last):
                self._outbox.append(Send(sender, SnapshotPart(ask.id, index, frozen.part(index)), Lane.BULK))
            return
        if frozen is None or not self._still_good(frozen, now):
            if not self._ledger.vector or self._ledger.stale or not self._freeze(now):
                return
            frozen = self._frozen
        assert frozen is not None
        if frozen.offer is None:
            self._waiting[sender] = None
        else:
            self._outbox.append(Send(sender, frozen.offer))

    def advance(self, now: Micros) -> None:
        """Drop a copy that nobody wants any more."""
        if self._frozen is not None and self._frozen.offer is not None and now >= self._frozen.asked_at_us + KEPT_FOR:
            self._frozen = None

    def deadline(self) -> Micros | None:
        """When `advance` has something to do."""
        frozen = self._frozen
        return None if frozen is None or frozen.offer is None else frozen.asked_at_us + KEPT_FOR

    def _still_good(self, frozen: FrozenSnapshot, now: Micros) -> bool:
        # Others can attest a vector only as long as they hold every entry above it.
        if not self._ledger.accepted.holds_above(frozen.vector):
            return False
        return now < frozen.made_at_us + FRESH_FOR or now < frozen.asked_at_us + BUSY_FOR

    def _freeze(self, now: Micros) -> bool:
        snapshot = self._ledger.snapshot()
        frozen = FrozenSnapshot(snapshot, self._ledger.accepted.held, snapshot.prefix(), now, now)
        self._frozen = frozen
        started = self._computing.start(lambda: snapshot.digest, lambda found: self._offer(frozen, found or b""))
        if not started:
            self._frozen = None
        return started

    def _offer(self, frozen: FrozenSnapshot, found: bytes) -> None:
        if self._frozen is not frozen:
            return
        name = digest(b"kmel snapshot 1", frozen.prefix, found)
        assert name != NO_SNAPSHOT
        frozen.offer = SnapshotOffer(name, frozen.size_bytes, found)
        waiting, self._waiting = self._waiting, {}
        for site in waiting:
            self._outbox.append(Send(site, frozen.offer))
