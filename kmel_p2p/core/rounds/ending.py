"""Whom the end of a run waits for, since when, and until when at most.

A run is over when every reachable site listens and holds the same. A site that says for ever that it trains, or that
never gets to what the others hold, would keep everybody from a model: so it is waited for while its log grows, then for
a limited time, and the operator may end the wait at once (`Conclude`). Waits without growth add up: sites that hold the
run up by turns, each for a moment, gain nothing.

A site that goes out of sight before it is done is mostly back soon, for instance restarted: it is waited for a moment
as well, so that nobody compares models on a trunk which moves on seconds later. Who has published all that it may has
nothing more to give: it is waited for no longer than that, and what it publishes beyond it is no growth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Event
from kmel_p2p.core.rounds.contract import CurrentWait
from kmel_p2p.core.types import SECOND, Micros

ALARM_AFTER: Micros = 20 * SECOND
"""A wait for one site that lasts longer is told to the operator, with the site's name; one that is slow by its own
history is given twice its longest pause between two rounds."""

ROUNDS_WAITED = 16
"""A slow site is waited for at least this many times the longest pause between two of its rounds so far."""

SPENT_WAITED: Micros = 30 * SECOND
"""A site that has published all that it may says within moments that it is done."""

LONGEST_FACTOR = 4
"""But at most this many times the usual limit, however slow it showed itself to be."""


@dataclass(frozen=True, slots=True)
class RunHeldUp(Event):
    """The end of the run has waited `waited_us` for this site, and goes on for `left_us` if its log does not grow.

    `spent`: it has published all that it may.
    """

    site: SiteKey
    waited_us: Micros
    left_us: Micros
    spent: bool = False


@dataclass(frozen=True, slots=True)
class RunNotAwaiting(Event):
    """The end of the run waits for this site no longer: it is done, gone, or had its time (`given_up`)."""

    site: SiteKey
    given_up: bool


@dataclass(slots=True)
class _Awaited:
    since_us: Micros
    """When its log last grew, or the wait began."""
    rounds: int
    began_us: Micros
    told: bool = False
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class _Past:
    """An earlier wait for a site."""

    waited_us: Micros
    rounds: int


class Ending:
    """See the module docstring.

    Args:
        limit_us: how long a site is waited for whose log does not grow.
        away_us: how long a site is waited for that went out of sight.
    """

    def __init__(self, limit_us: Micros, away_us: Micros = 0) -> None:
        self.concluded = False
        """The operator has ended the wait."""
        self._limit_us = limit_us
        self._away_us = away_us
        self._away: dict[SiteKey, Micros] = {}
        """Sites that went out of sight before they were done, and when."""
        self._awaited: dict[SiteKey, _Awaited] = {}
        self._past: dict[SiteKey, _Past] = {}
        """Sites that were waited for and are not now; their waits count again until their logs grow."""
        self._rounds: dict[SiteKey, tuple[int, Micros]] = {}
        """Site -> its rounds, and when they last grew."""
        self._spent: Collection[SiteKey] = ()
        """Of the sites awaited, those that have published all that they may."""
        self._noted: Mapping[SiteKey, int] | None = None
        self._longest_us: dict[SiteKey, Micros] = {}
        """Longest pause between two rounds of a site."""

    def note(self, rounds: Mapping[SiteKey, int], now: Micros) -> None:
        """Take in how many rounds each site has published. What was given before is not looked at again."""
        if rounds is self._noted:
            return
        self._noted = rounds
        for site, count in rounds.items():
            before, at_us = self._rounds.get(site, (count, now))
            if count > before > 0:
                self._longest_us[site] = max(self._longest_us.get(site, 0), now - at_us)
            if count != before or site not in self._rounds:
                self._rounds[site] = (count, now)

    def went_away(self, site: SiteKey, now: Micros) -> None:
        """A site went out of sight before it was done."""
        self._away[site] = now

    def came_back(self, site: SiteKey) -> None:
        """A site is in sight again, or has left for good."""
        self._away.pop(site, None)

    def away(self, now: Micros) -> tuple[SiteKey, ...]:
        """Sites out of sight that are still waited for."""
        self._away = {site: at_us for site, at_us in self._away.items() if now < at_us + self._away_us}
        return tuple(self._away)

    def look(self, behind: Mapping[SiteKey, int], now: Micros, spent: Collection[SiteKey] = frozenset()) -> list[Event]:
        """Look whom the end waits for; returns what to tell.

        Args:
            behind: sites that keep the run from ending, with their rounds; empty while this site trains itself.
            now: monotonic time.
            spent: those of them that have published all that they may.
        """
        self._spent = spent
        events: list[Event] = []
        done = {site: self._awaited.pop(site) for site in list(self._awaited) if site not in behind}
        self._past |= {site: _Past(now - awaited.since_us, awaited.rounds) for site, awaited in done.items()}
        events += [RunNotAwaiting(site, given_up=False) for site, awaited in done.items() if awaited.told]
        for site, rounds in behind.items():
            if site not in self._awaited:
                past = self._past.pop(site, _Past(0, rounds))
                self._awaited[site] = _Awaited(now - past.waited_us, past.rounds, now)
            awaited = self._awaited[site]
            if rounds > awaited.rounds:
                awaited.rounds, awaited.since_us = rounds, now
            until_us = self._until(site, awaited)
            if not awaited.given_up and now >= until_us:
                awaited.given_up = True
                events.append(RunNotAwaiting(site, given_up=True))
            elif not awaited.told and now >= self._alarm_at(site, awaited):
                awaited.told = True
                events.append(RunHeldUp(site, now - awaited.since_us, until_us - now, site in spent))
        return events

    def given_up(self) -> frozenset[SiteKey]:
        """Sites that are behind and not waited for: they had their time, or the operator ended the wait."""
        return frozenset(site for site, awaited in self._awaited.items() if awaited.given_up or self.concluded)

    def is_waiting(self) -> bool:
        """Whether the end still waits for a site that `look` was told of."""
        return len(self._awaited) > len(self.given_up())

    def waits(self) -> tuple[CurrentWait, ...]:
        """Each site that the end waits for, since when, and until when if its log does not grow."""
        if self.concluded:
            return ()
        return tuple(
            CurrentWait("the run ends when it is done", (site,), awaited.began_us, self._until(site, awaited))
            for site, awaited in self._awaited.items()
            if not awaited.given_up
        )

    def deadline(self) -> Micros | None:
        """When time alone may change something."""
        if self.concluded:
            return None
        moments = [
            self._until(site, awaited) if awaited.told else self._alarm_at(site, awaited)
            for site, awaited in self._awaited.items()
            if not awaited.given_up
        ]
        moments += [at_us + self._away_us for site, at_us in self._away.items() if site in self._awaited]
        return min(moments, default=None)

    def _alarm_at(self, site: SiteKey, awaited: _Awaited) -> Micros:
        if site in self._spent:
            return awaited.since_us + ALARM_AFTER
        patience_us = min(2 * self._longest_us.get(site, 0), self._limit_us)
        return awaited.since_us + max(ALARM_AFTER, patience_us)

    def _until(self, site: SiteKey, awaited: _Awaited) -> Micros:
        if site in self._spent:
            return awaited.since_us + max(SPENT_WAITED, self._away_us)
        slow_us = min(ROUNDS_WAITED * self._longest_us.get(site, 0), LONGEST_FACTOR * self._limit_us)
        return awaited.since_us + max(self._limit_us, slow_us)
