"""Adam on sums that everybody sees: how a sum of noised gradients moves the trunk, bit for bit alike at every site.

Only sums, products, quotients and square roots of 64-bit floats, value by value, which IEEE 754 rounds correctly: the
same everywhere. The rate falls along a line and not a cosine for that reason. The trunk moves by whole units, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FIRST, SECOND = 0.9, 0.99
"""How much of the moments of gradient and squared gradient stays (Kingma and Ba 2015). Noise dominates the second
moment soon, so it needs no longer memory."""
FINAL_RATE = 0.05
"""Share of the learning rate left at the end of the run."""


@dataclass(slots=True)
class PublicOptimiser:
    """See the module docstring.

    Attributes:
        learning_rate, weight_decay: of the charter's training.
        rounds: over which the rate falls.
        unit: of the trunk's integers.
    """

    learning_rate: float
    weight_decay: float
    rounds: int
    unit: float
    _steps: int = 0
    _left: tuple[float, float] = (1.0, 1.0)
    _moments: tuple[NDArray[np.float64], NDArray[np.float64]] | None = field(default=None, repr=False)

    def change(self, total: NDArray[np.int64], trunk: NDArray[np.int64]) -> NDArray[np.int64]:
        """By how much a sum of gradients moves the trunk, int64[d] in units; each sum once, in order."""
        gradient = total.astype(np.float64)
        first, second = self._moments or (np.zeros(len(total)), np.zeros(len(total)))
        first = FIRST * first + (1 - FIRST) * gradient
        second = SECOND * second + (1 - SECOND) * (gradient * gradient)
        self._moments = first, second
        self._left = self._left[0] * FIRST, self._left[1] * SECOND
        # Sums are in levels, of which one is next to nothing.
        step = (first / (1 - self._left[0])) / (np.sqrt(second / (1 - self._left[1])) + 1.0)
        progress = min(1.0, self._steps / self.rounds)
        rate = self.learning_rate * (1 - (1 - FINAL_RATE) * progress)
        self._steps += 1
        moved = -rate * (step + self.weight_decay * (trunk * self.unit))
        return np.rint(moved / self.unit).astype(np.int64)
