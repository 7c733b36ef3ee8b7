"""The pace of a site's rounds: when the next may open, how many steps it takes, when training has had enough.

Nothing here waits for a named site: every wait is for a count of sites that membership calls alive, or for a period.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.rounds.contract import RoundTrained
from kmel_p2p.core.types import Micros

STUCK_ROUNDS = 16
"""A slower site is waited for at least this many of our rounds at each of its own: more than that is stuck."""

TOLERANCE = 1.5
"""A site is slow if a step takes it this many times as long as the fast ones; less is ordinary noise."""

MAX_REDUCTION = 16
"""Largest cut of the steps per round, so that no claim of great speed empties the others' entries."""

MIN_GAIN = 1e-3
"""A validation figure counts as better when it is lower by this (a figure in logarithms: by a thousandth)."""


class Pacing:
    """See the module docstring.

    Args:
        max_lead: rounds this site may be ahead of the slowest that trains beside it (charter).
        patience: rounds without a better validation figure after which it has had enough; 0: never (charter).
        settle_us: how long after `ready` it waits to hear from every reachable site.
        stuck_after_us: how long a site that trains without progress is waited for; at least `STUCK_ROUNDS` own rounds.
        now: monotonic time.
    """

    def __init__(self, max_lead: int, patience: int, settle_us: Micros, stuck_after_us: Micros, now: Micros) -> None:
        self.enough = False
        """Validation has stopped improving."""
        self._settle_us = settle_us
        self._stuck_after_us = stuck_after_us
        self._settled_at_us: Micros | None = None
        self._lead = Lead(max_lead)
        self._opened_at_us: Micros = now
        self._round_took_us: Micros = 0
        self._step_time = StepTime()
        self._plateau = Plateau(patience)
        self._wait_ends_us: Micros | None = None

    @property
    def step_us(self) -> Micros:
        """This site's time per optimiser step; 0 before its first round."""
        return self._step_time.value_us

    @property
    def is_settling(self) -> bool:
        """Whether it was ready so recently that some reachable sites may not have been heard yet."""
        return self._settled_at_us is not None

    @property
    def settled_at_us(self) -> Micros | None:
        """Until when it waits to hear from every reachable site; None when it does not."""
        return self._settled_at_us

    @property
    def deadlines_us(self) -> tuple[Micros | None, Micros | None]:
        """When time alone may change whether a round opens."""
        return self._settled_at_us, self._wait_ends_us

    def ready(self, now: Micros) -> None:
        """The site can train."""
        self._settled_at_us = now + self._settle_us

    def turn(self, now: Micros) -> None:
        """Call before every look at whether a round may open."""
        self._wait_ends_us = None
        if self._settled_at_us is not None and now >= self._settled_at_us:
            self._settled_at_us = None

    def go_on(self) -> None:
        """There is more to train than was thought: what was enough may not be."""
        self.enough = False
        self._plateau.start_anew()

    def begin_campaign(self, max_lead: int, patience: int) -> None:
        """Other rules hold from now on, and figures may be of other data: what was best before says nothing."""
        self.enough = False
        self._lead = Lead(max_lead)
        self._plateau = Plateau(patience)

    def opened(self, now: Micros) -> None:
        """A round was opened."""
        self._opened_at_us = now

    def trained(self, result: RoundTrained, now: Micros) -> None:
        """The open round was trained."""
        self._round_took_us = now - self._opened_at_us
        self._step_time.measured(result.training_us, result.steps)
        self.enough = self._plateau.seen(result.validation)

    def steps(self, charter_steps: int, others_us: Iterable[Micros]) -> int:
        """Optimiser steps of the next round. `others_us`: time per step of the other training sites."""
        return steps_for(charter_steps, self.step_us, others_us)

    def held_back_by(self, numbers: Mapping[SiteKey, int], own_number: int, now: Micros) -> dict[SiteKey, Micros]:
        """The sites that this one is too far ahead of, and until when it waits for each at most.

        Args:
            numbers: how far the sites are that train beside it.
            own_number: of this site's newest entry or round.
            now: monotonic time.
        """
        self._lead.note(numbers, own_number, now)
        stuck_after_us = max(self._stuck_after_us, STUCK_ROUNDS * self._round_took_us)
        slow = self._lead.slow(own_number, stuck_after_us, now)
        self._wait_ends_us = min(slow.values(), default=None)
        return slow


@dataclass(frozen=True, slots=True)
class _OtherSite:
    """Another training site, since we train beside it."""

    number: int
    """Of its newest entry or round."""
    moved_at_us: Micros
    """When that last changed, or the site was first noted."""
    own_start: int
    start: int
    """Where we and it stood when the count began. A site that joins late or comes back holds nobody up until it has
    made up for its absence: only what is trained side by side counts."""

    def lead(self, own_number: int) -> int:
        """How far we have pulled ahead of it since the count began."""
        return (own_number - self.own_start) - (self.number - self.start)


class Lead:
    """How far this site is ahead of those that train beside it, and which of them are stuck.

    A site that membership calls alive may still be stuck: its trainer hangs, its disk is full. It holds the others
    back for a limited time, until its log moves again. A dead, preparing or listening site holds nobody back.

    Args:
        max_lead: how far this site may be ahead of any that is not stuck.
    """

    def __init__(self, max_lead: int) -> None:
        self._max_lead = max_lead
        self._others: dict[SiteKey, _OtherSite] = {}

    def note(self, numbers: Mapping[SiteKey, int], own_number: int, now: Micros) -> None:
        """Take in where the training sites stand; sites not named are forgotten."""
        self._others = {key: self._noted(key, number, own_number, now) for key, number in numbers.items()}

    def slow(self, own_number: int, stuck_after_us: Micros, now: Micros) -> dict[SiteKey, Micros]:
        """For whom this site waits before its next round, and until when at most unless their logs move.

        Args:
            own_number: of this site's newest entry or round.
            stuck_after_us: how long without progress until another site counts as stuck.
            now: monotonic time.
        """
        far = {key: other for key, other in self._others.items() if other.lead(own_number) >= self._max_lead}
        ends_us = {key: other.moved_at_us + stuck_after_us for key, other in far.items()}
        return {key: end_us for key, end_us in ends_us.items() if end_us > now}

    def _noted(self, key: SiteKey, number: int, own_number: int, now: Micros) -> _OtherSite:
        known = self._others.get(key)
        if known is None:
            gap = own_number - number
            return _OtherSite(number, now, own_number - (gap if 0 <= gap <= self._max_lead else 0), number)
        moved = known if known.number == number else replace(known, number=number, moved_at_us=now)
        if moved.lead(own_number) < 0:
            # Having been behind earns no right to run far ahead afterwards: the count begins anew.
            return replace(moved, own_start=own_number, start=number)
        return moved


def steps_for(charter_steps: int, own_step_us: Micros, other_steps_us: Iterable[Micros]) -> int:
    """Steps of the next round.

    The charter's `steps_per_entry` is for fast sites. A slower one takes fewer, so that entries come at about the same
    pace everywhere and nobody waits for it; its entries weigh the same and say less.

    Args:
        charter_steps: the charter's steps per entry.
        own_step_us: this site's time per step; 0 before the first round.
        other_steps_us: what the other training sites say about theirs; 0 is unknown.

    Returns:
        From 1 to `charter_steps`. Among three or more known sites the second fastest sets the pace, or the lower
        quartile of many, so that one site's claim does not set it alone.
    """
    known_us = sorted([own_step_us, *(step_us for step_us in other_steps_us if step_us > 0)])
    if not own_step_us:
        return charter_steps
    fast_us = known_us[max(int(len(known_us) > 2), (len(known_us) - 1) // 4)]
    if own_step_us <= TOLERANCE * fast_us:
        return charter_steps
    least = math.ceil(charter_steps / MAX_REDUCTION)
    return max(least, round(charter_steps * fast_us / own_step_us))


class StepTime:
    """Time per step of this site: smoothed, without the first round, in which compilers and caches warm up.

    Only the steps count: if scoring did, too, the site with most data would get the fewest steps.
    """

    def __init__(self) -> None:
        self.value_us: Micros = 0
        self._rounds = 0

    def measured(self, training_us: Micros, steps: int) -> None:
        """The `steps` steps of a round took so long."""
        self._rounds += 1
        step_us = max(1, training_us // max(1, steps))
        if self._rounds <= 2:
            self.value_us = step_us
        else:
            self.value_us += (step_us - self.value_us) // 4


class Plateau:
    """Tells when validation has stopped improving.

    Args:
        patience: rounds without a better figure; 0: it never ends.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = math.inf
        self._since = 0

    def start_anew(self) -> None:
        """Have the full patience again."""
        self._since = 0

    def seen(self, figure: float | None) -> bool:
        """Take in the validation figure of a round (lower is better); whether it is time to stop."""
        if figure is None or not self._patience or math.isnan(figure):
            return False
        if figure < self._best - MIN_GAIN:
            self._best, self._since = figure, 0
        else:
            self._since += 1
        return self._since >= self._patience
