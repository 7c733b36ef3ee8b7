"""The author's side: fix what an entry is made on, sign it, make it durable, and only then let it go.

The order is what makes a crash harmless: an entry is signed, stored together with the trainer state it was made
from, and sent only when the store says that both are durable. A crash before that point loses the round and nothing
else; after it, the entry is found in the store.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.ledger.events import EntryRecord
from kmel_p2p.core.ledger.log.accumulator import NO_HEADS
from kmel_p2p.core.ledger.log.entry import Basis, Entry, create
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.rounds.contract import RoundTrained

NORM_MARGIN = 1.0 - 1e-6
"""Keeps the author's float clip strictly inside the receivers' integer bound."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What was fixed when the round opened: the entry is made on this base with these weights."""

    number: int
    basis: Basis
    weight: int
    head_weights: Mapping[int, int]


class Publisher:
    """One own entry at a time, from the opened round to the durable entry. Effects go to the shared `outbox`."""

    def __init__(self, identity: Identity, ledger: Ledger, outbox: deque[Effect]) -> None:
        self._identity = identity
        self._ledger = ledger
        self._outbox = outbox
        self._opened: _Opened | None = None
        self._entry: Entry | None = None
        self._tickets = 0

    @property
    def next_number(self) -> int:
        """Number of the next own entry."""
        return self._ledger.head(self._identity.key) + 1

    def open(self, weight: int, head_weights: Mapping[int, int] = NO_HEADS) -> tuple[int, float]:
        """Fix what the next entry is made on: everything applied so far.

        Args:
            weight: this site's share of the trunk, units of 2**-16; the charter's cap is applied here.
            head_weights: its shares of the shared heads that it trains, by head number.

        Returns:
            The entry's number and the largest L2 norm that its delta may have.
        """
        own = self._identity.key
        basis = self._ledger.accepted.basis_for(own)
        bound = math.ldexp(math.sqrt(self._ledger.norm_bound_squared(own, basis.vector)), -24) * NORM_MARGIN
        capped = min(weight, self._ledger.rules.cap_at(self.next_number))
        caps = self._ledger.head_caps(own, basis.vector, head_weights)
        heads = {head: min(share, caps[head]) for head, share in head_weights.items()}
        self._opened = _Opened(self.next_number, basis, capped, heads)
        return self._opened.number, bound

    def store(self, result: RoundTrained) -> str:
        """Sign the trained delta and have it stored; returns why not, in words, or the empty string."""
        opened, self._opened = self._opened, None
        assert opened is not None, "a round is open"
        if opened.number != self.next_number:
            # Our own log grew under the round: another site gave back entries that this store had lost.
            return "this site's log moved on under the round"
        if opened.basis.amendment_hash in self._ledger.amended_rules.overruled:
            return "the amendments under which the round was opened were overruled"
        norm_squared = self._ledger.measure(result.payload)
        entry = create(
            self._identity,
            charter_id=self._ledger.rules.charter_id,
            number=opened.number,
            previous=self._ledger.head_hash(self._identity.key),
            basis=opened.basis,
            weight=opened.weight,
            head_weights=opened.head_weights,
            steps=result.steps,
            norm_squared=norm_squared or 0,
            codec_id=self._ledger.rules.codec_id,
            payload=result.payload,
        )
        against = self._ledger.examine(entry)
        if against:
            # Whatever a broken trainer hands over, this site never signs away its own log: nothing was sent yet.
            return f"the trainer's delta would not stand: {against}"
        self._tickets += 1
        self._entry = entry
        record = EntryRecord(self._identity.key, opened.number, entry.encode(), result.own_state_file or None)
        self._outbox.append(Persist(record, self._tickets))
        return ""

    def withhold(self) -> int | None:
        """Never send what is on its way to the store; returns its number, None where nothing is."""
        entry, self._entry = self._entry, None
        return None if entry is None else entry.number

    def persisted(self, ticket: int) -> Entry | None:
        """The own entry that is durable with this ticket, to be applied and sent; None for another ticket."""
        if ticket != self._tickets:
            return None
        entry, self._entry = self._entry, None
        return entry
