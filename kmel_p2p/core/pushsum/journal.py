"""The journal of a state: changes and states go to the store in order, and come back at the next start."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug, ConfigError, KmelError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.pushsum.events import JournalRecord, StateRecord, Treatment
from kmel_p2p.core.pushsum.holding import Sums
from kmel_p2p.core.pushsum.state import (
    Change,
    Credited,
    Debited,
    Minted,
    PushSumState,
    Settled,
    decode_state,
    fields_of,
)
from kmel_p2p.core.types import Micros

Continuation = Callable[[Micros], None]

_CODES: tuple[type[Any], ...] = (Minted, Debited, Credited, Settled)

STATE_AFTER = 32
"""Journal records after which the state is stored anew, so that neither store nor restart grows without bound."""


class Journal:
    """The only way to alter a `PushSumState`: apply, store, and continue when the record is durable."""

    def __init__(self, state: PushSumState, outbox: deque[Effect]) -> None:
        self.state = state
        self._outbox = outbox
        self._waiting: dict[int, Continuation] = {}
        self._tickets = 0
        # A site that was just restored may have any number of them behind it.
        self._since_state = STATE_AFTER

    def change(self, change: Change, sums: Sums | None = None, then: Continuation | None = None) -> None:
        """Apply `change` and append it to the journal; call `then(now)` once it is durable."""
        self.state.apply(change, sums)
        self.state.index += 1
        if self._since_state >= STATE_AFTER:
            self._store_state(None, then)
            return
        self._since_state += 1
        self._outbox.append(Persist(JournalRecord(self.state.index, encode_change(change)), self._ticket(then)))

    def checkpoint(self, own_state_file: str | None, copy: Sums, then: Continuation) -> None:
        """Persist the whole state; call `then(now)` once it is durable. `copy`: of the present sum."""
        self.state.index += 1
        self._store_state(own_state_file, then, copy)

    def begin_again(self, life: bytes) -> None:
        """Go on in another life, and have that stored."""
        self.state.begin_again(life)
        self.state.index += 1
        self._store_state(None, None)

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


def encode_change(change: Change) -> bytes:
    """The bytes of one journal record."""
    packed: bytes = msgpack.packb([_CODES.index(type(change)), *fields_of(change)], use_bin_type=True)
    return packed


def restore(base: NDArray[np.float32], state: bytes, journal: Iterable[tuple[int, bytes]], source: str) -> PushSumState:
    """The state a store holds.

    Args:
        base: initial trunk, float32[d].
        state: of the newest `StateRecord`.
        journal: (index, body) of the journal records after it, in order.
        source: the store's path, for the error.

    Raises:
        ConfigError: the store does not hold a state of this trunk.
    """
    try:
        found = decode_state(base, state)
        for index, body in journal:
            if index <= found.index:
                continue
            if index != found.index + 1:
                raise Bug(f"record {found.index + 1} is missing")
            found.apply(_decode_change(body))
            found.index = index
    except (KmelError, ValueError, TypeError, IndexError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise ConfigError(
            f"{source}: the stored pushsum state does not stand ({type(error).__name__}: {error}); the store belongs "
            "to another charter or was altered. Move it away and start again: this site then joins as a newcomer"
        ) from error
    found.restored = True
    return found


def _decode_change(body: bytes) -> Change:
    code, *fields = msgpack.unpackb(body, raw=False)
    change: Change = _CODES[code](*fields)
    if isinstance(change, Credited):
        sender, number, life, mass, age, treatment, payload = fields
        change = Credited(SiteKey(sender), number, life, mass, age, Treatment(treatment), payload)
    return change
