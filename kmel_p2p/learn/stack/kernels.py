"""Similarities of compounds for the Gaussian process: min-max Tanimoto of counts, and RBF of real-valued features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KNOWN_VALUES = 1 << 23
"""Fingerprint positions of known compounds laid out at once: 4,096 compounds of 2,048 positions, 32 MB."""

SCALE_ROWS = 200
"""Compounds that the usual distance is taken from."""

SMALLEST = 1e-6
"""Squared distance below which all compounds count as equal."""


def counts_of(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8[n, width] counts from what networks read of them, `dataset.LEVELS`: log2(1 + count)."""
    counts: NDArray[np.uint8] = np.rint(np.exp2(levels) - 1).astype(np.uint8)
    return counts


def min_max(queries: NDArray[np.uint8], known: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Sum of minima over sum of maxima, float64[len(queries), len(known)]; two empty fingerprints are equal.

    The sum of minima is the sum over levels of the positions where both counts reach the level, and those are products
    of matrices of zeros and ones. Few positions reach high levels, so each level costs less than the one before.

    Args:
        queries, known: uint8[n, width] counts.
    """
    found = np.empty((len(queries), len(known)))
    step = max(1, KNOWN_VALUES // max(1, known.shape[1]))
    sizes = queries.sum(axis=1, dtype=np.float64)
    for start in range(0, len(known), step):
        block = known[start : start + step]
        minima = _minima(queries, block)
        maxima = sizes[:, None] + block.sum(axis=1, dtype=np.float64)[None, :] - minima
        found[:, start : start + step] = np.where(maxima > 0, minima / np.maximum(maxima, 1), 1.0)
    return found


def _minima(queries: NDArray[np.uint8], known: NDArray[np.uint8]) -> NDArray[np.float64]:
    total = np.zeros((len(queries), len(known)))
    if not total.size:
        return total
    highest = np.minimum(queries.max(axis=0), known.max(axis=0))
    for level in range(1, int(highest.max(initial=0)) + 1):
        columns = np.flatnonzero(highest >= level)
        # Sums of ones are exact in float32.
        reached = [(side[:, columns] >= level).astype(np.float32) for side in (queries, known)]
        total += reached[0] @ reached[1].T
    return total


def rbf(queries: NDArray[np.float64], known: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """exp(-squared distance / (2 * scale)), float64[len(queries), len(known)]."""
    squares = (queries**2).sum(axis=1)[:, None] + (known**2).sum(axis=1)[None, :] - 2 * queries @ known.T
    similar: NDArray[np.float64] = np.exp(-np.maximum(squares, 0) / (2 * scale))
    return similar


def usual_distance(features: NDArray[np.float64]) -> float:
    """Median squared distance between two of some compounds, at most `SCALE_ROWS`; the scale of `rbf`."""
    some = features[evenly(len(features), SCALE_ROWS)]
    if len(some) < 2:
        return 1.0
    squares = (some**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * some @ some.T
    return max(SMALLEST, float(np.median(distances[np.triu_indices(len(some), 1)])))


def evenly(rows: int, most: int) -> NDArray[np.int64]:
    """At most `most` of range(rows), evenly spaced: the first ones may be alike, as files are often sorted."""
    if rows <= most:
        return np.arange(rows)
    return np.linspace(0, rows - 1, most).round().astype(np.int64)
