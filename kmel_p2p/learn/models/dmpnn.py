"""Trunk `dmpnn`: directed message passing over molecular graphs (Yang et al., J Chem Inf Model 2019, 59, 3370).

A perceptron reads the mean over the atoms and the descriptors. Imports neither torch nor chemprop (extra `gnn`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import TensorSpec
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.dmpnn_layout import graph_cost, graph_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from kmel_p2p.learn.models.dmpnn_graphs import DmpnnBody, MoleculeGraphs


@dataclass(frozen=True, slots=True)
class Dmpnn:
    """See `registry.TrunkKind`."""

    name: str = "dmpnn"
    summary: str = "molecular graphs and descriptors"
    extra: str = "gnn"
    packages: tuple[str, ...] = ("chemprop",)
    keys: frozenset[str] = frozenset({"message_width", "depth"})
    by_input: frozenset[str] = frozenset()
    perceptron: bool = False
    compound_gradients: bool = False
    drafted: Mapping[str, Any] = field(default_factory=dict)

    def check(self, architecture: Architecture) -> None:
        if not 0 <= architecture.descriptors <= architecture.inputs:
            raise ConfigError(
                f"a dmpnn trunk cannot read {architecture.descriptors} descriptors of {architecture.inputs} inputs"
            )
        if architecture.message_width < 1 or architecture.depth < 1:
            raise ConfigError(
                f"model.message_width and model.depth are {architecture.message_width} and {architecture.depth}; "
                "both must be above 0"
            )

    def tensors(self, architecture: Architecture) -> list[TensorSpec]:
        return graph_tensors(architecture)

    def cost(self, architecture: Architecture) -> int:
        return graph_cost(architecture)

    def body(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> DmpnnBody:
        from kmel_p2p.learn.models.dmpnn_graphs import DmpnnBody

        return DmpnnBody(architecture, tensors)

    def projection(self, architecture: Architecture) -> None:
        return None

    def molecules(self, smiles: Sequence[str]) -> MoleculeGraphs:
        from kmel_p2p.learn.models.dmpnn_graphs import MoleculeGraphs

        return MoleculeGraphs(smiles)

    def reference_hash(self, smiles: Sequence[str], model: ModelRule, bits: int) -> str:
        from kmel_p2p.learn.models.dmpnn_graphs import graphs_hash

        return graphs_hash(smiles)


KIND = Dmpnn()
