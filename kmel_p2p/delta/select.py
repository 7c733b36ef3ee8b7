"""Choosing what to send: per chunk, the values of largest magnitude.

Magnitudes of IEEE 754 floats order as their bit patterns do, so the selection compares integers, which numpy can
partition with vector instructions; blocks of chunks stay inside the processor's cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.delta.chunks import ChunkPlan

_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
_BLOCK = 1 << 18


def largest(residual: NDArray[np.float32], plan: ChunkPlan) -> NDArray[np.int64]:
    """Positions of the `kept` largest magnitudes of every chunk, increasing; zeros are never among them.

    Of equal magnitudes the earlier ones are taken, so the choice does not depend on machine or version.

    Raises:
        LocalError: a value is not finite; says where.
    """
    patterns = residual.view(np.int32)
    scratch = np.empty(min(residual.size, max(_BLOCK, plan.parameters.chunk)), np.int32)
    found = []
    for start, rows, length, kept in _rectangles(plan):
        block = scratch[: rows * length]
        np.bitwise_and(patterns[start : start + block.size], _MAGNITUDE, out=block)
        if int(block.max()) >= _INFINITY:
            at = start + int(np.argmax(block >= _INFINITY))
            raise LocalError(f"residual value {at} is {residual[at]}; training has diverged")
        found.append(start + _largest_per_row(block.reshape(rows, length), kept))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _rectangles(plan: ChunkPlan) -> list[tuple[int, int, int, int]]:
    """(position, chunks, length, kept) of runs of equal chunks that fit the scratch block."""
    runs: list[tuple[int, int]] = []
    per_block = max(1, _BLOCK // plan.parameters.chunk)
    for first, end in zip(plan.first[:-1].tolist(), plan.first[1:].tolist(), strict=True):
        full = end - 1 if plan.length[end - 1] < plan.parameters.chunk else end
        runs.extend((at, min(per_block, full - at)) for at in range(first, full, per_block))
        if full < end:
            runs.append((full, 1))
    return [(int(plan.start[c]), n, int(plan.length[c]), int(plan.kept[c])) for c, n in runs]


def _largest_per_row(magnitudes: NDArray[np.int32], kept: int) -> NDArray[np.int64]:
    """Flat positions of each row's `kept` largest non-zero items, earlier ones first among equals."""
    rows, length = magnitudes.shape
    smallest = np.partition(magnitudes, length - kept, axis=1)[:, length - kept]
    np.maximum(smallest, 1, out=smallest)
    candidates = np.flatnonzero(magnitudes >= smallest[:, None])
    if candidates.size <= rows * kept:
        counts = np.bincount(candidates // length, minlength=rows)
        if int(counts.max()) <= kept:
            return candidates
    return candidates[_without_late_ties(magnitudes.reshape(-1)[candidates], candidates // length, smallest, kept)]


def _without_late_ties(
    magnitudes: NDArray[np.int32], row: NDArray[np.int64], smallest: NDArray[np.int32], kept: int
) -> NDArray[np.bool_]:
    """Which candidates stay when a row has more than `kept` of them because several equal its smallest."""
    tied = magnitudes == smallest[row]
    above = np.bincount(row[~tied], minlength=smallest.size)
    order = np.cumsum(tied)
    before_row = np.concatenate([[0], order])[np.searchsorted(row, np.arange(smallest.size))]
    stays: NDArray[np.bool_] = ~tied | (order - before_row[row] <= (kept - above)[row])
    return stays
