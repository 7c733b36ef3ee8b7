"""Many standardised structures with their features, column by column. Imports no RDKit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.features import descriptor_constants

MAX_COUNT = 255


@dataclass(frozen=True, slots=True)
class CountMatrix:
    """n rows of `width` counts.

    Attributes:
        offsets: int64[n + 1]; row i owns positions[offsets[i]:offsets[i + 1]].
        positions: uint16[nnz], ascending within a row.
        values: uint8[nnz], 1 to 255 (larger counts are clipped).
        width: positions per row, at most 65,536.
    """

    offsets: NDArray[np.int64]
    positions: NDArray[np.uint16]
    values: NDArray[np.uint8]
    width: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_rows(cls, rows: Iterable[NDArray[np.integer]], width: int) -> CountMatrix:
        """From dense rows of non-negative integers, each of length `width`."""
        lengths, positions, values = [0], [], []
        for row in rows:
            occupied = np.flatnonzero(row)
            lengths.append(len(occupied))
            positions.append(occupied.astype(np.uint16))
            values.append(np.minimum(row[occupied], MAX_COUNT).astype(np.uint8))
        return cls(
            np.cumsum(lengths, dtype=np.int64),
            np.concatenate(positions) if positions else np.empty(0, np.uint16),
            np.concatenate(values) if values else np.empty(0, np.uint8),
            width,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[CountMatrix], width: int) -> CountMatrix:
        """All rows of all parts, in order."""
        lengths = [np.diff(part.offsets) for part in parts]
        return cls(
            np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]))]).astype(np.int64),
            np.concatenate([np.empty(0, np.uint16), *(part.positions for part in parts)]),
            np.concatenate([np.empty(0, np.uint8), *(part.values for part in parts)]),
            width,
        )

    def take(self, rows: NDArray[np.integer]) -> CountMatrix:
        """The chosen rows, in the order given."""
        lengths, source = self._sources(rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return CountMatrix(offsets, self.positions[source], self.values[source], self.width)

    def dense(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """float32[len(rows), width] of the counts of the chosen rows."""
        filled = np.zeros((len(rows), self.width), np.float32)
        self.fill(filled, rows, np.arange(MAX_COUNT + 1, dtype=np.float32))
        return filled

    def fill(self, out: NDArray[np.float32], rows: NDArray[np.integer], levels: NDArray[np.float32]) -> None:
        """Write levels[count] for every count of the chosen rows that is not zero.

        Args:
            out: float32[len(rows), `width` or more]; other values are left alone.
            levels: float32[`MAX_COUNT` + 1].
        """
        lengths, source = self._sources(rows)
        out[np.repeat(np.arange(len(rows)), lengths), self.positions[source]] = levels[self.values[source]]

    def occupied(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """bool[len(rows), width]: which positions of the chosen rows are not zero."""
        lengths, source = self._sources(rows)
        filled = np.zeros((len(rows), self.width), np.bool_)
        filled[np.repeat(np.arange(len(rows)), lengths), self.positions[source]] = True
        return filled

    def _sources(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows = np.asarray(rows, np.int64)
        begins = self.offsets[rows]
        lengths = self.offsets[rows + 1] - begins
        ends = np.cumsum(lengths)
        ramp = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
        return lengths, np.repeat(begins, lengths) + ramp


@dataclass(frozen=True, slots=True)
class StructureTable:
    """n structures; row i of every column belongs together.

    Attributes:
        sources: SMILES as found.
        smiles: canonical SMILES after standardising, empty where `reasons` says why not.
        identities: what makes two records one compound (see `standardise.Structure`).
        scaffolds: Murcko scaffold, empty for acyclic compounds.
        series: what decides the fold (see `series.series`). These three are empty in tables for predicting alone.
        reasons: why a structure cannot be used; empty where it can.
        changes: what standardising changed (`parent.Change` as text), joined by "; "; empty where nothing was.
        counts: Morgan counts, n rows.
        descriptors: float32[n, number of descriptors], normalised.
    """

    sources: list[str]
    smiles: list[str]
    identities: list[str]
    scaffolds: list[str]
    series: list[str]
    reasons: list[str]
    changes: list[str]
    counts: CountMatrix
    descriptors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def concatenate(cls, parts: Sequence[StructureTable], bits: int) -> StructureTable:
        """All rows of all parts, in order."""
        empty = np.empty((0, len(descriptor_constants())), np.float32)
        return cls(
            [text for part in parts for text in part.sources],
            [text for part in parts for text in part.smiles],
            [text for part in parts for text in part.identities],
            [text for part in parts for text in part.scaffolds],
            [text for part in parts for text in part.series],
            [text for part in parts for text in part.reasons],
            [text for part in parts for text in part.changes],
            CountMatrix.concatenate([part.counts for part in parts], bits),
            np.concatenate([empty, *(part.descriptors for part in parts)]),
        )

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> StructureTable:
        """The chosen rows, in the order given."""
        chosen = np.asarray(rows, np.int64)
        return StructureTable(
            [self.sources[row] for row in chosen],
            [self.smiles[row] for row in chosen],
            [self.identities[row] for row in chosen],
            [self.scaffolds[row] for row in chosen],
            [self.series[row] for row in chosen],
            [self.reasons[row] for row in chosen],
            [self.changes[row] for row in chosen],
            self.counts.take(chosen),
            self.descriptors[chosen],
        )
