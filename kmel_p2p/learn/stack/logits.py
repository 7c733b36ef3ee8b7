"""Calibrated probabilities: a monotone map from a side's logits to logits whose probabilities come true.

With weights comes a line, whose slope says how far to trust the learners (`weights`). With many held-out values it is a
monotone curve (isotonic regression, Zadrozny and Elkan 2002), kept only if it lowers the log loss of held-out compounds
that it was not fitted to. With fewer, nothing beside the slope is fitted. Held-out compounds are whole series, a few of
them, and often have another share of class 1 than the site's others: Platt's (1999) line learned the share of 92, 66 %
where it is 58 % of training and 50 % of test compounds (Ames), and the log loss of test compounds rose from 0.50 to
0.66. Parting the 92 by compounds did not tell, since each series is then on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.losses import log_losses
from kmel_p2p.learn.stack.stored import damaged
from kmel_p2p.learn.stack.weights import folds

MIN_CURVE, MIN_OF_CLASS = 1000, 5
"""Held-out values, and values of either class, below which logits stay as they are."""

Logits = NDArray[np.float64]
"""float64[n]."""


def _no_knots() -> NDArray[np.float64]:
    return np.empty((0, 2))


@dataclass(frozen=True, slots=True)
class LogitMap:
    """A line, or with knots a curve that is straight between them and constant outside.

    Attributes:
        slope, shift: of the line; slope above 0.
        knots: float64[k, 2], logit before and after, both ascending; empty for a line.
    """

    slope: float = 1.0
    shift: float = 0.0
    knots: NDArray[np.float64] = field(default_factory=_no_knots)

    def __call__(self, logits: Logits) -> Logits:
        """float64[n] logits."""
        if len(self.knots):
            return np.interp(logits, self.knots[:, 0], self.knots[:, 1])
        return self.slope * logits + self.shift

    def after(self, slope: float, shift: float) -> LogitMap:
        """The map of logits that a line makes logits of this one.

        Args:
            slope: above 0.
        """
        if len(self.knots):
            return LogitMap(knots=np.stack([(self.knots[:, 0] - shift) / slope, self.knots[:, 1]], axis=1))
        return LogitMap(self.slope * slope, self.slope * shift + self.shift)

    def rows(self) -> NDArray[np.float64]:
        """As one array, float64[1 + k, 2]."""
        return np.concatenate([[[self.slope, self.shift]], self.knots])

    @classmethod
    def from_rows(cls, rows: NDArray[np.float64], where: str) -> LogitMap:
        """What `rows` gave.

        Args:
            where: what it belongs to, for the error.

        Raises:
            ConfigError: the map would turn the order of compounds around.
        """
        if not len(rows) or rows[0, 0] <= 0 or (np.diff(rows[1:], axis=0) < 0).any():
            raise damaged(where, "its probabilities fall where its evidence grows")
        return cls(float(rows[0, 0]), float(rows[0, 1]), rows[1:].copy())


UNCHANGED = LogitMap()


def calibrated(logits: Logits, labels: NDArray[np.float64], seed: int) -> tuple[LogitMap, Logits]:
    """The map for new compounds, and the logits of these ones from maps that were fitted to others of them.

    Args:
        logits: float64[n], of held-out compounds.
        labels: float64[n], 0 or 1.
        seed: of the folds.
    """
    positive = np.count_nonzero(labels > 0.5)
    if len(labels) < MIN_CURVE or min(positive, len(labels) - positive) < MIN_OF_CLASS:
        return UNCHANGED, logits
    crossed = logits.copy()
    for fold in folds(len(labels), seed):
        others = np.setdiff1d(np.arange(len(labels)), fold)
        crossed[fold] = curve(logits[others], labels[others])(logits[fold])
    if log_losses(crossed, labels).sum() >= log_losses(logits, labels).sum():
        return UNCHANGED, logits
    return curve(logits, labels), crossed


def curve(logits: Logits, labels: NDArray[np.float64]) -> LogitMap:
    """The isotonic curve; arguments as for `calibrated`."""
    from sklearn.isotonic import isotonic_regression

    # Compounds with the same logit get the same probability, in whatever order they come.
    at, group = np.unique(logits, return_inverse=True)
    counts = np.bincount(group).astype(np.float64)
    positive = np.bincount(group, labels)
    starts = np.flatnonzero(np.diff(isotonic_regression(positive / counts, sample_weight=counts), prepend=-1.0))
    before = np.add.reduceat(at * counts, starts)
    counts, positive = np.add.reduceat(counts, starts), np.add.reduceat(positive, starts)
    # Half a compound more of each class keeps the odds finite. A small step may then lie above the next one: both are
    # pooled by their weight, so that a single compound does not lift all that follow.
    shares = isotonic_regression((positive + 0.5) / (counts + 1), sample_weight=counts + 1)
    after = np.log(shares / (1 - shares))
    return LogitMap(knots=np.stack([np.maximum.accumulate(before / counts), after], axis=1))
