"""What was asked of whom, how long an answer may take, and who else has it.

So that every body moves once: an entry is asked of one site at a time, and of another only when the first had its time.
The time allowed follows the answers seen (RFC 6298: smoothed time plus four deviations, later doubled),
because a body of hundreds of kilobytes takes as long as the link makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.sync.messages import EntryId
from kmel_p2p.core.types import Micros, Randomness

MAX_ASKED = 4096
"""Entries asked for at once; what comes on top is noticed again by the periodic summaries."""

MAX_HOLDERS = 8
"""Sites remembered as having one asked entry."""

PATIENT_FROM = 8
"""Tries after which the time allowed doubles with each further one: by then it was not a single lost message."""

MAX_TRIES = 16
"""Times asked for one entry before it is given up, until somebody tells of it again."""


@dataclass(slots=True)
class OpenRequest:
    """One entry that was asked for and is not here yet."""

    due: Micros
    asked: dict[SiteKey, Micros]
    """When each site was asked, latest last."""
    tries: int = 1
    holders: list[SiteKey] = field(default_factory=list)
    """Others that have it."""


class ResponseTime:
    """How long an answer may take, microseconds, between a floor and a ceiling."""

    def __init__(self, floor: Micros, ceiling: Micros) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._smoothed: Micros | None = None
        self._deviation: Micros = 0
        self._guess: Micros = 3 * floor

    def allowed(self, tries: int) -> Micros:
        """The time allowed for try number `tries` (from 1). Before there was any answer, a guess."""
        base = self._guess if self._smoothed is None else self._smoothed + 4 * self._deviation
        return min(self._ceiling, max(self._floor, base) << max(0, tries - PATIENT_FROM))

    def answered(self, took: Micros) -> None:
        """A site answered after `took`."""
        if self._smoothed is None:
            self._smoothed, self._deviation = took, took // 2
        else:
            self._deviation += (abs(took - self._smoothed) - self._deviation) // 4
            self._smoothed += (took - self._smoothed) // 8

    def silent(self) -> None:
        """Something was not answered in time. A guess that was too short must not multiply slow bodies."""
        self._guess = min(self._ceiling, 8 * self._floor, self._guess + self._floor)


class OpenRequests:
    """The table of open asks. Knows nothing of ledgers or messages."""

    def __init__(self, floor: Micros, ceiling: Micros) -> None:
        self.patience = ResponseTime(floor, ceiling)
        self._asks: dict[EntryId, OpenRequest] = {}
        self._next_due: Micros | None = None

    def __contains__(self, item: EntryId) -> bool:
        return item in self._asks

    @property
    def full(self) -> bool:
        """Whether nothing more may be asked for now."""
        return len(self._asks) >= MAX_ASKED

    def ask(self, item: EntryId, site: SiteKey, now: Micros) -> None:
        """Note that `site` is being asked for `item`, for the first time or anew."""
        ask = self._asks.get(item)
        if ask is None:
            ask = self._asks[item] = OpenRequest(0, {})
        else:
            ask.tries += 1
        ask.asked.pop(site, None)
        ask.asked[site] = now
        ask.due = now + self.patience.allowed(ask.tries)
        self._next_due = ask.due if self._next_due is None else min(self._next_due, ask.due)

    def also_has(self, item: EntryId, site: SiteKey) -> None:
        """`site` has an entry that was asked of another."""
        ask = self._asks.get(item)
        if ask is not None and site not in ask.asked and site not in ask.holders and len(ask.holders) < MAX_HOLDERS:
            ask.holders.append(site)

    def arrived(self, item: EntryId, sender: SiteKey, now: Micros) -> None:
        """The entry is here."""
        ask = self._asks.pop(item, None)
        if ask is not None and sender in ask.asked:
            self.patience.answered(now - ask.asked[sender])

    def forget(self, site: SiteKey) -> None:
        """A site went away: what was asked of it last is due at once."""
        for ask in self._asks.values():
            if site in ask.holders:
                ask.holders.remove(site)
            if site in ask.asked:
                if site == _latest(ask):
                    ask.due = self._next_due = 0
                del ask.asked[site]

    def overdue(self, now: Micros, rng: Randomness) -> list[tuple[EntryId, SiteKey | None]]:
        """Entries whose time is over, each with a site to ask next, or None when it is time to give up.

        Each is asked anew by `ask`, or leaves the table by `give_up`.
        """
        late = [(item, ask) for item, ask in self._asks.items() if ask.due <= now]
        self._next_due = min((ask.due for ask in self._asks.values() if ask.due > now), default=None)
        if late:
            self.patience.silent()
        return [(item, _next(ask, rng)) for item, ask in late]

    def give_up(self, item: EntryId) -> None:
        """Whoever tells of this entry next will be asked."""
        self._asks.pop(item, None)

    def deadline(self) -> Micros | None:
        """When the first ask is overdue, or a little earlier."""
        return self._next_due


def _latest(ask: OpenRequest) -> SiteKey:
    return next(reversed(ask.asked))


def _next(ask: OpenRequest, rng: Randomness) -> SiteKey | None:
    """A site that was not asked yet, or else the one that was asked longest ago."""
    if ask.tries >= MAX_TRIES:
        return None
    if ask.holders:
        return ask.holders.pop(rng.randrange(len(ask.holders)))
    return next(iter(ask.asked), None)
