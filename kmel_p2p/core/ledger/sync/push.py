"""Push: how new entries spread without being asked for.

Eager push: an author sends a small entry to every reachable site at once. Lazy push: a large one is only announced, by
number; every site that has it tells `fanout` random sites per round, and a site asks for what it lacks. Numbers cost a
few bytes, so announcing too often is cheap, and each body still moves once. Rumour mongering after Demers et al.
(1987); ids before bodies as in Plumtree (Leitao et al., 2007).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.sync.messages import MAX_NEWS, Announce, Bodies, EntryId
from kmel_p2p.core.types import Lane, Micros, Randomness

EXTRA_ROUNDS = 2
"""Rounds of announcing beyond log2 of the federation's size."""

MAX_ANNOUNCED = 1024
"""Entries announced at the same time; the periodic summaries carry what is dropped."""


@dataclass(slots=True)
class PendingAnnouncement:
    """One entry to announce."""

    rounds_left: int
    knowing: set[SiteKey] = field(default_factory=set)
    """Sites that need not be told."""


class Push:
    """Sends or announces new entries. Effects go to the shared `outbox`."""

    def __init__(
        self,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        eager_bytes: int,
        fanout: int,
        period_us: Micros,
    ) -> None:
        """`eager_bytes`: most upload, over all sites, for which an entry is sent instead of announced."""
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._eager_bytes = eager_bytes
        self._fanout = fanout
        self._period_us = period_us
        self._pending: dict[EntryId, PendingAnnouncement] = {}
        self._next_round_us: Micros | None = None

    def own(self, entry: Entry, now: Micros) -> None:
        """Send this site's new entry to every reachable site, or begin to announce it if that is too much to upload."""
        encoded = entry.encode()
        alive = sorted(self._alive())
        if self._is_lazy(len(encoded), len(alive)):
            self._announce(EntryId(entry.author, entry.number), len(alive), now)
            return
        body = Bodies((encoded,))
        for key in alive:
            self._outbox.append(Send(key, body, Lane.BULK))

    def received(self, sender: SiteKey, entry: Entry, entry_bytes: int, now: Micros) -> None:
        """Announce an entry that came from `sender`, unless its author sends it to everybody itself."""
        sites = len(tuple(self._alive()))
        if self._is_lazy(entry_bytes, sites):
            entry_id = EntryId(entry.author, entry.number)
            self._announce(entry_id, sites, now)
            self.knows(entry_id, sender)
            self.knows(entry_id, entry.author)

    def knows(self, entry_id: EntryId, site: SiteKey) -> None:
        """`site` has this entry."""
        pending = self._pending.get(entry_id)
        if pending is not None:
            pending.knowing.add(site)

    def advance(self, alive: list[SiteKey], now: Micros) -> None:
        """Announce to some of `alive` (sorted, so that a seed replays a run), if a round is due."""
        if self._next_round_us is None or now < self._next_round_us:
            return
        ignorant = [key for key in alive if any(key not in pending.knowing for pending in self._pending.values())]
        for key in self._rng.sample(ignorant, min(self._fanout, len(ignorant))):
            ids = tuple(entry_id for entry_id, pending in self._pending.items() if key not in pending.knowing)
            for start in range(0, len(ids), MAX_NEWS):
                self._outbox.append(Send(key, Announce(ids[start : start + MAX_NEWS])))
        for pending in self._pending.values():
            pending.rounds_left -= 1
        self._pending = {entry_id: pending for entry_id, pending in self._pending.items() if pending.rounds_left > 0}
        self._next_round_us = now + self._period_us if self._pending else None

    def deadline(self) -> Micros | None:
        """When the next round is due."""
        return self._next_round_us

    def _is_lazy(self, entry_bytes: int, sites: int) -> bool:
        return entry_bytes * sites > self._eager_bytes

    def _announce(self, entry_id: EntryId, sites: int, now: Micros) -> None:
        if len(self._pending) >= MAX_ANNOUNCED:
            del self._pending[next(iter(self._pending))]
        self._pending[entry_id] = PendingAnnouncement(sites.bit_length() + EXTRA_ROUNDS)
        if self._next_round_us is None:
            self._next_round_us = now
