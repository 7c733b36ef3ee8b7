"""Fully connected layers over parameters of a network, those of one network or of an ensemble side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kmel_p2p.learn.device import device
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.dropout import dropout
from kmel_p2p.learn.models.first_layer import SparseLinear, SparseRows
from kmel_p2p.learn.models.graph_rows import parts_of


def linear(tensors: Mapping[str, Tensor], name: str, inputs: Tensor, members: int) -> Tensor:
    """float32[members, n, outputs] from [n, inputs], the same for all members, or [members, n, inputs]."""
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    if members == 1:
        return functional.linear(inputs.view(-1, inputs.shape[-1]), weight, bias)[None]
    if inputs.dim() == 2:
        # One wide product for what all members read.
        wide = functional.linear(inputs, weight.flatten(0, 1), bias.view(-1))
        return wide.view(len(inputs), members, -1).transpose(0, 1)
    return torch.baddbmm(bias[:, None, :], inputs, weight.transpose(1, 2))


class Perceptron:
    """Hidden layers `trunk.0`, `trunk.1`, ..., each with ReLU and dropout."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        self._architecture, self._tensors = architecture, tensors

    def parts(self, rows: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
        """See `registry.TrunkBody`."""
        return parts_of(rows, most)

    def __call__(self, inputs: Tensor, training: bool) -> Tensor:
        """float32[members, n, hidden[-1]] from float32[n, inputs]."""
        return self._further(linear(self._tensors, "trunk.0", inputs, self._architecture.members), training)

    def _further(self, hidden: Tensor, training: bool) -> Tensor:
        """Everything above the first product, float32[members, n, hidden[0]]."""
        shape = self._architecture
        for layer in range(len(shape.hidden)):
            if layer:
                hidden = linear(self._tensors, f"trunk.{layer}", hidden, shape.members)
            hidden = dropout(functional.relu(hidden), shape.dropout, training)
        return hidden


class PerceptronBody(Perceptron):
    """The body of trunk `mlp`; see `registry.TrunkBody`."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(architecture, tensors)
        self._width = architecture.inputs - architecture.descriptors
        self._first = SparseLinear(tensors["trunk.0.weight"], tensors["trunk.0.bias"])

    def read(self, rows: NDArray[np.float32]) -> SparseRows | Tensor:
        # A GPU multiplies faster than it gathers.
        sparse = SparseRows.of(rows, self._width) if device().type == "cpu" else None
        return sparse if sparse is not None else self._dense(rows)

    def __call__(self, inputs: SparseRows | Tensor, training: bool) -> Tensor:
        if not isinstance(inputs, SparseRows):
            return super().__call__(inputs, training)
        wide = self._first(inputs)
        hidden = wide.view(len(wide), self._architecture.members, -1).transpose(0, 1)
        return self._further(hidden, training)

    def _dense(self, rows: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(device())
