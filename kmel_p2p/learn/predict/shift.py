"""Whether compounds to predict differ from those that intervals and probabilities were calibrated on.

A level holds for compounds like the calibration compounds. Single compounds that are far away are told by their
applicability; here a whole batch is compared: if its similarities to the nearest training compound lie clearly below
those of the held-out compounds (Mann and Whitney 1947), the level is a promise about other chemistry. A batch may
differ without that, above all where another laboratory's assay measures something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_COMPOUNDS = 20
"""In the batch, and among the held-out compounds; with fewer, nothing is said."""

LESS_SIMILAR = 0.6
"""Share of pairs of a batch and a held-out compound in which the former is less similar; 0.5 if they are alike."""

BEYOND_CHANCE = 3.0
"""Standard errors above 0.5. One batch in 700 from the same chemistry is above."""

BINS = 1000
"""Of similarities, so that the median of any number of them needs no more memory."""


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


@dataclass(slots=True)
class Batch:
    """What is kept of a batch's similarities, however large it is.

    Attributes:
        held_out: similarities of the held-out compounds to their nearest training compound, float64[m], ascending.
        compounds: in the batch.
        below: pairs of a batch and a held-out compound in which the former is less similar; equal ones count half.
        bins: int64[`BINS`], compounds by similarity.
    """

    held_out: NDArray[np.float64]
    compounds: int = 0
    below: float = 0.0
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, similarities: NDArray[np.float64]) -> None:
        """More compounds: similarity to the nearest training compound, float64[n]."""
        right = np.searchsorted(self.held_out, similarities, side="right")
        left = np.searchsorted(self.held_out, similarities, side="left")
        self.compounds += len(similarities)
        self.below += float((len(self.held_out) - (right + left) / 2).sum())
        places = np.clip((similarities * BINS).astype(np.int64), 0, BINS - 1)
        self.bins += np.bincount(places, minlength=BINS)

    def shift(self) -> Shift | None:
        """What to warn of; None if the batch looks like the held-out compounds, or too little is known."""
        n, m = self.compounds, len(self.held_out)
        if min(n, m) < MIN_COMPOUNDS:
            return None
        share = self.below / (n * m)
        error = ((n + m + 1) / (12 * n * m)) ** 0.5
        if share < max(LESS_SIMILAR, 0.5 + BEYOND_CHANCE * error):
            return None
        middle = int(np.searchsorted(np.cumsum(self.bins), n / 2))
        return Shift(share, (middle + 0.5) / BINS, float(np.median(self.held_out)))

    def plain(self) -> dict[str, Any]:
        """What `add` changed, ready for JSON."""
        places = np.flatnonzero(self.bins)
        bins = {int(place): int(self.bins[place]) for place in places}
        return {"compounds": self.compounds, "below": self.below, "bins": bins}

    def add_plain(self, raw: Mapping[str, Any]) -> None:
        """Add what `plain` gave for other compounds, against the same held-out ones.

        Raises:
            KeyError, TypeError, ValueError, IndexError: it is damaged.
        """
        bins = np.zeros(BINS, np.int64)
        for place, count in raw["bins"].items():
            bins[int(place)] += int(count)
        self.compounds, self.below = self.compounds + int(raw["compounds"]), self.below + float(raw["below"])
        self.bins += bins


def shift(batch: NDArray[np.float64], held_out: NDArray[np.float64]) -> Shift | None:
    """What to warn of, of similarities float64[n] and float64[m] to the nearest training compound."""
    found = Batch(np.sort(held_out))
    found.add(batch)
    return found.shift()
