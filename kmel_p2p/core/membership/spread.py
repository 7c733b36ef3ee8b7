"""Which facts still have to be told to others, and which of them fit into the next message.

Three queues: descriptors (arrivals, refutations, departures) and accusations, together at most one per site, and
application facts, one per topic. A newer fact replaces the older one about its subject, so the queues are bounded by
their subjects. Each queue has its own byte allowance: a storm of accusations can neither hold a refutation back nor
starve the application.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.membership.allowance import Allowance
from kmel_p2p.core.membership.descriptor import Descriptor
from kmel_p2p.core.membership.fact_queue import FactQueue
from kmel_p2p.core.membership.messages import MAX_NEWS_BYTES, MAX_TOPIC_BYTES, Fact, News
from kmel_p2p.core.membership.settings import FRAME_OVERHEAD_BYTES, MembershipSettings
from kmel_p2p.core.membership.sizes import PING_BASE_BYTES, fact_size, news_size
from kmel_p2p.core.types import SECOND, Micros

MAX_TOPICS = 8192
"""Twice the sites a charter may list; beyond it the most-sent topic is given up first."""
MOST_FACTS = 16
"""Facts of one kind in one message: keeps array headers at one byte."""
GOSSIP_OVERHEAD_BYTES = FRAME_OVERHEAD_BYTES + 16


Cargo: TypeAlias = tuple[tuple[Fact, ...], tuple[News, ...]]


class Receiver(NamedTuple):
    """For whom a message is filled."""

    handle: bytes
    members: int
    """Receivers there are at present."""
    limit: int
    """Transmissions per fact at present."""


class Spread:
    """All queues and their allowances."""

    __slots__ = (
        "_accusation_allowance",
        "_descriptor_allowance",
        "_news_allowance",
        "_settings",
        "accusations",
        "descriptors",
        "news",
        "patience_us",
    )  # fmt: skip

    def __init__(self, settings: MembershipSettings, now: Micros) -> None:
        self._settings = settings
        self.patience_us: Micros = settings.sync_interval_us
        """A fact older than this is left to full sync, so that traffic returns to idle after any upheaval."""
        self.descriptors: FactQueue[Fact] = FactQueue()
        self.accusations: FactQueue[Fact] = FactQueue()
        self.news: FactQueue[News] = FactQueue()
        interval = settings.probe_interval_us
        self._accusation_allowance = Allowance(
            settings.accusation_rate_bytes, interval, settings.accusation_burst_bytes, now
        )
        self._descriptor_allowance = Allowance(
            settings.descriptor_rate_bytes, interval, settings.descriptor_burst_bytes, now
        )
        self._news_allowance = Allowance(settings.news_rate_bytes, SECOND, settings.news_burst_bytes, now)

    def __bool__(self) -> bool:
        return bool(self.accusations.subjects or self.descriptors.subjects or self.news.subjects)

    @property
    def membership_facts(self) -> int:
        """Sites about which something waits to be told."""
        return len(self.accusations) + len(self.descriptors)

    def put(self, subject: bytes, fact: Fact, now: Micros, sent: int = 0, teller: bytes | None = None) -> None:
        """Queue a membership fact, as if sent `sent` times, in place of any older one about its subject."""
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

    def piggyback(self, to: Receiver, first: tuple[Fact, ...], now: Micros) -> Cargo:
        """Cargo of a probe message: `first` in any case, then what the budgets allow."""
        if not first and not self:
            return (), ()
        room = self._settings.message_budget_bytes - PING_BASE_BYTES - sum(map(fact_size, first))
        facts, used = self._membership(to, min(room, self._settings.piggyback_bytes), room, now, True, True)
        return (*first, *facts), self._news(to, room - used, now)

    def gossip(self, to: Receiver, now: Micros) -> Cargo:
        """Cargo of one gossip message; empty when nothing is queued for this receiver or allowed."""
        room = self._settings.message_budget_bytes - PING_BASE_BYTES
        urgent = bool(self.descriptors.subjects) and self._descriptor_allowance.available(now) > 0
        usual = bool(self.accusations.subjects) and self._accusation_allowance.available(now) > 0
        facts, used = self._membership(to, self._settings.piggyback_bytes, room, now, urgent, usual)
        if facts:
            signed = isinstance(facts[0], Descriptor)
            spent = self._descriptor_allowance if signed else self._accusation_allowance
            spent.spend(used + GOSSIP_OVERHEAD_BYTES, now)
        return tuple(facts), self._news(to, room - used, now)

    def _membership(
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

    def _news(self, to: Receiver, room: int, now: Micros) -> tuple[News, ...]:
        if not self.news.subjects:
            return ()
        room = min(room, self._news_allowance.available(now))
        if room <= 0:
            return ()
        # Membership facts missed by gossip come with the next full sync; application facts have only this way.
        news, used = self.news.take(to.handle, to.members, room, MOST_FACTS - 1, 2 * to.limit)
        if news:
            self._news_allowance.spend(used + FRAME_OVERHEAD_BYTES, now)
        return tuple(news)

    def ready_at(self, now: Micros) -> Micros:
        """When the allowances let the next gossip message carry something."""
        times = [now] if not self else []
        if self.accusations.subjects:
            times.append(self._accusation_allowance.ready_at(1, now))
        if self.descriptors.subjects:
            times.append(self._descriptor_allowance.ready_at(1, now))
        if self.news.subjects:
            times.append(self._news_allowance.ready_at(self.news.smallest_next(), now))
        return min(times)
