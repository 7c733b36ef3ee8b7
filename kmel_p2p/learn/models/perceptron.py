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


def linear(tensors: Mapping[str, Tensor], name: str, inputs: Tensor, members: int) -> Tensor:
    """float32[members, n, outputs] from [n, inputs], the same for all members, or [members, n, inputs]."""
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    if members == 1:
        return functional.linear(inputs.view(-1, inputs.shape[-1]), weight, bias)[None]
    if inputs.dim() == 2:
        # One wide product for what all members read.
        wide = functional.linear(inputs, weight.view(-1, weight.shape[-1]), bias.view(-1))
        return wide.view(len(inputs), members, -1).transpose(0, 1)
    return torch.baddbmm(bias[:, None, :], inputs, weight.transpose(1, 2))


class Perceptron:
    """Hidden layers `trunk.0`, `trunk.1`, ..., each with ReLU and dropout."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        self._architecture, self._tensors = architecture, tensors

    def __call__(self, inputs: Tensor, training: bool) -> Tensor:
        """float32[members, n, hidden[-1]] from float32[n, inputs]."""
        shape, hidden = self._architecture, inputs
        for layer in range(len(shape.hidden)):
            hidden = functional.relu(linear(self._tensors, f"trunk.{layer}", hidden, shape.members))
            hidden = functional.dropout(hidden, shape.dropout, training)
        return hidden


class PerceptronBody(Perceptron):
    """The body of trunk `mlp`; see `registry.TrunkBody`."""

    def parts(self, rows: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(rows), most):
            yield rows[start : start + most]

    def read(self, rows: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(device())
