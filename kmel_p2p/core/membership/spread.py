"""Which facts still have to be told to others, and which of them fit into the next message.

Two queues: descriptors (arrivals, refutations, departures) and accusations, together at most one fact per site: a
newer fact replaces the older one about its subject. Each queue has its own byte allowance, so that a storm of
accusations cannot hold a refutation back.
"""

from __future__ import annotations

from typing import NamedTuple

from kmel_p2p.core.membership.allowance import Allowance
from kmel_p2p.core.membership.descriptor import Descriptor
from kmel_p2p.core.membership.fact_queue import FactQueue
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


class Spread:
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
        self._accusation_allowance = Allowance(
            settings.accusation_rate_bytes, interval, settings.accusation_burst_bytes, now
        )
        self._descriptor_allowance = Allowance(
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
