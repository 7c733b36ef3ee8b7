"""Sums of values by position, which show from files whether published plus residual is all that was learned.

Keeping the sum of all drifts would add a vector as long as the trunk to every round file. Its sums over positions with
the same remainder modulo `BINS` are linear too, so those of the entries and the residual must add up to those of the
drift. A lost or doubled round stands out; rounding does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.delta.sparse import SparseDelta

BINS = 64

Sums = NDArray[np.float64]


def sums(flat: NDArray[np.float32], start: int = 0) -> Sums:
    """Sums of float32[d] over the positions p with p % `BINS` = i, float64[`BINS`].

    Args:
        start: position of the first value.
    """
    whole = len(flat) // BINS * BINS
    found: Sums = flat[:whole].reshape(-1, BINS).sum(axis=0, dtype=np.float64)
    found[: len(flat) - whole] += flat[whole:]
    return np.roll(found, start % BINS)


def sums_of(delta: SparseDelta) -> Sums:
    """The same of a decoded delta."""
    return np.bincount(delta.positions % BINS, weights=delta.values(), minlength=BINS).astype(np.float64)
