"""What sealed rounds tell their driver: facts for the operator, records for the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event, Record


@dataclass(frozen=True, slots=True)
class GroupOpened(Event):
    """A round has its group."""

    round: int
    sites: tuple[SiteKey, ...]


@dataclass(frozen=True, slots=True)
class VectorSealed(Event):
    """This site's masked levels are durable and on their way."""

    round: int
    payload_bytes: int
    share_bytes: int


@dataclass(frozen=True, slots=True)
class SumAdded(Event):
    """A sum is durable and part of the trunk."""

    number: int
    round: int
    sites: int
    own: bool
    """Whether this site's levels are in it."""


@dataclass(frozen=True, slots=True)
class RoundVoid(Event):
    """A round ended without a sum."""

    round: int
    reason: str
    missing: tuple[SiteKey, ...]
    """Members whose vectors were not here."""
    spent: bool
    """Whether this site had sent its vector: its levels are lost, because they must not be sealed again."""


@dataclass(frozen=True, slots=True)
class RoundSpoiled(Event):
    """A round was opened and gave no sum of levels: one of its sites sealed something else."""

    round: int
    rounds: int
    """So many have been spoiled that a site is in all of them."""
    suspects: tuple[SiteKey, ...]
    """Sites that are in all of them."""


@dataclass(frozen=True, slots=True)
class ResidualDropped(Event):
    """Sums have vectors of this site that its store does not have, so what it still had to send was dropped."""


@dataclass(frozen=True, slots=True)
class SealRefused(Event):
    """A remote peer sent something that does not stand. Counted against it."""

    sender: SiteKey
    reason: str


@dataclass(frozen=True, slots=True)
class SiteAccused(Event):
    """A site signed what it must not have; the statements are kept."""

    site: SiteKey
    round: int
    reason: str


@dataclass(frozen=True, slots=True)
class OwnStateRecord(Record):
    """This site's part in the present round: replaces the one before."""

    state: bytes = field(repr=False)
    """With its secrets: in no log and no trace."""
    own_state_file: str | None = None
    """Trainer state that belongs to it; None keeps the one stored before."""
    adopt: bool = False
    """This site's vector was opened for nothing: in the same transaction, the candidate becomes the residual."""
    over: bool = False
    """The round before is over: nothing of its secrets is to be found on the disk any more."""


@dataclass(frozen=True, slots=True)
class CandidateRecord(Record):
    """What is left of the residual when the vector of this round counts: replaces the one before."""

    residual: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SumRecord(Record):
    """The next sum, and with it, in one transaction, this site's part in the round after it."""

    lane: SiteKey
    number: int
    encoded: bytes
    own_state_file: str | None
    """Trainer state that belongs to it; None keeps the one stored before."""
    adopt: bool
    """This site's vector is in the sum: the candidate becomes the residual."""
    state: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AccusationRecord(Record):
    """What proves a site's fault: appended."""

    site: SiteKey
    round: int
    reason: str
    statements: tuple[bytes, ...]
