"""One decoded delta: a few exact values at increasing positions of the flat trunk."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug

UNIT_BITS = 24
"""A value is an integer times 2**-24."""

MAX_UNIT_BITS = 44
"""Magnitudes stay below 2**44 units; times a weight of at most 2**16 they fit int64."""

_LIMB_BITS = 22


class SparseDelta:
    """Values of a delta, exact.

    Attributes:
        positions: int64[n], strictly increasing positions in the flat trunk.
        units: int64[n], never 0; the value is units * 2**-24.
        heads: int64[n], the shared head that each value belongs to (`layout.NO_HEAD`: to none); None: none belongs
            to a head.

    Positions and units are read-only.

    Raises:
        Bug: the arrays are not as described above.
    """

    def __init__(
        self, positions: NDArray[np.int64], units: NDArray[np.int64], heads: NDArray[np.int64] | None = None
    ) -> None:
        if positions.dtype != np.int64 or units.dtype != np.int64 or positions.shape != units.shape:
            raise Bug("a sparse delta needs two int64 vectors of one length")
        if positions.size:
            if positions[0] < 0 or np.count_nonzero(positions[1:] <= positions[:-1]):
                raise Bug("positions of a sparse delta must increase strictly from 0")
            if np.count_nonzero(units) < units.size or int(np.abs(units).max()) >> MAX_UNIT_BITS:
                raise Bug(f"units of a sparse delta must be non-zero and below 2**{MAX_UNIT_BITS}")
        self.positions = positions.view()
        self.units = units.view()
        self.heads = heads
        self.positions.flags.writeable = False
        self.units.flags.writeable = False

    def __len__(self) -> int:
        return int(self.positions.size)

    def __repr__(self) -> str:
        return f"SparseDelta({len(self)} values, norm {self.norm:.4g})"

    @cached_property
    def norm_squared(self) -> int:
        """Sum of squared units (units of 2**-48), exact: validity depends on it, so it must not be rounded."""
        magnitudes = np.abs(self.units)
        if not len(self) or int(magnitudes.max()) ** 2 * len(self) < 2**63:
            return int(magnitudes @ magnitudes)
        high = magnitudes >> _LIMB_BITS
        low = magnitudes & ((1 << _LIMB_BITS) - 1)
        total = 0
        # Each product of limbs is below 2**44, so 2**19 of them add up inside int64.
        for start in range(0, len(self), 2**19):
            h, w = high[start : start + 2**19], low[start : start + 2**19]
            total += (int(h @ h) << 2 * _LIMB_BITS) + (2 * int(h @ w) << _LIMB_BITS) + int(w @ w)
        return total

    @property
    def norm(self) -> float:
        """L2 norm as a float, for display and metrics."""
        return math.ldexp(math.sqrt(self.norm_squared), -UNIT_BITS)

    def values(self) -> NDArray[np.float64]:
        """The values as float64[n], exact."""
        return np.multiply(self.units, 2.0**-UNIT_BITS, dtype=np.float64)

    def dense(self, size: int) -> NDArray[np.float32]:
        """The delta as float32[size], zeros elsewhere. Codec values are exact in float32.

        Raises:
            Bug: a position is outside.
        """
        if len(self) and int(self.positions[-1]) >= size:
            raise Bug(f"position {int(self.positions[-1])} is outside a vector of {size}")
        flat = np.zeros(size, np.float32)
        flat[self.positions] = self.values()
        return flat
