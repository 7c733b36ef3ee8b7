"""Whether compounds to predict differ from those that intervals and probabilities were calibrated on.

A level holds for compounds like the calibration compounds. Single compounds that are far away are told by their
applicability; here a whole batch is compared: if its similarities to the nearest training compound lie clearly below
those of the held-out compounds (Mann and Whitney 1947), the level is a promise about other chemistry. A batch may
differ without that, above all where another laboratory's assay measures something else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_COMPOUNDS = 20
"""In the batch, and among the held-out compounds; with fewer, nothing is said."""

LESS_SIMILAR = 0.6
"""Share of pairs of a batch and a held-out compound in which the former is less similar; 0.5 if they are alike."""

BEYOND_CHANCE = 3.0
"""Standard errors above 0.5. One batch in 700 from the same chemistry is above."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A batch from elsewhere.

    Attributes:
        share: of pairs of a batch and a held-out compound in which the former is less similar, 0 to 1.
        batch, held_out: median similarity to the nearest training compound.
    """

    share: float
    batch: float
    held_out: float

    def __str__(self) -> str:
        return (
            f"these compounds are less like the site's training compounds (median similarity {self.batch:.2f}) than "
            f"those the intervals, classes and probabilities were calibrated on ({self.held_out:.2f}): they may be "
            "right less often than the level says"
        )


def shift(batch: NDArray[np.float64], held_out: NDArray[np.float64]) -> Shift | None:
    """What to warn of; None if the batch looks like the held-out compounds, or too little is known.

    Args:
        batch, held_out: similarity to the nearest training compound, float64[n] and float64[m].
    """
    n, m = len(batch), len(held_out)
    if min(n, m) < MIN_COMPOUNDS:
        return None
    known = np.sort(held_out)
    above = m - np.searchsorted(known, batch, side="right")
    equal = np.searchsorted(known, batch, side="right") - np.searchsorted(known, batch, side="left")
    share = float((above + equal / 2).mean()) / m
    error = ((n + m + 1) / (12 * n * m)) ** 0.5
    if share < max(LESS_SIMILAR, 0.5 + BEYOND_CHANCE * error):
        return None
    return Shift(share, float(np.median(batch)), float(np.median(held_out)))
