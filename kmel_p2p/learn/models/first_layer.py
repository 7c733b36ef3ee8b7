"""The first layer over fingerprints, of which a molecule has a few dozen environments among thousands.

Instead of multiplying by all the zeros, it sums the weights of the environments that occur, each times its input, and
adds the product of the descriptors: an embedding bag. The same function as the dense layer, to the rounding of a sum in
another order, and a step costs two thirds (docs/benchmarks.md). A network keeps the weights of this layer by input, so
that those of one environment lie together; everywhere else they are [outputs, inputs] (`Network.trunk_values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SUMMED = 1 << 20
"""Values of gradients that are summed at a time."""

MOST_OCCURRING = 0.1
"""Rows of which a larger share of the fingerprint occurs are multiplied as they are: then that is faster."""


@dataclass(frozen=True, slots=True)
class SparseRows:
    """n rows of inputs, by what occurs in their fingerprints.

    Attributes:
        positions: int64[k] places of the environments that occur, row after row.
        begins: int64[n]: where each row begins in `positions`.
        owners: int64[k]: the row of each of them.
        values: float32[k] inputs there.
        descriptors: float32[n, descriptors].
    """

    positions: NDArray[np.int64]
    begins: NDArray[np.int64]
    owners: NDArray[np.int64]
    values: NDArray[np.float32]
    descriptors: Tensor

    @classmethod
    def of(cls, rows: NDArray[np.float32], width: int) -> SparseRows | None:
        """From float32[n, inputs], of which the first `width` are the fingerprint; None where too much occurs."""
        fingerprints = rows[:, :width]
        # Ten times as fast as `np.nonzero` of two dimensions of floats.
        owners, positions = np.divmod(np.flatnonzero(fingerprints != 0), width)
        if len(positions) > MOST_OCCURRING * fingerprints.size or not len(positions):
            return None
        begins = np.searchsorted(owners, np.arange(len(rows)))
        descriptors = torch.from_numpy(np.ascontiguousarray(rows[:, width:]))
        return cls(positions, begins, owners, fingerprints[owners, positions], descriptors)


class SparseLinear:
    """A linear layer over `SparseRows`, or the layers of all members of an ensemble side by side.

    Args:
        weight: float32[outputs, inputs] or [members, outputs, inputs]; its memory is ordered by input, like that of its
            `.grad`, which takes the gradient.
        bias: float32[outputs] or [members, outputs].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        assert weight.grad is not None
        self._bias = bias
        self._table, self._gradient = _by_input(weight.detach()), _by_input(weight.grad)

    def __call__(self, rows: SparseRows) -> Tensor:
        """float32[n, outputs], or [n, members * outputs]."""
        result: Tensor = _Sum.apply(self._bias.view(-1), self._table, self._gradient, rows)  # type: ignore[no-untyped-call]
        return result


class _Sum(torch.autograd.Function):
    """Adds the gradient of the table where it belongs: nearly all of its rows are zero, and a dense one would have to
    be made, filled and added in each step."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, table: Tensor, gradient: Tensor, rows: SparseRows) -> Tensor:
        ctx.gradient, ctx.rows = gradient, rows
        width = len(table) - rows.descriptors.shape[1]
        hidden = functional.embedding_bag(
            torch.from_numpy(rows.positions),
            table[:width],
            torch.from_numpy(rows.begins),
            mode="sum",
            per_sample_weights=torch.from_numpy(rows.values),
        )
        return hidden.addmm_(rows.descriptors, table[width:]).add_(bias)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (change,) = upstream
        rows, gradient = ctx.rows, ctx.gradient
        width = len(gradient) - rows.descriptors.shape[1]
        # The other way round it is a bag as well: of the rows in which an environment occurs.
        order = np.argsort(rows.positions, kind="stable")
        positions = rows.positions[order]
        begins = np.flatnonzero(np.diff(positions, prepend=-1))
        owners, values = torch.from_numpy(rows.owners[order]), torch.from_numpy(rows.values[order])
        ends = np.append(begins, len(positions))
        change = change.contiguous()
        # A few environments at a time: the sums of all that occur in a batch are as long as a large part of the layer.
        most = max(1, SUMMED // change.shape[1])
        for first in range(0, len(begins), most):
            part = ends[first : first + most + 1]
            within = slice(int(part[0]), int(part[-1]))
            sums = functional.embedding_bag(
                owners[within],
                change,
                torch.from_numpy(part[:-1] - part[0]),
                mode="sum",
                per_sample_weights=values[within],
            )
            gradient[:width].index_add_(0, torch.from_numpy(positions[part[:-1]]), sums)
        gradient[width:].addmm_(rows.descriptors.t(), change)
        return change.sum(0), None, None, None


def _by_input(weight: Tensor) -> Tensor:
    """float32[inputs, outputs of all members], the same memory."""
    return weight.movedim(-1, 0).view(weight.shape[-1], -1)
