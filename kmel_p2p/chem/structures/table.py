"""Many standardised structures with their features, column by column. Imports no RDKit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.chem.structures.counts import CountMatrix


@dataclass(frozen=True, slots=True)
class StructureTable:
    """n structures; row i of every column belongs together.

    Attributes:
        sources: SMILES as found.
        smiles: canonical SMILES after standardising, empty where `reasons` says why not.
        identities: what makes two records one compound (see `standardise.Structure`).
        scaffolds: Murcko scaffold, empty for acyclic compounds.
        series: what decides the fold (see `scaffold.series`).
        reasons: why a structure cannot be used; empty where it can.
        counts: Morgan counts, n rows.
        descriptors: float32[n, number of descriptors], normalised.
    """

    sources: list[str]
    smiles: list[str]
    identities: list[str]
    scaffolds: list[str]
    series: list[str]
    reasons: list[str]
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
            self.counts.take(chosen),
            self.descriptors[chosen],
        )
