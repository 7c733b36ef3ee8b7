"""Which facts still have to be told to others, and which of them fit into the next message.

Two queues: descriptors (arrivals, refutations, departures) and accusations, together at most one fact per site: a
newer fact replaces the older one about its subject. Each queue has its own byte allowance, so that a storm of
accusations cannot hold a refutation back.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from kmel_p2p.core.membership.descriptor import Descriptor
from kmel_p2p.core.membership.messages import Fact
from kmel_p2p.core.membership.settings import FRAME_OVERHEAD_BYTES, MembershipSettings
from kmel_p2p.core.membership.sizes import PING_BASE_BYTES, fact_size
from kmel_p2p.core.types import Micros

MOST_FACTS = 16
"""Facts of one kind in one message: keeps array headers at one byte."""
GOSSIP_OVERHEAD_BYTES = FRAME_OVERHEAD_BYTES + 16


class Receiver(NamedTuple):
    """For whom a message is filled."""

    handle: bytes
    members: int
    """Receivers there are at present."""
    limit: int
    """Transmissions per fact at present."""


class FactQueues:
    """All queues and their allowances."""

    __slots__ = (
        "_accusation_allowance", "_descriptor_allowance", "_settings", "accusations", "descriptors", "patience_us",
    )  # fmt: skip

    def __init__(self, settings: MembershipSettings, now: Micros) -> None:
        self._settings = settings
        self.patience_us: Micros = settings.sync_interval_us
        """A fact older than this is left to full sync, so that traffic returns to idle after any upheaval."""
        self.descriptors: FactQueue[Fact] = FactQueue()
        self.accusations: FactQueue[Fact] = FactQueue()
        interval = settings.probe_interval_us
        self._accusation_allowance = TokenBucket(
            settings.accusation_rate_bytes, interval, settings.accusation_burst_bytes, now
        )
        self._descriptor_allowance = TokenBucket(
            settings.descriptor_rate_bytes, interval, settings.descriptor_burst_bytes, now
        )

    def __bool__(self) -> bool:
        return bool(self.accusations.subjects or self.descriptors.subjects)

    def __len__(self) -> int:
        return len(self.accusations) + len(self.descriptors)

    def put(self, subject: bytes, fact: Fact, now: Micros, sent: int = 0, teller: bytes | None = None) -> None:
        """Queue a fact, as if sent `sent` times, in place of any older one about its subject."""
        signed = isinstance(fact, Descriptor)
        chosen, other = (self.descriptors, self.accusations) if signed else (self.accusations, self.descriptors)
        other.discard(subject)
        chosen.put(subject, fact, fact_size(fact), now, sent, teller)

    def heard(self, subject: bytes, fact: Fact, limit: int, teller: bytes) -> None:
        """`teller` told us this fact."""
        self.accusations.heard(subject, fact, limit, teller)
        self.descriptors.heard(subject, fact, limit, teller)

    def discard(self, subject: bytes) -> None:
        """Stop telling about a site."""
        self.accusations.discard(subject)
        self.descriptors.discard(subject)

    def piggyback(self, to: Receiver, first: tuple[Fact, ...], now: Micros) -> tuple[Fact, ...]:
        """Facts for a probe message: `first` in any case, then what the budgets allow."""
        if not first and not self:
            return ()
        room = self._settings.message_budget_bytes - PING_BASE_BYTES - sum(map(fact_size, first))
        facts, _ = self._take(to, min(room, self._settings.piggyback_bytes), room, now, True, True)
        return (*first, *facts)

    def gossip(self, to: Receiver, now: Micros) -> tuple[Fact, ...]:
        """Facts for one gossip message; empty when nothing is queued for this receiver or allowed."""
        room = self._settings.message_budget_bytes - PING_BASE_BYTES
        urgent = bool(self.descriptors.subjects) and self._descriptor_allowance.available(now) > 0
        usual = bool(self.accusations.subjects) and self._accusation_allowance.available(now) > 0
        facts, used = self._take(to, self._settings.piggyback_bytes, room, now, urgent, usual)
        if facts:
            signed = isinstance(facts[0], Descriptor)
            spent = self._descriptor_allowance if signed else self._accusation_allowance
            spent.spend(used + GOSSIP_OVERHEAD_BYTES, now)
        return tuple(facts)

    def _take(
        self, to: Receiver, share: int, room: int, now: Micros, urgent: bool, usual: bool
    ) -> tuple[list[Fact], int]:
        """Descriptors first, then accusations, within `share` bytes; one larger fact may take half the room."""
        oldest = now - self.patience_us
        facts: list[Fact] = []
        used = 0
        if urgent:
            facts, used = self.descriptors.take(to.handle, to.members, share, MOST_FACTS, to.limit, oldest, room // 2)
        if usual and used < share:
            large = 0 if facts else room // 2
            more, size = self.accusations.take(
                to.handle, to.members, share - used, MOST_FACTS - len(facts), to.limit, oldest, large
            )
            facts += more
            used += size
        return facts, used

    def ready_at(self, now: Micros) -> Micros:
        """When the allowances let the next gossip message carry something."""
        times = [now] if not self else []
        if self.accusations.subjects:
            times.append(self._accusation_allowance.ready_at(1, now))
        if self.descriptors.subjects:
            times.append(self._descriptor_allowance.ready_at(1, now))
        return min(times)


T = TypeVar("T")

MIN_FACT_BYTES = 8
"""Nothing smaller exists, so a message with less room than this is full."""
MAX_EXAMINED = 64
"""Facts looked at per message: bounds the work when many large ones do not fit."""
HEARD_ENOUGH = 4
"""A fact heard this often from others is nearly done with ..."""
OWN_SHARE = 4
"""... but everybody sends it this often, or a rumour that runs fast would stop before it reached the last."""


class _Item(Generic[T]):
    """One fact on its way."""

    __slots__ = ("born_us", "fact", "known_to", "size_bytes")

    def __init__(self, fact: T, size_bytes: int, now: Micros) -> None:
        self.fact = fact
        self.size_bytes = size_bytes
        self.born_us = now
        self.known_to: set[bytes] = set()
        """Members it was sent to or heard from. Only asked, never iterated: a set's order must not matter."""


class FactQueue(Generic[T]):
    """Facts by subject, ordered by how often they were sent."""

    __slots__ = ("_levels", "subjects")

    def __init__(self) -> None:
        self._levels: list[dict[bytes, _Item[T]]] = []
        self.subjects: dict[bytes, int] = {}
        """Subject -> how often its fact was sent."""

    def __len__(self) -> int:
        return len(self.subjects)

    def put(
        self, subject: bytes, fact: T, size_bytes: int, now: Micros, sent: int = 0, teller: bytes | None = None
    ) -> None:
        """Queue `fact` as sent `sent` times already, in place of any older one about `subject`."""
        self.discard(subject)
        item = _Item(fact, size_bytes, now)
        if teller is not None:
            item.known_to.add(teller)
        self._at(sent)[subject] = item
        self.subjects[subject] = sent

    def _at(self, level: int) -> dict[bytes, _Item[T]]:
        while len(self._levels) <= level:
            self._levels.append({})
        return self._levels[level]

    def discard(self, subject: bytes) -> None:
        """Stop telling about `subject`."""
        level = self.subjects.pop(subject, None)
        if level is not None:
            del self._levels[level][subject]

    def heard(self, subject: bytes, fact: T, limit: int, teller: bytes) -> None:
        """`teller` told us what we are telling: it need not hear it, and a quarter of our transmissions are done.

        Feedback of this kind (Demers et al., PODC 1987) stops a rumour once nearly everybody knows it.
        """
        level = self.subjects.get(subject)
        if level is None:
            return
        item = self._levels[level][subject]
        if item.fact == fact:
            item.known_to.add(teller)
            new = min(level + max(1, limit // HEARD_ENOUGH), max(level, limit - OWN_SHARE))
            self._move(subject, level, new, limit)

    def take(
        self,
        target: bytes,
        members: int,
        budget_bytes: int,
        most: int,
        limit: int,
        born_after_us: Micros = 0,
        at_least_one: int = 0,
    ) -> tuple[list[T], int]:
        """Facts for one message to `target`, each counted as sent once more.

        Args:
            target: handle of the receiver. What it is about, or is known to it, is left out.
            members: receivers there are. When all of them know a fact, the round begins anew.
            budget_bytes: bytes to fill.
            most: number of facts at most.
            limit: transmissions after which a fact is done.
            born_after_us: older facts are given up.
            at_least_one: the first fact may use this many bytes even if the budget is smaller.

        Returns:
            the facts and their bytes together.
        """
        chosen: list[tuple[bytes, int]] = []
        expired: list[bytes] = []
        facts: list[T] = []
        used = examined = 0
        for level, items in enumerate(self._levels):
            for subject in reversed(items):
                item = items[subject]
                if item.born_us < born_after_us:
                    expired.append(subject)
                    continue
                examined += 1
                room = budget_bytes - used if facts else max(budget_bytes, at_least_one)
                if item.size_bytes <= room and self._is_news_to(target, subject, item, members):
                    item.known_to.add(target)
                    chosen.append((subject, level))
                    facts.append(item.fact)
                    used += item.size_bytes
                full = facts and used + MIN_FACT_BYTES > budget_bytes
                if full or len(facts) >= most or examined >= MAX_EXAMINED:
                    break
            else:
                continue
            break
        for subject in expired:
            self.discard(subject)
        for subject, level in reversed(chosen):
            self._move(subject, level, level + 1, limit)
        return facts, used

    @staticmethod
    def _is_news_to(target: bytes, subject: bytes, item: _Item[T], members: int) -> bool:
        if subject == target:
            return False
        if target not in item.known_to:
            return True
        if len(item.known_to) < members:
            return False
        item.known_to.clear()
        return True

    def _move(self, subject: bytes, level: int, new: int, limit: int) -> None:
        if new >= limit:
            self.discard(subject)
        elif new != level:
            self._at(new)[subject] = self._levels[level].pop(subject)
            self.subjects[subject] = new


class TokenBucket:
    """`burst` units at once, refilled by `rate` units per `period_us`."""

    __slots__ = ("_burst", "_level", "_period_us", "_rate", "_updated_us")

    def __init__(self, rate: int, period_us: Micros, burst: int, now: Micros) -> None:
        self._rate = rate
        self._period_us = period_us
        self._burst = burst * period_us  # the level is kept in units * period_us, so nothing is rounded
        self._level = self._burst
        self._updated_us = now

    def _refill(self, now: Micros) -> None:
        if now > self._updated_us:
            self._level = min(self._burst, self._level + (now - self._updated_us) * self._rate)
            self._updated_us = now

    def available(self, now: Micros) -> int:
        """Whole units that may be spent now; negative while in debt."""
        self._refill(now)
        return self._level // self._period_us

    def spend(self, units: int, now: Micros) -> None:
        """Take units; may go into debt, so that one large item is never stuck."""
        self._refill(now)
        self._level -= units * self._period_us

    def ready_at(self, units: int, now: Micros) -> Micros:
        """When `units` (or the whole burst, if that is less) will be available."""
        self._refill(now)
        missing = min(units * self._period_us, self._burst) - self._level
        return now if missing <= 0 else now + -(-missing // self._rate)
