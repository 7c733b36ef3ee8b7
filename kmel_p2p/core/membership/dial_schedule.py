"""Keeps trying to reach every roster site, for ever, without the whole federation doing so at once.

A site that never answered or just broke off is dialled with doubling back-off. After that, and for dead members, each
interval one member of the federation is on duty for it (the first live key after its own on the ring of keys), and
every other member tries with probability 1 / (members alive): about two attempts per interval in total, and never
none. This is serf's throttle with a guarantee added. A dead member that is still linked is pinged instead.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.members import COUNTED, Member, MemberState
from kmel_p2p.core.membership.prober import Prober
from kmel_p2p.core.membership.transitions import Transitions
from kmel_p2p.core.types import MILLISECOND, Micros

FAST_ATTEMPTS = 6
"""Doublings before the federation-wide throttle takes over."""
FIRST_DIAL_SPACING_US = 50 * MILLISECOND
"""First dials of a large roster are spread out, one per this time, to spare accept queues and handshakes."""


class DialSchedule:
    """Roster sites to reach, each with its next attempt."""

    __slots__ = ("_attempts", "_context", "_due", "_order", "_prober", "_transitions", "_when")

    def __init__(self, context: Context, transitions: Transitions, prober: Prober) -> None:
        self._context = context
        self._transitions = transitions
        self._prober = prober
        self._attempts: dict[SiteKey, int] = {}
        self._when: dict[SiteKey, Micros] = {}
        self._due: list[tuple[Micros, int, Member]] = []
        self._order = 0

    @property
    def deadline(self) -> Micros | None:
        """The next attempt."""
        while self._due and self._when.get(self._due[0][2].key) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def first(self, member: Member) -> None:
        """A site entered the roster."""
        settings = self._context.settings
        window = max(settings.dial_first_us // 4, FIRST_DIAL_SPACING_US * len(self._context.table))
        self._schedule(member, self._context.rng.randrange(window))

    def consider(self, member: Member) -> None:
        """Something changed: keep exactly those scheduled that need reaching."""
        if not self._needed(member):
            self._when.pop(member.key, None)
            if member.linked and member.state in COUNTED:
                self._attempts.pop(member.key, None)
        elif member.key not in self._when:
            self._schedule(member, self._delay(member))

    def forget(self, member: Member) -> None:
        """The site left the roster."""
        self._when.pop(member.key, None)
        self._attempts.pop(member.key, None)

    def hurry(self, member: Member) -> None:
        """It spoke, or moved: the back-off of earlier attempts says nothing about the next one."""
        if self._needed(member):
            self._attempts.pop(member.key, None)
            self._schedule(member, self._context.rng.randrange(self._context.settings.dial_first_us // 4))

    def advance(self) -> None:
        """Make the attempts that are due."""
        now = self._context.now
        while self._due and self._due[0][0] <= now:
            when, _, member = heapq.heappop(self._due)
            if self._when.get(member.key) != when:
                continue
            del self._when[member.key]
            if self._needed(member):
                self._attempt(member)
                self._schedule(member, self._delay(member))

    def postpone(self) -> None:
        """We were suspended: the back-off starts over, since the world may have changed."""
        self._attempts.clear()

    def _needed(self, member: Member) -> bool:
        if self._context.left or member.state is MemberState.LEFT:
            return False
        return not member.linked or member.state not in COUNTED

    def _delay(self, member: Member) -> Micros:
        settings = self._context.settings
        attempts = self._attempts.get(member.key, 0)
        base = settings.reconnect_interval_us
        if attempts < FAST_ATTEMPTS:
            base = min(base, settings.dial_first_us << attempts)
        # 0.75 to 1 of the base: never later than promised, never in step with others.
        return base - self._context.rng.randrange(max(1, base // 4))

    def _schedule(self, member: Member, delay_us: Micros) -> None:
        when = self._context.now + delay_us
        self._order += 1
        self._when[member.key] = when
        heapq.heappush(self._due, (when, self._order, member))

    def _attempt(self, member: Member) -> None:
        attempts = self._attempts.get(member.key, 0)
        self._attempts[member.key] = attempts + 1
        missing = member.state not in COUNTED  # a broken link to a live member is ours alone to mend
        throttled = attempts >= FAST_ATTEMPTS or member.state is MemberState.DEAD
        if missing and throttled and not self._our_turn(member):
            return
        if member.linked:
            self._prober.contact(member)
            return
        addresses = self._transitions.addresses(member)
        if addresses:
            self._context.counters.dials += 1
            self._context.dial(member.key, addresses)

    def _our_turn(self, member: Member) -> bool:
        context = self._context
        members = context.table.alive_count + 1
        if context.rng.randrange(members) == 0:
            return True
        alive = context.table.alive
        if not alive:
            return True
        successor = alive[bisect_right(alive, member.key) % len(alive)]
        # Going round the ring of keys from the member, do we come before the first other live site?
        return _ring(context.key, member.key) < _ring(successor, member.key)


def _ring(key: SiteKey, start: SiteKey) -> tuple[bool, SiteKey]:
    return (key <= start, key)
