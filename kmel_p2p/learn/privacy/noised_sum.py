"""What a site adds to a sealed round under record-level differential privacy: clipped gradients, summed, and its noise.

1. Every compound of the training fold takes part with probability `rate`, by itself (Poisson sampling).
2. Its gradient over all its assay endpoints is clipped to the L2 norm `clip` and rounded at random to whole levels, so
   that the sum is exact. Where rounding made it longer than `Grid.longest`, it is rounded towards zero instead: no
   compound ever moves the sum by more.
3. The sum is cut to `Grid.most` at every value. Cutting brings two sums no further apart, so the bound holds still.
4. Normal noise on whole numbers is added (`discrete_gaussian`). Noises of several sites make up the whole.

Sensitivity and noise are in levels; their ratio is the sigma that `accountant` counts with (Abadi et al., CCS 2016;
distributed noise: Kairouz, Liu and Steinke, ICML 2021).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.compound_gradients import CompoundGradients
from kmel_p2p.learn.privacy.discrete_gaussian import DiscreteGaussian, Entropy
from kmel_p2p.learn.privacy.grid import Grid
from kmel_p2p.learn.train.dataset import Dataset


class NoisedSum:
    """See the module docstring.

    Args:
        grid: the scale of the levels.
        entropy: for batches, rounding and noise.
    """

    def __init__(self, network: Network, dataset: Dataset, rule: PrivacyRule, grid: Grid, entropy: Entropy) -> None:
        self.grid = grid
        self._rule, self._dataset, self._entropy = rule, dataset, entropy
        self._gradients = CompoundGradients(network, dataset)
        self._noise = DiscreteGaussian(grid.std)

    def draw(self) -> tuple[NDArray[np.int64], float]:
        """A step's noised sum at the network's present trunk, int64[d], and the mean loss of its compounds (0 without
        any), which stays at the site."""
        rows = self._batch()
        total, loss = self.clipped_sum(rows)
        np.clip(total, -self.grid.most, self.grid.most, out=total)
        return total + self._noise.draw(len(total), self._entropy), loss / max(1, len(rows))

    def clipped_sum(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
        """The sum over compounds before cutting and noise, int64[d], and of their losses."""
        rng = np.random.default_rng(int.from_bytes(self._entropy(32), "little"))
        total, loss = np.zeros(self._gradients.size, np.int64), 0.0
        for start in range(0, len(rows), self._gradients.block):
            found, losses = self._gradients.of(rows[start : start + self._gradients.block])
            total += self._rounded(found.cpu().numpy(), rng).sum(axis=0)
            loss += float(losses.sum())
        return total, loss

    def _batch(self) -> NDArray[np.int64]:
        train = self._dataset.train
        drawn = np.frombuffer(self._entropy(8 * len(train)), "<u8") / 2.0**64
        chosen: NDArray[np.int64] = train[drawn < self._rule.rate]
        return chosen

    def _rounded(self, gradients: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
        """Clipped gradients in whole levels, int64[n, d], none longer than the grid's bound."""
        values = np.nan_to_num(gradients.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        values *= self.grid.clipped / np.maximum(norms, self._rule.clip)
        below = np.floor(values)
        rounded = (below + (rng.random(values.shape) < values - below)).astype(np.int64)
        long = (rounded * rounded).sum(axis=1) > self.grid.longest**2
        rounded[long] = np.trunc(values[long]).astype(np.int64)
        return rounded
