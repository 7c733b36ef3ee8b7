"""Rows of features that molecules' graphs, or other descriptions, come with. Imports neither torch nor chemprop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

MAX_BONDS = 4096
"""Directed bonds in a batch for prediction. A message of 300 numbers is 1.2 kB, and a few generations of messages exist
at a time; a batch by molecules alone would grow with their size."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One molecule, about 0.7 kB: its atoms and bonds as numbers of the kinds below.

    Attributes:
        atoms: int32[a] kinds of atoms.
        bonds: int32[3, b]; kind of bond, and the two atoms it joins.
    """

    atoms: NDArray[np.int32]
    bonds: NDArray[np.int32]


class GraphRows(np.ndarray[Any, np.dtype[np.float32]]):
    """float32[n, width] of features whose rows remember the graphs of their molecules.

    Everything that takes features (baselines, scores, predictors) works on it as on any other array; a network of
    graphs finds them. Slices of rows keep them; whatever else numpy makes of it forgets them.

    Attributes:
        graphs: one per row; for a trunk of a package, what the package describes molecules by.
    """

    graphs: Sequence[Any]

    @classmethod
    def of(cls, features: NDArray[np.float32], graphs: Sequence[Any]) -> Self:
        """The rows of `features` with their graphs."""
        rows = features.view(cls)
        rows.graphs = graphs
        return rows

    def part(self, start: int, stop: int) -> GraphRows:
        """Rows from `start` on, below `stop`."""
        return GraphRows.of(np.asarray(self)[start:stop], self.graphs[start:stop])

    def cuts(self, most: int) -> Iterator[tuple[int, int]]:
        """Consecutive parts (start, stop) of at most `most` rows and `MAX_BONDS` directed bonds, or one molecule."""
        start = bonds = 0
        for at, graph in enumerate(self.graphs):
            own = 2 * graph.bonds.shape[1]
            if at > start and (at - start == most or bonds + own > MAX_BONDS):
                yield start, at
                start, bonds = at, 0
            bonds += own
        if start < len(self.graphs):
            yield start, len(self.graphs)


def parts_of(rows: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
    """All rows in order, at most `most` at a time, with their graphs where they have some."""
    for start in range(0, len(rows), most):
        stop = start + most
        yield rows.part(start, stop) if isinstance(rows, GraphRows) else rows[start:stop]
