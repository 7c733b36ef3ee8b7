"""Between the order of a layout and that of a network's memory, one piece of a few megabytes after another.

Whole copies in the other order would be as long as the trunk, and transposing a large matrix at once misses the cache
at every value.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kmel_p2p.delta.layout import Layout

PIECE = 1 << 20
"""Values of a piece, at most; more only where one row of a matrix is longer."""


class OwnOrder:
    """Where the values of a layout lie in vectors of a network: some matrices are kept by input there.

    Attributes:
        pieces: places in the layout that follow one another and cover it; `take` and `put` work on these.
    """

    def __init__(self, layout: Layout, by_input: frozenset[str]) -> None:
        self.size = layout.size
        self.pieces: list[slice] = []
        self._transposed: list[tuple[slice, int]] = []
        """The place of each matrix that is kept by input, and its inputs."""
        self._matrices: dict[int, tuple[slice, int, slice]] = {}
        """By where a piece begins: the place of its matrix, the inputs of that, and which of its rows the piece is."""
        plain = 0
        for spec in layout.specs:
            if spec.name not in by_input or not spec.size:
                continue
            place, inputs = layout.slices[spec.name], spec.shape[-1]
            self._transposed.append((place, inputs))
            self._add_plain(plain, place.start)
            rows, most = spec.size // inputs, max(1, PIECE // inputs)
            for first in range(0, rows, most):
                end = min(rows, first + most)
                start = place.start + first * inputs
                self.pieces.append(slice(start, place.start + end * inputs))
                self._matrices[start] = place, inputs, slice(first, end)
            plain = place.stop
        self._add_plain(plain, layout.size)

    def _add_plain(self, start: int, stop: int) -> None:
        self.pieces += [slice(at, min(at + PIECE, stop)) for at in range(start, stop, PIECE)]

    def take(self, values: Tensor, piece: slice) -> NDArray[np.float32]:
        """What lies at one of the pieces, as the layout says; in main memory. Do not write to it, nor keep it."""
        found = self._view(values, piece)
        return found.contiguous().cpu().numpy().reshape(-1)

    def put(self, values: Tensor, piece: slice, given: NDArray[np.float32]) -> None:
        """The opposite: write `given`, in the order of the layout, where it belongs in `values`."""
        target = self._view(values, piece)
        target.copy_(torch.from_numpy(np.array(given, np.float32)).view(target.shape))

    def places_of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where positions of the layout, int64[n], lie in a vector of the network, int64[n]."""
        found = positions.copy()
        for place, inputs in self._transposed:
            inside = (positions >= place.start) & (positions < place.stop)
            row, column = np.divmod(positions[inside] - place.start, inputs)
            found[inside] = place.start + column * ((place.stop - place.start) // inputs) + row
        return found

    def _view(self, values: Tensor, piece: slice) -> Tensor:
        matrix = self._matrices.get(piece.start)
        if matrix is None:
            return values.detach()[piece]
        place, inputs, rows = matrix
        return values.detach()[place].view(inputs, -1)[:, rows].t()
