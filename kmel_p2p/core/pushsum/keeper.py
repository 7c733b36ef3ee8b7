"""Writes changes and states to the store in order, and does what may only be done once they are durable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.pushsum.events import JournalRecord, StateRecord
from kmel_p2p.core.pushsum.holding import Sums
from kmel_p2p.core.pushsum.state import Change, State, encode_change
from kmel_p2p.core.types import Micros

Continuation = Callable[[Micros], None]

FOLD_AFTER = 32
"""Journal records after which the state is stored anew, so that neither store nor restart grows without bound."""


class Keeper:
    """The only way to alter a `State`: apply, store, and continue when the record is durable."""

    def __init__(self, state: State, outbox: deque[Effect]) -> None:
        self.state = state
        self._outbox = outbox
        self._waiting: dict[int, Continuation] = {}
        self._tickets = 0
        # A site that was just restored may have any number of them behind it.
        self._since_state = FOLD_AFTER

    def change(self, change: Change, sums: Sums | None = None, then: Continuation | None = None) -> None:
        """Apply `change` and append it to the journal; call `then(now)` once it is durable."""
        self.state.apply(change, sums)
        self.state.index += 1
        if self._since_state >= FOLD_AFTER:
            self._store_state(None, then)
            return
        self._since_state += 1
        self._outbox.append(Persist(JournalRecord(self.state.index, encode_change(change)), self._ticket(then)))

    def checkpoint(self, own_state_file: str | None, copy: Sums, then: Continuation) -> None:
        """Persist the whole state; call `then(now)` once it is durable. `copy`: of the present sum."""
        self.state.index += 1
        self._store_state(own_state_file, then, copy)

    def persisted(self, ticket: int, now: Micros) -> None:
        """A record is durable."""
        then = self._waiting.pop(ticket, None)
        if then is not None:
            then(now)

    def _store_state(self, own_state_file: str | None, then: Continuation | None, copy: Sums | None = None) -> None:
        self._since_state = 0
        record = StateRecord(self.state.index, self.state.frozen(copy), own_state_file)
        self._outbox.append(Persist(record, self._ticket(then)))

    def _ticket(self, then: Continuation | None) -> int | None:
        if then is None:
            return None
        self._tickets += 1
        self._waiting[self._tickets] = then
        return self._tickets
