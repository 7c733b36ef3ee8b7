"""What the ledger tells its driver: rounds for the trainer, facts for the operator."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.core.effects import Event, Record
from kmel_p2p.core.ledger.messages import Phase
from kmel_p2p.core.types import SiteKey


@dataclass(frozen=True, slots=True)
class RoundOpened(Event):
    """Train now, from the newest trunk; answer with `Trained` or `RoundFailed`."""

    seq: int
    steps: int
    norm_bound: float
    """Largest L2 norm the decoded delta may have."""


@dataclass(frozen=True, slots=True)
class RoundCommitted(Event):
    """The entry of this round is durable: the trainer may forget what it needs to undo the round."""

    seq: int


@dataclass(frozen=True, slots=True)
class RoundAbandoned(Event):
    """The round will not be published: the trainer goes back to where it was before it."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class EntryHeld(Event):
    """An entry waits for the operator's approval before it leaves the site."""

    seq: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class EntryPublished(Event):
    """An own entry is durable, applied and on its way."""

    seq: int
    entry_bytes: int
    weight: int


@dataclass(frozen=True, slots=True)
class EntriesApplied(Event):
    """Entries of other sites changed the trunk."""

    entries: tuple[tuple[SiteKey, int], ...]
    sender: SiteKey


@dataclass(frozen=True, slots=True)
class EntryRefused(Event):
    """A remote peer handed over something that does not stand."""

    sender: SiteKey
    author: SiteKey | None
    reason: str


@dataclass(frozen=True, slots=True)
class LogEnded(Event):
    """An author broke the rules: its log ends before `seq` at every honest peer."""

    author: SiteKey
    seq: int
    reason: str
    retracted: int


@dataclass(frozen=True, slots=True)
class PhaseChanged(Event):
    """This site's phase."""

    phase: Phase
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """Why no round is open, in words for the operator; empty when one is."""

    reason: str


@dataclass(frozen=True, slots=True)
class RunComplete(Event):
    """All alive sites listen and hold the same vector."""

    sites: int


@dataclass(frozen=True, slots=True)
class EntryRecord(Record):
    """An entry to keep. Records are stored in the order they are given."""

    author: SiteKey
    seq: int
    encoded: bytes
    own_state_file: str | None
    """For an own entry: the trainer state that belongs to it, stored in the same transaction."""


@dataclass(frozen=True, slots=True)
class RetractionRecord(Record):
    """An author's log ended: entries from `seq` on are to be set aside as evidence."""

    author: SiteKey
    seq: int
    reason: str
    evidence: tuple[bytes, ...]
