"""Entries that are news here, told by number until the others have had their chance to hear of them.

Lazy push: every holder tells `fanout` random sites per round which new entries it has; a site asks for what it lacks.
Numbers cost a few bytes, so telling too often is cheap, and each body still moves once. Rumour mongering after Demers
et al. (1987); ids before bodies as in Plumtree (Leitao et al., 2007).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.sync.messages import EntryId
from kmel_p2p.core.types import Micros, Randomness

EXTRA_ROUNDS = 2
"""Rounds told beyond log2 of the federation's size."""

MAX_HOT = 1024
"""Announcements kept at once; the periodic summaries carry what is dropped."""


@dataclass(slots=True)
class PendingAnnouncement:
    """One entry, and whom it need not be told."""

    rounds_left: int
    knowing: set[SiteKey] = field(default_factory=set)


class LazyPush:
    """What to tell, and whom."""

    def __init__(self, fanout: int, period: Micros) -> None:
        self._fanout = fanout
        self._period = period
        self._news: dict[EntryId, PendingAnnouncement] = {}
        self._next_round: Micros | None = None

    def add(self, item: EntryId, sites: int, now: Micros) -> None:
        """An entry is news for `sites` others."""
        if len(self._news) >= MAX_HOT:
            del self._news[next(iter(self._news))]
        self._news[item] = PendingAnnouncement(sites.bit_length() + EXTRA_ROUNDS)
        if self._next_round is None:
            self._next_round = now

    def knows(self, item: EntryId, site: SiteKey) -> None:
        """`site` has this entry."""
        news = self._news.get(item)
        if news is not None:
            news.knowing.add(site)

    def deadline(self) -> Micros | None:
        """When the next round of telling is due."""
        return self._next_round

    def round(self, alive: list[SiteKey], now: Micros, rng: Randomness) -> list[tuple[SiteKey, tuple[EntryId, ...]]]:
        """Whom to tell what, if a round is due. `alive` is sorted, so that a seed replays a run."""
        if self._next_round is None or now < self._next_round:
            return []
        ignorant = [key for key in alive if any(key not in news.knowing for news in self._news.values())]
        told = [(key, self._told(key)) for key in rng.sample(ignorant, min(self._fanout, len(ignorant)))]
        for news in self._news.values():
            news.rounds_left -= 1
        self._news = {item: news for item, news in self._news.items() if news.rounds_left > 0}
        self._next_round = now + self._period if self._news else None
        return told

    def _told(self, key: SiteKey) -> tuple[EntryId, ...]:
        return tuple(item for item, news in self._news.items() if key not in news.knowing)
