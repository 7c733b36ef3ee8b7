"""The grid of chunk scales and the tables of magnitude levels; together they make every value an exact integer.

A value is sign * level * scale * 2**-24. Scales are m * 2**e with m < 16, numbered 0 to 255 in increasing order: 1 to
7, then eight per octave from 8 on. Levels are small integers from a table that the encoder chooses per tensor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST_LEVEL = 16
"""First level of every table, so that a chunk's smallest magnitude fixes its scale."""

MAX_SCALE_INDEX = 255

TABLES: dict[int, NDArray[np.int64]] = {
    1: np.array([[16]], np.int64),
    2: np.array([[16, high] for high in (18, 20, 22, 24, 27, 32, 40, 64)], np.int64),
    4: np.array(
        [
            [16, 17, 18, 19, 20, 22, 24, 27],
            [16, 17, 19, 21, 23, 26, 29, 34],
            [16, 18, 20, 23, 26, 30, 36, 45],
            [16, 19, 22, 26, 31, 38, 48, 64],
            [16, 20, 25, 31, 39, 51, 69, 100],
            [16, 21, 28, 38, 52, 72, 104, 160],
            [16, 23, 33, 48, 71, 106, 160, 248],
            [16, 24, 37, 57, 88, 136, 210, 320],
        ],
        np.int64,
    ),
}
"""bits -> int64[tables, levels], increasing. The largest values of a chunk are a tail: many near the lowest level, few
above. The longer the tail, the larger the number of the table that fits."""

_DENORMAL = 7
_PER_OCTAVE = 8

SCALES: NDArray[np.int64] = np.array(
    [n + 1 for n in range(_DENORMAL)]
    + [(8 + n % _PER_OCTAVE) << (n // _PER_OCTAVE) for n in range(MAX_SCALE_INDEX + 1 - _DENORMAL)],
    np.int64,
)
"""int64[256]: scale number -> scale."""


def scale_index(scale: NDArray[np.floating]) -> NDArray[np.int64]:
    """Number of the largest scale that is at most `scale`; -1 when even the smallest is larger."""
    return np.searchsorted(SCALES, scale, side="right").astype(np.int64) - 1


def lowest_table(used: NDArray[np.bool_], table: int, bits: int) -> int:
    """The lowest table that contains every level in use, so that a delta has only one spelling.

    Args:
        used: bool[levels], codes in use.
        table: the table they refer to.
        bits: bits per value.
    """
    tables = TABLES[bits]
    levels = tables[table][used]
    for candidate in range(table):
        if np.isin(levels, tables[candidate]).all():
            return candidate
    return table
