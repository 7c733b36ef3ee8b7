"""Magnitudes to levels, with least squared error: a table per tensor, a scale per chunk, a code per value.

Receivers only see integers and cannot check the encoder's choice, so this part may use floats. What is not sent,
because it is far below the lowest level or above the highest, stays in the residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.delta.chunks import ChunkPlan
from kmel_p2p.delta.scale import LOWEST_LEVEL, MAX_SCALE_INDEX, SCALES, TABLES, scale_index

_SAMPLED_CHUNKS = 64
_SEARCH_STEPS = 36
"""Grid steps searched downwards from a chunk's largest magnitude: four and a half octaves."""

_TABLE_SCALES = np.exp2(np.arange(-32, 17) / 8.0)
"""Lowest levels tried when a table is chosen, relative to a chunk's mean magnitude."""

_ALMOST_ONE = 1.0 - 2.0**-20
"""Shrinking by at most this moves every scale down by one number at least."""

DROPPED = -1


@dataclass(slots=True)
class Fit:
    """The result of quantising. Rows are the non-empty chunks, columns their chosen values.

    Attributes:
        chunk: int64[rows], number of the chunk.
        scale: int64[rows], scale number, -1 when the row sends nothing.
        table: int64[tensors].
        codes: int8[rows, columns], level number, -1 where nothing is sent.
    """

    chunk: NDArray[np.int64]
    scale: NDArray[np.int64]
    table: NDArray[np.int64]
    codes: NDArray[np.int8]


def fit(magnitudes: NDArray[np.float32], chunk: NDArray[np.int64], plan: ChunkPlan) -> Fit:
    """Quantise the chosen magnitudes.

    Args:
        magnitudes: float32[rows, columns] in units of 2**-24; 0 where a row has fewer values.
        chunk: int64[rows], increasing chunk numbers.
        plan: the chunks.
    """
    bits = plan.parameters.bits
    table = np.zeros(plan.tensors, np.int64)
    tensor = plan.tensor[chunk]
    if TABLES[bits].shape[0] > 1:
        edges = np.searchsorted(tensor, np.arange(plan.tensors + 1)).tolist()
        for number, (first, end) in enumerate(pairwise(edges)):
            if first < end:
                stride = -(-(end - first) // _SAMPLED_CHUNKS)
                table[number] = _best_table(magnitudes[first:end:stride], TABLES[bits])
    levels = TABLES[bits][table[tensor]].astype(np.float32)
    scale = _best_scales(magnitudes, levels)
    codes = _codes(magnitudes, levels, scale)
    _use_lowest_level(magnitudes, levels, scale, codes)
    return Fit(chunk, scale, table, codes)


def limit_norm(result: Fit, plan: ChunkPlan, bound: int) -> None:
    """Lower the scales until the squared norm is at most `bound` squared; codes stay.

    Args:
        result: changed in place; rows whose scale would fall below the grid send nothing.
        plan: the chunks.
        bound: L2 norm in units of 2**-24.
    """
    squares = TABLES[plan.parameters.bits] ** 2
    levels = squares[result.table[plan.tensor[result.chunk]]]
    weights = np.zeros(result.scale.size, np.int64)
    for code in range(levels.shape[1]):
        weights += levels[:, code] * np.count_nonzero(result.codes == code, axis=1)
    while (norm_squared := _norm_squared(weights, result.scale)) > bound * bound:
        # Each scale rounds down, so one pass suffices unless this float ratio is slightly too large.
        shrink = min(_ALMOST_ONE, bound / math.sqrt(norm_squared))
        result.scale = np.where(result.scale < 0, -1, scale_index(SCALES[result.scale] * shrink))
    result.codes[result.scale < 0] = DROPPED


def _norm_squared(weights: NDArray[np.int64], scale: NDArray[np.int64]) -> int:
    pairs = zip(weights[scale >= 0].tolist(), SCALES[scale[scale >= 0]].tolist(), strict=True)
    return sum(weight * one * one for weight, one in pairs)


def _best_table(magnitudes: NDArray[np.float32], tables: NDArray[np.int64]) -> int:
    """The table of least squared error on a sample, with chunks scaled by their means.

    Errors of all tables and scales come from prefix sums over the sorted sample.
    """
    filled = np.count_nonzero(magnitudes, axis=1)
    rows = magnitudes[filled > 0].astype(np.float64)
    if not rows.size:
        return 0
    means = rows.sum(axis=1) / filled[filled > 0]
    sample = np.sort((rows / means[:, None])[rows > 0])
    sums = np.concatenate([[0.0], np.cumsum(sample)])
    levels = tables[:, None, :] / LOWEST_LEVEL * _TABLE_SCALES[None, :, None]
    below = np.concatenate([np.zeros_like(levels[..., :1]), levels], axis=-1)
    cuts = np.searchsorted(sample, (below[..., 1:] + below[..., :-1]) / 2)
    ends = np.concatenate([cuts[..., 1:], np.full_like(cuts[..., :1], sample.size)], axis=-1)
    # Sum over a cell of (a - c)**2 - a**2; the sum of a**2 is the same for every choice.
    change = levels * (levels * (ends - cuts) - 2.0 * (sums[ends] - sums[cuts]))
    return int(np.argmin(change.sum(axis=-1).min(axis=-1)))


def _best_scales(magnitudes: NDArray[np.float32], levels: NDArray[np.float32]) -> NDArray[np.int64]:
    """Scale number of least squared error per row, int64[rows]; -1 where sending nothing is best."""
    largest = magnitudes.max(axis=1, initial=0).astype(np.float64)
    top = scale_index(largest * (1.0 / LOWEST_LEVEL)) + 1
    best = np.full(top.size, -1, np.int64)
    least = np.einsum("ij,ij->i", magnitudes, magnitudes)
    for step in range(_SEARCH_STEPS):
        index = np.clip(top - step, 0, MAX_SCALE_INDEX)
        scaled = levels * SCALES[index].astype(np.float32)[:, None]
        error = magnitudes.copy()
        for code in range(levels.shape[1]):
            np.minimum(error, np.abs(magnitudes - scaled[:, code, None]), out=error)
        total = np.einsum("ij,ij->i", error, error)
        better = total < least
        least[better] = total[better]
        best[better] = index[better]
    return best


def _codes(magnitudes: NDArray[np.float32], levels: NDArray[np.float32], scale: NDArray[np.int64]) -> NDArray[np.int8]:
    scaled = levels * SCALES[np.maximum(scale, 0)].astype(np.float32)[:, None]
    codes = np.full(magnitudes.shape, DROPPED, np.int8)
    below = np.zeros(scale.size, np.float32)
    for code in range(levels.shape[1]):
        codes[magnitudes > ((below + scaled[:, code]) / 2)[:, None]] = code
        below = scaled[:, code]
    codes[scale < 0] = DROPPED
    return codes


def _use_lowest_level(
    magnitudes: NDArray[np.float32], levels: NDArray[np.float32], scale: NDArray[np.int64], codes: NDArray[np.int8]
) -> None:
    """Make every chunk use the lowest level, as the format requires: rescale so that its smallest value does."""
    rows = np.flatnonzero((codes >= 0).any(axis=1) & ~(codes == 0).any(axis=1))
    if not rows.size:
        return
    smallest = np.where(codes[rows] >= 0, magnitudes[rows], np.inf).min(axis=1) / LOWEST_LEVEL
    below = np.maximum(scale_index(smallest), 0)
    above = np.minimum(below + 1, MAX_SCALE_INDEX)
    scale[rows] = np.where(SCALES[above] - smallest < smallest - SCALES[below], above, below)
    codes[rows] = _codes(magnitudes[rows], levels[rows], scale[rows])
    # Where the grid is too coarse for that, the smallest value takes the lowest level all the same.
    column = np.where(codes[rows] >= 0, magnitudes[rows], np.inf).argmin(axis=1)
    codes[rows, column] = 0
