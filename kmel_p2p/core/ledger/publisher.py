"""The author's side: open a round, take the trained delta, make it durable, only then let it go.

The order is what makes a crash harmless: an entry is signed, stored together with the trainer state it was made
from, and sent only when the store says that both are durable. A crash before that point loses the round and nothing
else; after it, the entry is found in the store.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.effects import Effect, Emit, Persisted, Store
from kmel_p2p.core.ledger.events import EntryPublished, EntryRecord
from kmel_p2p.core.ledger.log.accumulator import NO_HEADS
from kmel_p2p.core.ledger.log.entry import Basis, Entry, create
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.rounds import (
    Approve,
    EntryHeld,
    Reject,
    RoundAbandoned,
    RoundCommitted,
    RoundFailed,
    RoundOpened,
    Trained,
)

NORM_MARGIN = 1.0 - 1e-6
"""Keeps the author's float clip strictly inside the receivers' integer bound."""


class State(enum.Enum):
    """Where the next own entry is."""

    IDLE = "idle"
    TRAINING = "training"
    HELD = "held for approval"
    STORING = "storing"


@dataclass(frozen=True, slots=True)
class Round:
    """What was fixed when the round opened: the entry is made on this base with these weights."""

    number: int
    basis: Basis
    weight: int
    head_weights: Mapping[int, int]


class Publisher:
    """One own entry at a time, from round to durable. Effects go to the shared `outbox`."""

    def __init__(self, identity: Identity, ledger: Ledger, outbox: deque[Effect], hold: bool) -> None:
        self.state = State.IDLE
        self._identity = identity
        self._ledger = ledger
        self._outbox = outbox
        self._hold = hold
        self._round: Round | None = None
        self._trained: Trained | None = None
        self._entry: Entry | None = None
        self._tickets = 0

    @property
    def next_number(self) -> int:
        """Sequence number the next own entry will have."""
        return self._ledger.head(self._identity.key) + 1

    def open(self, steps: int, weight: int, head_weights: Mapping[int, int] = NO_HEADS) -> None:
        """Begin the next round on everything applied so far.

        Args:
            steps: local steps to train.
            weight: this site's share of the trunk, units of 2**-16; the charter's cap is applied here.
            head_weights: its shares of the shared heads that it trains, by head number.
        """
        if self.state is not State.IDLE:
            raise LocalError(f"a round is {self.state.value} already")
        own = self._identity.key
        basis = self._ledger.accepted.basis_for(own)
        bound = math.ldexp(math.sqrt(self._ledger.norm_bound_squared(own, basis.vector)), -24) * NORM_MARGIN
        capped = min(weight, self._ledger.rules.weight_cap)
        caps = self._ledger.head_caps(own, basis.vector, head_weights)
        heads = {head: min(share, caps[head]) for head, share in head_weights.items()}
        self._round = Round(self.next_number, basis, capped, heads)
        self.state = State.TRAINING
        self._outbox.append(Emit(RoundOpened(self._round.number, steps, bound)))

    def trained(self, result: Trained) -> None:
        """Take the open round's delta; hold it for the operator or store it."""
        self._expect(State.TRAINING, result.number)
        self._trained = result
        if self._hold:
            self.state = State.HELD
            self._outbox.append(Emit(EntryHeld(result.number, len(result.payload))))
        else:
            self._store()

    def approve(self, command: Approve) -> None:
        """The operator lets the held entry go."""
        self._expect(State.HELD, command.number)
        self._store()

    def abandon(self, command: RoundFailed | Reject) -> None:
        """The round yields nothing; the trainer goes back to where it was."""
        self._expect(State.HELD if isinstance(command, Reject) else State.TRAINING, command.number)
        self._clear()
        self._outbox.append(Emit(RoundAbandoned(command.number, command.reason)))

    def persisted(self, command: Persisted) -> Entry | None:
        """The entry is durable: apply it. Returns it for sending, or None for another ticket."""
        if self.state is not State.STORING or command.ticket != self._tickets:
            return None
        entry = self._entry
        assert entry is not None, "STORING holds an entry"
        outcome = self._ledger.offer(entry)
        self._clear()
        self._outbox.append(Emit(RoundCommitted(entry.number)))
        if outcome.verdict is not Verdict.APPLIED:
            return None
        self._outbox.append(Emit(EntryPublished(entry.number, len(entry.encode()), entry.weight)))
        return entry

    def _store(self) -> None:
        made, result = self._round, self._trained
        assert made is not None, "a round is open"
        assert result is not None, "the round is trained"
        if made.number != self.next_number:
            # Our own log grew under the round: another site gave back entries that this store had lost.
            self._clear()
            self._outbox.append(Emit(RoundAbandoned(made.number, "this site's log moved on under the round")))
            return
        norm_squared = self._ledger.measure(result.payload)
        self._entry = create(
            self._identity,
            charter_id=self._ledger.rules.charter_id,
            number=made.number,
            previous=self._ledger.head_hash(self._identity.key),
            basis=made.basis,
            weight=made.weight,
            head_weights=made.head_weights,
            steps=result.steps,
            norm_squared=norm_squared or 0,
            codec_id=self._ledger.rules.codec_id,
            payload=result.payload,
        )
        against = self._ledger.examine(self._entry)
        if against:
            # Whatever a broken trainer hands over, this site never signs away its own log: nothing was sent yet.
            self._clear()
            self._outbox.append(Emit(RoundAbandoned(made.number, f"the trainer's delta would not stand: {against}")))
            return
        self._tickets += 1
        self.state = State.STORING
        record = EntryRecord(self._identity.key, made.number, self._entry.encode(), result.own_state_file)
        self._outbox.append(Store(record, self._tickets))

    def _expect(self, state: State, number: int) -> None:
        open_number = self._round.number if self._round else None
        if self.state is not state or open_number != number:
            raise LocalError(f"round {number} is not {state.value}: round {open_number} is {self.state.value}")

    def _clear(self) -> None:
        self.state = State.IDLE
        self._round = self._trained = self._entry = None
