"""Numbering the cells of a tensor class by class, without ever listing them.

Cells of zero chunks are left out. The others are numbered row by row within their class; the sent ones are then a
short increasing list per class, whose gaps are Golomb-coded. All work is on rows, columns, chunks and sent values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta.chunks import interval_of
from kmel_p2p.delta.structure import LEVELS, MAX_LEVEL, Structure

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

    def __init__(self, size: int, columns: int, chunk: int, sent: NDArray[np.bool_], structure: Structure) -> None:
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
        """Class by class, the numbers of the cells at `positions` (int64[n], increasing, none in a zero chunk)."""
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
            WireError: a class has no cell of that number.
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
        """Per piece: the column level (plus 3) that makes up the class, its cells, and those of the row before it."""
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
