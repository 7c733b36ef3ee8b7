"""Trunk `mlp`: a multilayer perceptron over fingerprint and descriptors, or an ensemble of such. Imports no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import TensorSpec
from kmel_p2p.learn.models.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from kmel_p2p.learn.models.perceptron import PerceptronBody

FIRST_LAYER_GAIN = 1.0
"""Half-width of the first layer's initial values, relative to 1/sqrt(fan-in)."""


def perceptron_tensors(architecture: Architecture, inputs: int) -> list[TensorSpec]:
    """Weights [outputs, inputs] and biases of each hidden layer; with a leading dimension in an ensemble.

    Initial half-widths are 1/sqrt(fan-in), as in LeCun et al. 1998 and in torch's default for linear layers; biases
    start at zero.
    """
    specs = []
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise((inputs, *architecture.hidden))):
        gain = FIRST_LAYER_GAIN if layer == 0 else 1.0
        shape = (*architecture.ensemble, fan_out, fan_in)
        specs.append(TensorSpec(f"trunk.{layer}.weight", shape, gain / math.sqrt(fan_in)))
        specs.append(TensorSpec(f"trunk.{layer}.bias", shape[:-1], 0.0))
    return specs


def perceptron_cost(architecture: Architecture, inputs: int) -> int:
    """Multiplications for one compound."""
    widths = (inputs, *architecture.hidden)
    return architecture.members * sum(before * after for before, after in itertools.pairwise(widths))


@dataclass(frozen=True, slots=True)
class Mlp:
    """See `registry.TrunkKind`."""

    name: str = "mlp"
    summary: str = "fingerprint and descriptors"
    extra: str = ""
    packages: tuple[str, ...] = ()
    keys: frozenset[str] = frozenset({"members"})
    by_input: frozenset[str] = frozenset({"trunk.0.weight"})
    perceptron: bool = True
    compound_gradients: bool = False
    drafted: Mapping[str, Any] = field(default_factory=dict)

    def check(self, architecture: Architecture) -> None:
        """Any architecture will do."""

    def tensors(self, architecture: Architecture) -> list[TensorSpec]:
        return perceptron_tensors(architecture, architecture.inputs)

    def cost(self, architecture: Architecture) -> int:
        return perceptron_cost(architecture, architecture.inputs)

    def body(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> PerceptronBody:
        from kmel_p2p.learn.models.perceptron import PerceptronBody

        return PerceptronBody(architecture, tensors)

    def projection(self, architecture: Architecture) -> None:
        return None

    def molecules(self, smiles: Sequence[str]) -> None:
        return None

    def reference_hash(self, smiles: Sequence[str], model: ModelRule, bits: int) -> str:
        return ""


KIND = Mlp()
