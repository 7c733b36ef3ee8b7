"""Which facts still have to be told to others, and which of them fit into the next message.

Two queues, membership facts (one per site) and application facts (one per topic), each bounded by the number of its
subjects: a newer fact replaces the older one. Every fact is sent a limited number of times, least-sent first and
newest first among equals. Each queue has its own byte allowance, so neither starves the other.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from kmel_p2p.core.errors import LocalError
from kmel_p2p.core.membership.allowance import Allowance
from kmel_p2p.core.membership.messages import MAX_NEWS_BYTES, MAX_TOPIC_BYTES, Fact, News
from kmel_p2p.core.membership.settings import FRAME_OVERHEAD_BYTES, MembershipSettings
from kmel_p2p.core.membership.sizes import PING_BASE_BYTES, fact_size, news_size
from kmel_p2p.core.types import SECOND, Micros

T = TypeVar("T")

MAX_TOPICS = 8192
"""Twice the sites a charter may list; beyond it the most-sent topic is given up first."""

MIN_FACT_BYTES = 8
"""Nothing smaller exists, so a message with less room than this is full."""
MAX_EXAMINED = 64
"""Facts looked at per message: bounds the work when many large ones do not fit."""

HEARD_ENOUGH = 4
"""A fact heard this often from others is not worth telling any more; full sync reaches the rest."""


class FactQueue(Generic[T]):
    """Facts by subject, ordered by how often they were sent."""

    __slots__ = ("_births", "_levels", "_sizes", "subjects")

    def __init__(self) -> None:
        self._levels: list[dict[bytes, T]] = []
        self.subjects: dict[bytes, int] = {}
        """Subject -> how often its fact was sent."""
        self._sizes: dict[bytes, int] = {}
        self._births: dict[bytes, Micros] = {}

    def __len__(self) -> int:
        return len(self.subjects)

    def put(self, subject: bytes, fact: T, size_bytes: int, now: Micros) -> None:
        """Queue `fact` as not sent yet, in place of any older one about `subject`."""
        self.discard(subject)
        if not self._levels:
            self._levels.append({})
        self._levels[0][subject] = fact
        self.subjects[subject] = 0
        self._sizes[subject] = size_bytes
        self._births[subject] = now

    def discard(self, subject: bytes) -> None:
        """Stop telling about `subject`."""
        level = self.subjects.pop(subject, None)
        if level is not None:
            del self._levels[level][subject]
            del self._sizes[subject]
            del self._births[subject]

    def heard(self, subject: bytes, fact: T, limit: int) -> None:
        """Somebody told us what we are telling: count it as a quarter of all transmissions.

        Feedback of this kind (Demers et al., PODC 1987) stops a rumour once nearly everybody knows it.
        """
        level = self.subjects.get(subject)
        if level is not None and self._levels[level][subject] == fact:
            self._move(subject, level, level + max(1, limit // HEARD_ENOUGH), limit)

    def drop_most_sent(self) -> None:
        """Give up the fact that was sent most often."""
        for facts in reversed(self._levels):
            if facts:
                self.discard(next(iter(facts)))
                return

    def smallest_next(self) -> int:
        """Size of the fact that is sent next; 0 when the queue is empty."""
        for facts in self._levels:
            if facts:
                return self._sizes[next(reversed(facts))]
        return 0

    def take(
        self, budget_bytes: int, most: int, limit: int, born_after: Micros = 0, at_least_one: int = 0
    ) -> tuple[list[T], int]:
        """Facts for one message, each counted as sent once more.

        Args:
            budget_bytes: bytes to fill.
            most: number of facts at most.
            limit: transmissions after which a fact is done.
            born_after: older facts are given up.
            at_least_one: the first fact may use this many bytes even if the budget is smaller.

        Returns:
            the facts and their bytes together.
        """
        chosen: list[tuple[bytes, int]] = []
        expired: list[bytes] = []
        facts: list[T] = []
        used = examined = 0
        for level, queue in enumerate(self._levels):
            for subject in reversed(queue):
                if self._births[subject] < born_after:
                    expired.append(subject)
                    continue
                size = self._sizes[subject]
                room = budget_bytes - used if facts else max(budget_bytes, at_least_one)
                if size <= room:
                    chosen.append((subject, level))
                    facts.append(queue[subject])
                    used += size
                examined += 1
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

    def _move(self, subject: bytes, level: int, new: int, limit: int) -> None:
        if new >= limit:
            self.discard(subject)
            return
        while len(self._levels) <= new:
            self._levels.append({})
        self._levels[new][subject] = self._levels[level].pop(subject)
        self.subjects[subject] = new


class Spread:
    """Both queues and their allowances."""

    __slots__ = ("_fact_allowance", "_news_allowance", "_settings", "facts", "news", "patience_us")

    def __init__(self, settings: MembershipSettings, now: Micros) -> None:
        self._settings = settings
        self.patience_us: Micros = settings.sync_interval_us
        """A fact older than this is left to full sync, so that traffic returns to idle after any upheaval."""
        self.facts: FactQueue[Fact] = FactQueue()
        self.news: FactQueue[News] = FactQueue()
        self._fact_allowance = Allowance(
            settings.fact_rate_bytes, settings.probe_interval_us, settings.fact_burst_bytes, now
        )
        self._news_allowance = Allowance(settings.news_rate_bytes, SECOND, settings.news_burst_bytes, now)

    def __bool__(self) -> bool:
        return bool(self.facts.subjects or self.news.subjects)

    def put(self, subject: bytes, fact: Fact, now: Micros) -> None:
        """Queue a membership fact."""
        self.facts.put(subject, fact, fact_size(fact), now)

    def announce(self, topic: bytes, body: bytes, now: Micros) -> None:
        """Queue an application fact.

        Raises:
            LocalError: topic or body is too large for a fact.
        """
        if not 1 <= len(topic) <= MAX_TOPIC_BYTES:
            raise LocalError(f"a topic has 1 to {MAX_TOPIC_BYTES} bytes, not {len(topic)}")
        if len(body) > MAX_NEWS_BYTES:
            raise LocalError(
                f"an application fact has at most {MAX_NEWS_BYTES} bytes, not {len(body)}; "
                "announce its hash and serve the rest on the bulk lane"
            )
        news = News(topic, body)
        self.news.put(topic, news, news_size(news), now)
        if len(self.news) > MAX_TOPICS:
            self.news.drop_most_sent()

    def piggyback(self, first: tuple[Fact, ...], limit: int, now: Micros) -> tuple[tuple[Fact, ...], tuple[News, ...]]:
        """Cargo of a probe message: `first` in any case, then what the budgets allow."""
        if not first and not self:
            return (), ()
        room = self._settings.message_budget_bytes - PING_BASE_BYTES - sum(map(fact_size, first))
        share = min(room, self._settings.piggyback_bytes)
        facts, used = self.facts.take(share, 16, limit, now - self.patience_us, room // 2)
        news = self._news(room - used, limit, now)
        return (*first, *facts), news

    def gossip(self, limit: int, now: Micros) -> tuple[tuple[Fact, ...], tuple[News, ...]]:
        """Cargo of one gossip message; empty when nothing is queued or allowed."""
        room = self._settings.message_budget_bytes - PING_BASE_BYTES
        facts: list[Fact] = []
        used = 0
        if self.facts.subjects and self._fact_allowance.available(now) > 0:
            oldest = now - self.patience_us
            facts, used = self.facts.take(self._settings.piggyback_bytes, 16, limit, oldest, room // 2)
            if not facts:
                return (), self._news(room, limit, now)
            self._fact_allowance.spend(used + FRAME_OVERHEAD_BYTES + PING_BASE_BYTES // 2, now)
        return tuple(facts), self._news(room - used, limit, now)

    def _news(self, room: int, limit: int, now: Micros) -> tuple[News, ...]:
        if not self.news.subjects:
            return ()
        room = min(room, self._news_allowance.available(now))
        if room <= 0:
            return ()
        # Membership facts missed by gossip come with the next full sync; application facts have only this way.
        news, used = self.news.take(room, 16, 2 * limit)
        self._news_allowance.spend(used + FRAME_OVERHEAD_BYTES, now)
        return tuple(news)

    def ready_at(self, now: Micros) -> Micros:
        """When the allowances let the next gossip message carry something."""
        times = [now] if not self else []
        if self.facts.subjects:
            times.append(self._fact_allowance.ready_at(1, now))
        if self.news.subjects:
            times.append(self._news_allowance.ready_at(self.news.smallest_next(), now))
        return min(times)
