"""Normal noise on whole numbers, drawn from bytes that nobody can guess.

Sums of sealed rounds are integers, so their noise is, too: then nothing of a value shows in the last bits of its noise
(Mironov, CCS 2012), and sums of such noise are as good as normal (Kairouz, Liu and Steinke, ICML 2021, for standard
deviations far below those used here; from 10 on, all that tells them apart is below exp(-1000)).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

REACH = 8
"""Standard deviations on either side that are drawn; the rest has a probability of 1.3e-15."""
WORD = 1 << 64

Entropy = Callable[[int], bytes]
"""So many bytes that nobody can guess."""


class DiscreteGaussian:
    """Numbers z with a probability proportional to exp(-z^2 / (2 std^2)), for |z| of at most `REACH` std.

    Every number comes from 64 bits by the inverse of the distribution, which is held in units of 2**-64: each
    probability is right to within that unit.

    Args:
        std: standard deviation, 1 to 100,000.
    """

    def __init__(self, std: float) -> None:
        self.most = math.ceil(REACH * std)
        steps = np.arange(-self.most, self.most + 1, dtype=np.float64)
        masses = np.exp(-0.5 * (steps / std) ** 2)
        whole = math.fsum(masses.tolist())
        # Python's integers: sums of floats would lose what the tails have.
        weights = [int(mass / whole * WORD) for mass in masses.tolist()]
        weights[self.most] += WORD - sum(weights)
        below, bounds = 0, []
        for weight in weights[:-1]:
            below += weight
            bounds.append(min(below, WORD - 1))
        self._bounds = np.array(bounds, np.uint64)

    def draw(self, count: int, entropy: Entropy) -> NDArray[np.int64]:
        """int64[count]."""
        words = np.frombuffer(entropy(8 * count), "<u8")
        return np.searchsorted(self._bounds, words, side="right").astype(np.int64) - self.most
