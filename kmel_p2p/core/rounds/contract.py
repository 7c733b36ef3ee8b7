"""Training rounds as every averaging mode knows them: phases, commands of the driver, events for it.

A mode opens a round (`RoundOpened`); the driver trains and answers `RoundTrained` or `RoundFailed`; what leaves the
site is first stored (`effects.Persist` with a ticket, answered by `Persisted`), then sent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Computed, Effect, Event, Message, Persisted, StoodStill
from kmel_p2p.core.rounds.looks import Looked
from kmel_p2p.core.types import Micros


class Phase(enum.IntEnum):
    """What a site is doing about its own contribution."""

    PREPARING = 0
    """Not able to train yet: nobody's pace depends on it."""
    TRAINING = 1
    LISTENING = 2
    """Publishes nothing more; keeps applying and relaying."""


class RoundAllowance(NamedTuple):
    """How much a site may train: the campaign, and its rounds in all. Where it grows, a site that was done goes on."""

    campaign: int
    rounds: int


# ---- commands ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ready:
    """The data are prepared: this site can train.

    Attributes:
        heads: the shared heads that it has measurements for, by number; None: all.
    """

    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Unready:
    """The site cannot train for now (its trainer was lost); it says `Ready` when it can again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Open no more rounds for now, whatever the trainer could do; an open one is finished."""

    reason: str
    """In words for the operator."""


@dataclass(frozen=True, slots=True)
class Resume:
    """The pause is over."""


@dataclass(frozen=True, slots=True)
class RoundTrained:
    """The trainer finished the open round."""

    number: int
    payload: bytes
    steps: int
    training_us: Micros
    """What the steps took, without scoring and writing: it sets the pace."""
    own_state_file: str
    validation: float | None = None
    """How good the trunk was that the round started from; lower is better, differences are relative (logarithms)."""


@dataclass(frozen=True, slots=True)
class RoundFailed:
    """The trainer could not finish the open round; another one opens when the site is `Ready` again."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Approve:
    """The operator lets the held entry go."""

    number: int


@dataclass(frozen=True, slots=True)
class ApproveUntil:
    """The operator is not asked about rounds up to this number; 0: about every one. Lets a held one among them go."""

    number: int


@dataclass(frozen=True, slots=True)
class Reject:
    """The operator keeps the held entry back; the round is trained again, on other batches.

    Attributes:
        deferred: what was trained goes into the residual, so that later entries may hold parts of it; else it is lost.
    """

    number: int
    reason: str
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Amend:
    """The next amendment of the charter, with the signatures that put it in force (`AmendmentDocument.encode`)."""

    encoded: bytes


@dataclass(frozen=True, slots=True)
class Listen:
    """Publish nothing more; keep relaying.

    Attributes:
        allowed: this site's run was over when so much was allowed: it goes on when it is more. None: it publishes
            nothing more, whatever is allowed.
    """

    reason: str
    allowed: RoundAllowance | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Wait no longer for sites that are away: neither before the first round of all, nor to hear of the own log.

    `again`: it was ordered before a restart. Then it says nothing about the own log, which may have been lost since.
    """

    reason: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Trust:
    """Take the word of this site alone for a snapshot that too few others are there to attest."""

    site: SiteKey


@dataclass(frozen=True, slots=True)
class Conclude:
    """The run ends here with what is here: publish nothing more and wait for nobody, until the next campaign.

    `campaign`: which one was concluded, where that was ordered before a restart; None: the one that runs.
    """

    reason: str
    campaign: int | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """The sites that the operator has blocked, all of them: they count as if they were not on the roster."""

    sites: frozenset[SiteKey]


COMMANDS = (
    Ready,
    Unready,
    Pause,
    Resume,
    RoundTrained,
    RoundFailed,
    Approve,
    ApproveUntil,
    Reject,
    Persisted,
    Computed,
    Amend,
    Begin,
    Trust,
    Listen,
    Conclude,
    Blocked,
    Looked,
    StoodStill,
)


@dataclass(frozen=True, slots=True)
class CurrentWait:
    """What this site waits for now.

    Attributes:
        reason: in words for the operator.
        sites: for whom; empty when it is for nobody in particular.
        since_us: when it began.
        until_us: when it ends at the latest if nothing changes; None: only when what is awaited comes, or the operator
            ends it.
        until_begin: whether the operator may end it with `Begin`.
    """

    reason: str
    sites: tuple[SiteKey, ...]
    since_us: Micros
    until_us: Micros | None
    until_begin: bool = False


# ---- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoundOpened(Event):
    """Train now, from the newest trunk; answer with `RoundTrained` or `RoundFailed`."""

    number: int
    steps: int
    norm_bound: float
    """Largest L2 norm the decoded delta may have."""
    entry_limit: int
    """Rounds that this site will train in all, as far as is known now."""
    campaign: int = 1
    before: int = 0
    """Rounds of earlier campaigns: the learning rate falls over what is between."""


@dataclass(frozen=True, slots=True)
class RoundCommitted(Event):
    """What this round sends is durable: the trainer may forget what it needs to undo the round."""

    number: int


@dataclass(frozen=True, slots=True)
class RoundAbandoned(Event):
    """The round will not be published: the trainer goes back to where it was before it.

    Attributes:
        rejected: the operator kept it back, so that the same batches must not be trained on again.
        deferred: it was kept back, and what was trained goes into the residual.
    """

    number: int
    reason: str
    rejected: bool = False
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class EntryHeld(Event):
    """An entry waits for the operator's approval before it leaves the site."""

    number: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class PhaseChanged(Event):
    """This site's phase."""

    phase: Phase
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """Why no round is open, in words for the operator, and for whom it waits; empty when one is."""

    reason: str
    sites: tuple[SiteKey, ...] = ()


@dataclass(frozen=True, slots=True)
class RunComplete(Event):
    """All alive sites listen and hold the same state."""

    sites: int


@dataclass(frozen=True, slots=True)
class CampaignBegun(Event):
    """A campaign is in force here that was not: this site may publish so many entries in it; 0: it sits it out."""

    campaign: int
    entries: int


@dataclass(frozen=True, slots=True)
class SiteBlocked(Event):
    """The operator blocked this site: nothing is heard from it or sent to it."""

    site: SiteKey


@dataclass(frozen=True, slots=True)
class SiteUnblocked(Event):
    """The operator listens to this site again."""

    site: SiteKey


@dataclass(frozen=True, slots=True)
class CharterAmended(Event):
    """An amendment is in force here."""

    constitution: Constitution


class DescribedSite(Protocol):
    """The part of a membership descriptor that averaging reads."""

    @property
    def size_class(self) -> int: ...
    @property
    def outbound_only(self) -> bool: ...


class Members(Protocol):
    """What averaging asks of membership."""

    def alive(self) -> tuple[SiteKey, ...]: ...
    def descriptor(self, key: SiteKey) -> DescribedSite | None: ...


class Averaging(Protocol):
    """One averaging mode, as `peer.Peer` drives it. Otherwise the contract of `effects.Machine`."""

    messages: tuple[type[Message], ...]

    @property
    def phase(self) -> Phase: ...
    @property
    def waiting(self) -> str: ...
    @property
    def waits(self) -> tuple[CurrentWait, ...]: ...
    @property
    def complete(self) -> bool: ...
    @property
    def entry_limit(self) -> int: ...
    @property
    def allowance(self) -> RoundAllowance: ...
    @property
    def vector(self) -> Mapping[SiteKey, int]: ...
    @property
    def revision(self) -> object:
        """Names the present trunk: as long as it is equal to what it was, the trunk is the same."""

    def digest_work(self) -> Callable[[], bytes] | None:
        """Work for another thread: BLAKE2b-256 of the state that the present trunk comes from. None: not now."""

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]: ...
    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None: ...
    def command(self, cmd: Any, now: Micros) -> None: ...
    def member_event(self, event: Event, now: Micros) -> None: ...
    def advance(self, now: Micros) -> None: ...
    def deadline(self) -> Micros | None: ...
    def poll(self) -> Effect | None: ...


def never_meet(members: Members, one: SiteKey, other: SiteKey) -> bool:
    """Whether of two sites neither can be dialled, so that they hear of each other through others alone."""
    described = members.descriptor(one), members.descriptor(other)
    return all(each is not None and each.outbound_only for each in described)


def size_class(members: Members, key: SiteKey) -> int:
    """A site's size class as it describes itself; 0 when unknown."""
    descriptor = members.descriptor(key)
    return descriptor.size_class if descriptor is not None else 0
