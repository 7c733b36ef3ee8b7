"""Where the sent values of a matrix cluster: levels of its columns and rows, and cells numbered class by class.

Supports of real training deltas are far from random. A column of the first layer belongs to one input feature, and has
as many sent values as that feature is frequent; rows of dead neurons have few. A *level* says by how many octaves a
column (or row) has more sent values than average; cells with equal sums of levels form a class with its own Golomb
parameter. Describing the levels costs a few hundred bytes and saves up to 3 of 7.5 bits per position (docs/delta.md has
the measurement).

The rule is part of the format: levels are a function of the support alone, in integer arithmetic, so a delta has only
one spelling.

Cells of zero chunks are left out. The others are numbered row by row within their class; the sent ones are then a
short increasing list per class, whose gaps are Golomb-coded. No code lists all cells: the work is on rows, columns,
chunks and sent values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta.chunks import interval_of

MAX_LEVEL = 3
LEVELS = 2 * MAX_LEVEL + 1

_PRIOR = 2
"""Added to every count, so that rare columns do not get extreme levels by chance."""

_HEADER_BITS = 128
"""Cost of describing an axis, besides its levels."""

_INVERSE_LN2 = 23637
"""1 / ln 2 in units of 2**-14."""

MIN_CELLS_PER_LINE = 16
"""Fewest cells per row and column for which a matrix is worth describing."""


Order: TypeAlias = tuple[int, ...]
"""The seven levels, each plus 3, the most frequent first."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """Levels of the rows or the columns of one tensor.

    Attributes:
        levels: int64[lines], each in [-3, 3].
        order: levels by frequency; a line's level is written as its place here, in unary.
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
class MatrixStructure:
    """Levels of a matrix; None where an axis is not described."""

    rows: Axis | None
    columns: Axis | None

    @property
    def is_flat(self) -> bool:
        """Whether nothing is described: all cells are one class."""
        return self.rows is None and self.columns is None

    @property
    def classes(self) -> range:
        """The possible sums of levels."""
        return classes_of(self.rows is not None, self.columns is not None)


FLAT = MatrixStructure(None, None)


def classes_of(rows: bool, columns: bool) -> range:
    """The possible sums of levels when these axes are described."""
    reach = MAX_LEVEL * (rows + columns)
    return range(-reach, reach + 1)


def may_be_structured(rows: int, columns: int) -> bool:
    """Whether the format allows levels for a matrix of this shape."""
    return rows > 1 and columns > 1 and MIN_CELLS_PER_LINE * (rows + columns) <= rows * columns


def describe(positions: NDArray[np.int64], rows: int, columns: int) -> MatrixStructure:
    """The structure with which a support is written.

    Args:
        positions: int64[n], sent positions within the tensor, row by row.
        rows: first dimension of the tensor.
        columns: its other dimensions multiplied.
    """
    if not may_be_structured(rows, columns):
        return FLAT
    row = positions // columns
    return MatrixStructure(
        _axis(np.bincount(row, minlength=rows)),
        _axis(np.bincount(positions - row * columns, minlength=columns)),
    )


def _axis(counts: NDArray[np.int64]) -> Axis | None:
    """Levels of the lines with these counts; None when describing them does not pay."""
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


Ints = NDArray[np.int64]


class Cells:
    """The numbered cells of one tensor.

    Args:
        size: values of the tensor.
        columns: values per row.
        chunk: values per chunk.
        sent: bool[chunks of the tensor], which ones are not zero.
        structure: levels of rows and columns.
    """

    def __init__(
        self, size: int, columns: int, chunk: int, sent: NDArray[np.bool_], structure: MatrixStructure
    ) -> None:
        self._structure = structure
        chunk_starts = np.arange(0, size, chunk)
        starts = chunk_starts[sent]
        if structure.is_flat:
            self._starts, self._lengths = starts, np.minimum(chunk, size - starts)
            return
        # Pieces: maximal runs of cells in one row and one non-zero chunk.
        edges = np.union1d(np.arange(0, size, columns), chunk_starts)
        kept = sent[edges // chunk]
        self._starts = edges[kept]
        self._lengths = np.diff(edges, append=size)[kept]
        row = self._starts // columns
        self._first = self._starts - row * columns
        self._row_start = row * columns
        self._row_level = np.zeros(row.size, np.int64) if structure.rows is None else structure.rows.levels[row]
        levels = np.zeros(columns, np.int64) if structure.columns is None else structure.columns.levels
        self._column_level = levels
        is_level = levels[None, :] == np.arange(-MAX_LEVEL, MAX_LEVEL + 1)[:, None]
        self._prefix = np.zeros((LEVELS, columns + 1), np.int64)
        np.cumsum(is_level, axis=1, out=self._prefix[:, 1:])
        self._by_level = np.argsort(levels, kind="stable")
        self._level_start = np.cumsum(self._prefix[:, -1]) - self._prefix[:, -1]

    def numbers(self, positions: Ints) -> list[Ints]:
        """The numbers, class by class, of the cells at `positions` (int64[n], increasing, none in a zero chunk)."""
        piece = interval_of(positions, self._starts)
        if self._structure.is_flat:
            _, lengths, _ = self._pieces(0)
            return [positions - (self._starts - _before(lengths))[piece]]
        column = positions - self._row_start[piece]
        level = self._column_level[column]
        total = level + self._row_level[piece]
        found = []
        for number in self._structure.classes:
            mine = np.flatnonzero(total == number)
            _, lengths, skipped = self._pieces(number)
            offset = _before(lengths) - skipped
            found.append(offset[piece[mine]] + self._prefix[level[mine] + MAX_LEVEL, column[mine]])
        return found

    def positions(self, numbers: list[Ints]) -> Ints:
        """The positions of the cells with these numbers, int64[n], increasing; the inverse of `numbers`.

        Raises:
            WireError: a class has no cell with that number.
        """
        parts = [self._class_positions(*pair) for pair in zip(self._structure.classes, numbers, strict=True)]
        return parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))

    def _class_positions(self, number: int, numbers: Ints) -> Ints:
        if not numbers.size:
            return numbers
        level, lengths, skipped = self._pieces(number)
        if int(numbers[-1]) >= int(lengths.sum()):
            raise WireError("a position is outside its tensor")
        before = _before(lengths)
        piece = interval_of(numbers, before)
        within = numbers - (before - skipped)[piece]
        if self._structure.is_flat:
            return np.add(self._starts[piece], within)
        columns = self._by_level[self._level_start[level[piece]] + within]
        found: Ints = self._row_start[piece] + columns
        return found

    def _pieces(self, number: int) -> tuple[Ints, Ints, Ints]:
        """Per piece: the column level (plus 3) that gives the class, its cells, and those before it in the row."""
        if self._structure.is_flat:
            nothing = np.zeros_like(self._starts)
            return nothing, self._lengths, nothing
        wanted = number - self._row_level + MAX_LEVEL
        level = np.clip(wanted, 0, LEVELS - 1)
        skipped = self._prefix[level, self._first]
        lengths = self._prefix[level, self._first + self._lengths] - skipped
        return level, np.where(level == wanted, lengths, 0), skipped


def _before(lengths: Ints) -> Ints:
    before: Ints = np.cumsum(lengths) - lengths
    return before
