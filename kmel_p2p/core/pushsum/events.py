"""What pushsum tells its driver: facts for the operator, records for the store. Rounds are in `core.rounds`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event, Record


class Treatment(enum.IntEnum):
    """What a transfer did to the trunk here (age rule: Hegedus, Danner and Jelasity, DAIS 2019)."""

    ADDED = 0
    REPLACED = 1
    """The trunk here was too old: the received one took its place."""
    REVALUED = 2
    """The received trunk was too old: only the mass counted."""
    REFUSED = 3


class EncodableState(Protocol):
    """A state of this mode that nothing alters any more."""

    def encode(self) -> bytearray: ...


@dataclass(frozen=True, slots=True)
class RoundCounted(Event):
    """An own round is durable and part of this site's trunk. With the mass that moved."""

    number: int
    mass: int


@dataclass(frozen=True, slots=True)
class MassSent(Event):
    """A transfer is debited, durable and on its way."""

    to: SiteKey
    number: int
    mass: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class MassReceived(Event):
    """A transfer of another site is credited and durable."""

    sender: SiteKey
    number: int
    mass: int
    treatment: Treatment


@dataclass(frozen=True, slots=True)
class MassReclaimed(Event):
    """A transfer that certainly counts nowhere was taken back."""

    to: SiteKey
    number: int
    mass: int
    reason: str


@dataclass(frozen=True, slots=True)
class StoreOutdated(Event):
    """This site's store is an older copy: it goes on in another life, with the trunk that it holds."""

    shown_by: SiteKey | None
    """Who holds a transfer that the store does not know; None: the files showed it at the start."""


@dataclass(frozen=True, slots=True)
class PushSumRefused(Event):
    """A remote peer sent something that does not stand. Counted against it."""

    sender: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class StateRecord(Record):
    """The whole state: replaces every earlier record of this mode, in one transaction."""

    index: int
    frozen: EncodableState
    own_state_file: str | None
    """Trainer state that belongs to it; None keeps the one stored before."""

    @property
    def state(self) -> bytearray:
        """What the store keeps. Made when it is asked for: a large state is encoded by the store's own thread."""
        return self.frozen.encode()


@dataclass(frozen=True, slots=True)
class JournalRecord(Record):
    """One change since the newest `StateRecord`, to be appended."""

    index: int
    body: bytes
