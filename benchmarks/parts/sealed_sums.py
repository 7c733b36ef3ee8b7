"""Sums of levels at shared positions, as sealed rounds make them (`core.sealed.levels`), in one process.

Masks cancel in the sum, so that they change neither the trunk nor what a member sees: they are left out here. The
pattern is drawn from numpy instead of the protocol's key stream.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.core.sealed.levels import first_exponent, next_exponent, quantise


class SealedSums:
    """The exchange of one federation in which every site takes part in every round.

    Args:
        size: values of the trunk.
        sites: how many.
        rate, steps: learning rate and steps of a round, for the first step size.
        pattern: share of the trunk's values that a round exchanges.
        levels: on either side of 0.
    """

    def __init__(
        self, size: int, sites: int, rate: float, steps: int, seed: int, pattern: float = 0.25, levels: int = 7
    ) -> None:
        self._residuals = [np.zeros(size, np.float32) for _ in range(sites)]
        self._rng, self._count, self._levels = np.random.default_rng([23, seed]), round(pattern * size), levels
        self._exponent = first_exponent(rate, steps, sites)
        self._open()

    def send(self, site: int, change: NDArray[np.floating]) -> NDArray[np.float64]:
        """What a site's weighted drift, float64[d], adds to this round's sum; the rest it keeps for later."""
        residual = self._residuals[site]
        residual += change.astype(np.float32)
        taken, self._residuals[site] = quantise(residual, self._positions, self._exponent, self._levels)
        self._total += taken
        self._sites += 1
        found = np.zeros(len(residual))
        found[self._positions] = taken * 2.0**self._exponent
        return found

    def close(self) -> None:
        """All sites have sent: open the next round."""
        self._exponent = next_exponent(self._exponent, self._total, self._sites, self._levels)
        self._open()

    def _open(self) -> None:
        size = len(self._residuals[0])
        self._positions = np.sort(self._rng.choice(size, self._count, replace=False))
        self._total, self._sites = np.zeros(self._count, np.int64), 0

    @property
    def bytes_per_round(self) -> int:
        """Of one site's values, packed, without shares and header."""
        bits = int(np.ceil(np.log2(len(self._residuals) * (2 * self._levels + 1))))
        return -(-self._count * bits // 8)
