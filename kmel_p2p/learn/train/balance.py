"""Whether published plus residual is all that was learned, told from files: sums of values by their position.

The sum of all drifts would be one more vector as long as the trunk in every round file. Its sums over the positions
with one remainder modulo `BINS` are linear as well, so what they show of drift, entries and residual must add up in the
same way: a lost or doubled round stands out in them, and rounding does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.delta.sparse import SparseDelta

BINS = 64

Sums = NDArray[np.float64]


def sums(flat: NDArray[np.float32]) -> Sums:
    """Sums of float32[d] over the positions p with p % `BINS` = i, float64[`BINS`]."""
    whole = len(flat) // BINS * BINS
    found: Sums = flat[:whole].reshape(-1, BINS).sum(axis=0, dtype=np.float64)
    found[: len(flat) - whole] += flat[whole:]
    return found


def sums_of(delta: SparseDelta) -> Sums:
    """The same of a decoded delta."""
    return np.bincount(delta.positions % BINS, weights=delta.values(), minlength=BINS).astype(np.float64)
