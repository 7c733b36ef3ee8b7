"""What membership reports to the operator, once per change, and what it asks the store to keep."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event, Record
from kmel_p2p.core.membership.descriptor import Descriptor


@dataclass(frozen=True, slots=True)
class MemberJoined(Event):
    """Heard from for the first time in this run."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class MemberSuspected(Event):
    """Did not answer `accuser`; still counts as alive until the suspicion ends."""

    key: SiteKey
    accuser: bytes


@dataclass(frozen=True, slots=True)
class MemberCleared(Event):
    """Refuted the suspicion."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class MemberUnreachable(Event):
    """Declared dead: not reachable now. It stays in the roster, and we keep trying to reach it."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class MemberBack(Event):
    """Reachable again after it was declared dead or had left."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class MemberLeft(Event):
    """Went away on purpose."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class MemberRemoved(Event):
    """No longer in the roster."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class DegradedLink(Event):
    """Alive, but reachable from here only through others. `both_only_dial`: of the two nobody can be dialled."""

    key: SiteKey
    both_only_dial: bool = False


@dataclass(frozen=True, slots=True)
class LinkRestored(Event):
    """Reachable directly again."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class DuplicateKey(Event):
    """Another process runs with our key: stop one of them."""

    generation: int


@dataclass(frozen=True, slots=True)
class TwinFound(Event):
    """Two processes run with the key of this site, which may be our own, as both have signed."""

    key: SiteKey
    chosen: bool = False
    """Of our own key: the operator has chosen the other one."""


@dataclass(frozen=True, slots=True)
class TwinDecided(Event):
    """The operator of a site, which may be our own, chose one of the two processes."""

    key: SiteKey


@dataclass(frozen=True, slots=True)
class AddressRejected(Event):
    """A site advertises an address that nobody else can reach; the charter's is used instead."""

    key: SiteKey
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeaveFinished(Event):
    """The process may stop now."""


@dataclass(frozen=True, slots=True)
class GenerationRaised(Record):
    """Persist as this site's generation: a start must hand in a larger number than this."""

    generation: int


@dataclass(frozen=True, slots=True)
class DescriptorLearned(Record):
    """Persist: where this site is now. Handed back by `Recall` at the next start."""

    descriptor: Descriptor
