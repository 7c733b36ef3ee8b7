"""How much a site trains per entry, and when it has had enough.

The charter's `steps_per_entry` is for fast sites. A slower one takes fewer steps, so that entries come at about the
same pace everywhere and nobody waits for it; its entries weigh the same and say less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from kmel_p2p.core.types import Micros

TOLERANCE = 1.5
"""A site counts as slow from so many times the time of the fast ones per step; less is ordinary noise."""

MAX_REDUCTION = 16
"""At most so many times fewer steps, so that no claim of great speed makes the others' entries empty."""

MIN_GAIN = 1e-3
"""What counts as better: a validation figure lower by this (a figure in logarithms: by a thousandth)."""


def steps_for(charter_steps: int, own_step: Micros, other_steps: Iterable[Micros]) -> int:
    """Steps of the next round.

    Args:
        charter_steps: the charter's steps per entry.
        own_step: this site's time per step, microseconds; 0 before the first round.
        other_steps: what the other training sites say about theirs; 0 is unknown.

    Returns:
        From 1 to `charter_steps`. The pace is set by the fastest of up to four known sites and by the lower quartile of
        more, so that one site's claim does not set it alone.
    """
    known = sorted([own_step, *(step for step in other_steps if step > 0)])
    if not own_step:
        return charter_steps
    fast = known[(len(known) - 1) // 4]
    if own_step <= TOLERANCE * fast:
        return charter_steps
    least = math.ceil(charter_steps / MAX_REDUCTION)
    return max(least, round(charter_steps * fast / own_step))


class StepTime:
    """Time per step of this site: smoothed, the first round left out (compilers and caches warm up in it)."""

    def __init__(self) -> None:
        self.value: Micros = 0
        self._rounds = 0

    def measured(self, took: Micros, steps: int) -> None:
        """A round of `steps` steps took so long."""
        self._rounds += 1
        step = max(1, took // max(1, steps))
        if self._rounds <= 2:
            self.value = step
        else:
            self.value += (step - self.value) // 4


class Plateau:
    """Tells when validation has stopped to improve."""

    def __init__(self, patience: int) -> None:
        """`patience`: rounds without a better figure; 0 never ends."""
        self._patience = patience
        self._best = math.inf
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
