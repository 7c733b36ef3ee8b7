"""What a site adds to a sealed round under record-level differential privacy: clipped gradients, summed, and its noise.

1. Every compound of the training fold takes part with probability `rate`, by itself (Poisson sampling).
2. Its gradient over all its assay endpoints is clipped to the L2 norm `clip` and rounded at random to whole levels, so
   that the sum is exact. Where rounding made it longer than `Grid.longest`, it is rounded towards zero instead: no
   compound ever moves the sum by more.
3. The sum is cut to `Grid.most` at every value. Cutting brings two sums no further apart, so the bound holds still.
4. Normal noise on whole numbers is added (`discrete_gaussian`). Noises of `Grid.sharing` sites make up the whole.

Sensitivity and noise are in levels; their ratio is the sigma that `accountant` counts with (Abadi et al., CCS 2016;
distributed noise: Kairouz, Liu and Steinke, ICML 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.compound_gradients import CompoundGradients
from kmel_p2p.learn.privacy.discrete_gaussian import REACH, DiscreteGaussian, Entropy
from kmel_p2p.learn.train.dataset import Dataset

STRAY = 0.98
"""Share of the squared bound that the expected squared length after rounding may take."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The scale of levels that goes with a noise.

    Attributes:
        std: standard deviation of one site's noise.
        most: largest sum at a value before the noise.
        longest: largest L2 norm of one compound's part.
        clipped: norm that a clipped gradient has before it is rounded.
    """

    std: float
    most: int
    longest: float
    clipped: float

    @classmethod
    def of(cls, limit: int, noise: float, sharing: int, values: int) -> Grid:
        """The finest scale on which a site's sum and noise stay within the limit.

        Args:
            limit: of a level (`core.sealed.rules.SealedRules.levels`).
            noise: sigma, of the whole sum, in units of the clipping norm.
            sharing: sites whose noises make up the whole.
            values: of the trunk.

        Raises:
            ConfigError: rounding would take as much as clipping leaves.
        """
        most = limit // 2
        std = (limit - most - 1) / REACH
        longest = std * math.sqrt(sharing) / noise
        left = STRAY * longest**2 - values / 4
        if left < longest**2 / 4:
            raise ConfigError(
                f"the charter's trunk has {values:,} values, too many for noise {noise:.3g}: choose narrower "
                "model.hidden, a larger privacy.epsilon or fewer sites"
            )
        return cls(std, most, longest, math.sqrt(left))


class NoisedSum:
    """See the module docstring.

    Args:
        limit: of a level.
        noise: sigma.
        sharing: sites whose noises make up the whole.
        entropy: for batches, rounding and noise.
    """

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        rule: PrivacyRule,
        limit: int,
        noise: float,
        sharing: int,
        entropy: Entropy,
    ) -> None:
        self.grid = Grid.of(limit, noise, sharing, network.trunk.numel())
        self._rule, self._dataset, self._entropy = rule, dataset, entropy
        self._gradients = CompoundGradients(network, dataset)
        self._noise = DiscreteGaussian(self.grid.std)

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
