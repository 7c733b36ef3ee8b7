"""The table of members: one record per roster key, and the order that decides which fact wins.

Facts about one site are ordered by (generation, serial, state rank) with alive < suspect < dead < left. Merging takes
the larger one, which is a join: order, grouping and repetition of messages do not matter.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.membership.descriptor import HANDLE_BYTES, Descriptor, RosterSite
from kmel_p2p.core.membership.messages import MemberVersion
from kmel_p2p.core.types import Micros


class MemberState(enum.Enum):
    """What this peer believes about a site."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"
    LEFT = "left"


RANK = {MemberState.ALIVE: 0, MemberState.SUSPECT: 1, MemberState.DEAD: 2, MemberState.LEFT: 3}

LEGAL_MOVES = {
    MemberState.UNKNOWN: (MemberState.ALIVE, MemberState.LEFT),
    MemberState.ALIVE: (MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT),
    MemberState.SUSPECT: (MemberState.ALIVE, MemberState.DEAD, MemberState.LEFT),
    MemberState.DEAD: (MemberState.ALIVE, MemberState.LEFT),
    MemberState.LEFT: (MemberState.ALIVE,),
}

COUNTED = (MemberState.ALIVE, MemberState.SUSPECT)
"""States that count as alive: a suspect may still refute, and nobody should act on a mere suspicion."""


def handle_of(key: SiteKey) -> bytes:
    """The short name of a site inside accusations and summaries."""
    return key[:HANDLE_BYTES]


class Member:
    """What this peer knows about one other site."""

    __slots__ = (
        "answered_us", "changed_us", "degraded", "descriptor", "fact_hash", "handle", "indirect_streak",
        "last_rtt_us", "linked", "rank", "rtt_us", "site", "state", "suspicion",
    )  # fmt: skip

    def __init__(self, site: RosterSite, now: Micros, linked: bool) -> None:
        self.site = site
        self.handle = handle_of(site.key)
        self.state = MemberState.UNKNOWN
        self.rank = 0
        self.descriptor: Descriptor | None = None
        self.changed_us = now
        self.linked = linked
        self.rtt_us = 0
        self.last_rtt_us = 0
        self.indirect_streak = 0
        self.degraded = False
        self.suspicion: Suspicion | None = None
        self.answered_us: Micros | None = None
        self.fact_hash: int | None = None

    @property
    def key(self) -> SiteKey:
        return self.site.key

    @property
    def version(self) -> MemberVersion | None:
        """What is held about it, or None while nothing is known in this run."""
        held = self.descriptor
        if held is None or self.state is MemberState.UNKNOWN:
            return None
        return MemberVersion(held.generation, held.serial, self.rank)


@dataclass(frozen=True, slots=True)
class MemberView:
    """One line of `status`."""

    key: SiteKey
    name: str
    state: MemberState
    state_age_us: Micros
    addresses: tuple[str, ...]
    generation: int | None
    serial: int | None
    size_class: int | None
    outbound_only: bool
    software: str
    linked: bool
    degraded: bool
    rtt_us: Micros | None
    """Smoothed round trip of probes, as TCP does it (RFC 6298)."""
    last_rtt_us: Micros | None
    """Round trip of the newest answered probe."""


class MemberTable:
    """All other sites of the roster."""

    __slots__ = ("_alive", "_alive_view", "_by_handle", "_keys", "_members", "counted", "version")

    def __init__(self) -> None:
        self._members: dict[SiteKey, Member] = {}
        self._by_handle: dict[bytes, Member] = {}
        self._alive: list[SiteKey] = []
        self._alive_view: tuple[SiteKey, ...] | None = ()
        self._keys: tuple[SiteKey, ...] | None = None
        self.version = 0
        """Grows with every change of any member's state or descriptor."""
        self.counted = 0
        """Members alive, suspect or dead: the N of every formula is this plus one."""

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    @property
    def alive(self) -> tuple[SiteKey, ...]:
        """Keys that count as alive, sorted."""
        if self._alive_view is None:
            self._alive_view = tuple(self._alive)
        return self._alive_view

    @property
    def alive_count(self) -> int:
        return len(self._alive)

    @property
    def keys(self) -> tuple[SiteKey, ...]:
        """Every roster key but our own, sorted."""
        if self._keys is None:
            self._keys = tuple(sorted(self._members))
        return self._keys

    def get(self, key: SiteKey) -> Member | None:
        return self._members.get(key)

    def by_handle(self, handle: bytes) -> Member | None:
        return self._by_handle.get(handle)

    def admit(self, site: RosterSite, now: Micros, linked: bool) -> Member:
        """Add a roster site, or take over its new name and addresses. Its handle is nobody else's (`check_roster`)."""
        member = self._members.get(site.key)
        if member is not None:
            member.site = site
            return member
        member = Member(site, now, linked)
        self._members[site.key] = member
        self._keys = None
        self._by_handle[member.handle] = member
        return member

    def remove(self, member: Member) -> None:
        """Forget a site that is no longer in the roster."""
        self._count(member.state, -1, member.key)
        del self._members[member.key]
        self._keys = None
        del self._by_handle[member.handle]

    def describe(self, member: Member, descriptor: Descriptor) -> None:
        """Hold a newer descriptor of a member."""
        member.descriptor = descriptor
        member.fact_hash = None
        self.version += 1

    def move(self, member: Member, state: MemberState, now: Micros) -> None:
        """Change a member's state by the table of legal moves."""
        if state not in LEGAL_MOVES[member.state]:
            raise Bug(f"member moved from {member.state.value} to {state.value}")
        self._count(member.state, -1, member.key)
        self._count(state, +1, member.key)
        member.state = state
        member.rank = RANK.get(state, 0)
        self.version += 1
        member.changed_us = now
        member.fact_hash = None

    def _count(self, state: MemberState, sign: int, key: SiteKey) -> None:
        if state in COUNTED or state is MemberState.DEAD:
            self.counted += sign
        if state in COUNTED:
            self._alive_view = None
            if sign > 0:
                insort(self._alive, key)
            else:
                del self._alive[bisect_left(self._alive, key)]


def fact_hash(key: SiteKey, version: MemberVersion) -> int:
    """64 bits that stand for one line of the table; XOR of them stands for a set of lines."""
    return int.from_bytes(digest(key, b"%d.%d.%d" % version)[:8], "big")


def view(member: Member, addresses: tuple[str, ...], now: Micros) -> MemberView:
    """The status line of a member."""
    d = member.descriptor
    return MemberView(
        key=member.key,
        name=member.site.name,
        state=member.state,
        state_age_us=max(0, now - member.changed_us),
        addresses=addresses,
        generation=d.generation if d else None,
        serial=d.serial if d else None,
        size_class=d.size_class if d else None,
        outbound_only=d.outbound_only if d else False,
        software=d.software if d else "",
        linked=member.linked,
        degraded=member.degraded,
        rtt_us=member.rtt_us or None,
        last_rtt_us=member.last_rtt_us or None,
    )


def roster_without(roster: Mapping[SiteKey, RosterSite], own: SiteKey) -> list[RosterSite]:
    """The other sites in key order, so that nothing depends on how the roster was written."""
    return [roster[key] for key in sorted(roster) if key != own]


def suspicion_duration_us(confirmations: int, wanted: int, shortest_us: Micros, longest_us: Micros) -> Micros:
    """max - (max - min) * ln(n + 1) / ln(k + 1), never under min; min at once when no confirmation is wanted."""
    if wanted == 0:
        return shortest_us
    # Millionths, so that the last bit of libm's logarithm cannot change a trace.
    fraction = round(1_000_000 * math.log(confirmations + 1) / math.log(wanted + 1))
    return max(shortest_us, longest_us - (longest_us - shortest_us) * fraction // 1_000_000)


class Suspicion:
    """One suspicion. Accusers count once each, and only `wanted` of them beyond the first.

    It is kept after its subject was held dead (`finished`), because it still has to be answered to the subject.
    """

    __slots__ = ("_accusers", "_longest_us", "_shortest_us", "_wanted", "finished", "started_us")

    def __init__(self, accuser: bytes, wanted: int, shortest_us: Micros, longest_us: Micros, now: Micros) -> None:
        self._accusers = {accuser: None}
        self._wanted = wanted
        self._shortest_us = shortest_us
        self._longest_us = longest_us
        self.started_us = now
        self.finished = False

    @property
    def first_accuser(self) -> bytes:
        return next(iter(self._accusers))

    @property
    def accusers(self) -> tuple[bytes, ...]:
        """Everybody counted, first accuser first."""
        return tuple(self._accusers)

    @property
    def confirmations(self) -> int:
        return len(self._accusers) - 1

    @property
    def settled(self) -> bool:
        """Whether further accusers change nothing."""
        return self.confirmations >= self._wanted

    @property
    def deadline_us(self) -> Micros:
        """When the subject is held dead. May lie in the past right after a confirmation."""
        return self.started_us + suspicion_duration_us(
            self.confirmations, self._wanted, self._shortest_us, self._longest_us
        )

    def confirm(self, accuser: bytes) -> bool:
        """Count an accuser; False when it is not new or no more are wanted."""
        if self.settled or accuser in self._accusers:
            return False
        self._accusers[accuser] = None
        return True

    def postpone(self, gap_us: Micros) -> None:
        """We were suspended for `gap_us`: the subject had no chance to refute in that time."""
        self.started_us += gap_us
