"""Where the sent values of a matrix cluster: levels of its columns and rows.

Supports of real training deltas are far from random. A column of the first layer belongs to one input feature, and
is as hot as that feature is frequent; rows of dead neurons stay cold. A *level* says by how many octaves a column (or
row) is hotter than average; cells whose levels add up alike form a class with its own Golomb parameter. Describing the
levels costs a few hundred bytes and saves up to 3 of 7.5 bits per position (docs/delta.md has the measurement).

The rule below is part of the format: levels are a function of the support alone, in integer arithmetic, so a delta
has one spelling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

MAX_LEVEL = 3
LEVELS = 2 * MAX_LEVEL + 1

_PRIOR = 2
"""Counts added to every column, so that rare ones do not get extreme levels by chance."""

_HEADER_BITS = 128
"""What describing an axis costs besides its levels."""

_INVERSE_LN2 = 23637
"""1 / ln 2 in units of 2**-14."""

MIN_CELLS_PER_LINE = 16
"""A matrix with fewer cells per row and column than this is not worth describing."""


Order: TypeAlias = tuple[int, ...]
"""The seven levels plus 3, the most frequent one first."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Levels of the rows or the columns of one tensor.

    Attributes:
        levels: int64[lines], each in [-3, 3].
        order: their frequency order, in which each level's place is written in unary.
    """

    levels: NDArray[np.int64]
    order: Order

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Axis):
            return NotImplemented
        return self.order == other.order and np.array_equal(self.levels, other.levels)

    def ranks(self) -> NDArray[np.int64]:
        """Each line's level as its place in `order`, int64[lines]."""
        place = np.empty(LEVELS, np.int64)
        place[list(self.order)] = np.arange(LEVELS)
        return place[self.levels + MAX_LEVEL]


@dataclass(frozen=True, slots=True)
class Structure:
    """What is known about a tensor's support; None where an axis is not described."""

    rows: Axis | None
    columns: Axis | None

    @property
    def is_flat(self) -> bool:
        """Whether nothing is described: all cells are one class."""
        return self.rows is None and self.columns is None

    @property
    def classes(self) -> range:
        """Sums of levels that can occur."""
        return classes_of(self.rows is not None, self.columns is not None)


FLAT = Structure(None, None)


def classes_of(rows: bool, columns: bool) -> range:
    """Sums of levels that can occur when these axes are described."""
    reach = MAX_LEVEL * (rows + columns)
    return range(-reach, reach + 1)


def may_be_structured(rows: int, columns: int) -> bool:
    """Whether the format allows levels for a matrix of this shape."""
    return rows > 1 and columns > 1 and MIN_CELLS_PER_LINE * (rows + columns) <= rows * columns


def describe(positions: NDArray[np.int64], rows: int, columns: int) -> Structure:
    """The structure under which a support is written.

    Args:
        positions: int64[n], sent positions within the tensor, row by row.
        rows: first dimension of the tensor.
        columns: its other dimensions multiplied.
    """
    if not may_be_structured(rows, columns):
        return FLAT
    row = positions // columns
    return Structure(
        _axis(np.bincount(row, minlength=rows)),
        _axis(np.bincount(positions - row * columns, minlength=columns)),
    )


def _axis(counts: NDArray[np.int64]) -> Axis | None:
    """Levels of the lines with these counts, or None when they do not pay."""
    total, lines = int(counts.sum()), counts.size
    levels = np.searchsorted(_thresholds(total, lines), counts + _PRIOR, side="right") - MAX_LEVEL
    frequency = np.bincount(levels + MAX_LEVEL, minlength=LEVELS)
    axis = Axis(levels, tuple(np.argsort(-frequency, kind="stable").tolist()))
    cost = int(axis.ranks().sum()) + lines + _HEADER_BITS
    # Log-likelihood ratio of Poisson counts with and without levels, in bits times 2**17 times lines.
    weighted = int(counts @ levels)
    excess = int(frequency @ (2 ** np.arange(LEVELS) - 2**MAX_LEVEL))
    gain = (weighted * lines << 17) - _INVERSE_LN2 * total * excess
    return axis if gain > cost * lines << 17 else None


def _thresholds(total: int, lines: int) -> list[int]:
    """Smallest count plus prior of levels -2 to 3: level = round(log2(ratio to the mean)), in integers.

    x reaches level l when x * lines >= 2**(l - 1/2) * (total + prior * lines).
    """
    mean_squared = (total + _PRIOR * lines) ** 2
    thresholds = []
    for level in range(1 - MAX_LEVEL, MAX_LEVEL + 1):
        square = -(-(mean_squared << 2 * (level + MAX_LEVEL)) >> 2 * MAX_LEVEL + 1)
        thresholds.append(-(-(math.isqrt(square - 1) + 1) // lines))
    return thresholds
