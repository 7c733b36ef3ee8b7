"""The directed message-passing trunk (Yang et al., J Chem Inf Model 2019, 59, 3370), through chemprop (extra `gnn`).

Rows of features that carry their molecules' graphs, and chemprop's message passing over parameters that lie in a
network's flat vector. Only importing this module's functions' targets needs chemprop; the module itself does not.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from torch import Tensor

from kmel_p2p.core.errors import Bug, ConfigError
from kmel_p2p.learn.architecture import ATOM_FEATURES, BOND_FEATURES, GRAPH_TENSORS, Architecture
from kmel_p2p.learn.device import device


class GraphRows(np.ndarray[Any, np.dtype[np.float32]]):
    """float32[n, width] of features whose rows remember the graphs of their molecules.

    Everything that takes features (baselines, scores, predictors) works on it as on any other array; a `dmpnn` network
    finds the graphs. Slices of rows keep them; whatever else numpy makes of it forgets them.

    Attributes:
        graphs: one chemprop `MolGraph` per row.
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


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """What a `dmpnn` network reads: chemprop's batch of graphs and float32[n, descriptors]."""

    graph: Any
    descriptors: Tensor


def batch_of(rows: NDArray[np.float32], architecture: Architecture) -> GraphBatch:
    """Raises:
    Bug: the rows have no graphs.
    """
    graphs = getattr(rows, "graphs", None)
    if graphs is None:
        raise Bug("a dmpnn network was given features without graphs")
    plain = np.asarray(rows)
    descriptors = np.ascontiguousarray(plain[:, plain.shape[1] - architecture.descriptors :])
    graph = _chemprop().BatchMolGraph(list(graphs))
    graph.to(device())
    return GraphBatch(graph, torch.from_numpy(descriptors).to(device()))


@functools.lru_cache(maxsize=50_000)
def graph_of(smiles: str) -> Any:
    """chemprop's graph of a standardised structure (about 10 kB), kept for the next batch it is in."""
    molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise Bug(f"a standardised structure does not parse: {smiles!r:.120}")
    return _chemprop().featuriser(molecule)


def graphs_hash(smiles: Sequence[str]) -> str:
    """BLAKE2b-256 (hex) of the graphs of these structures; differs where chemprop describes atoms otherwise."""
    state = hashlib.blake2b(digest_size=32, person=b"kmel graphs 1")
    for text in smiles:
        graph = graph_of(text)
        state.update(f"{graph.V.shape} {graph.E.shape}\n".encode())
        for part, kind in ((graph.V, "<f4"), (graph.E, "<f4"), (graph.edge_index, "<i4")):
            state.update(np.ascontiguousarray(part).astype(kind).tobytes())
    return state.hexdigest()


class MessagePassing:
    """chemprop's bond message passing and mean readout over given tensors."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        chemprop = _chemprop()
        self._passing = chemprop.BondMessagePassing(
            d_v=ATOM_FEATURES,
            d_e=BOND_FEATURES,
            d_h=architecture.message_width,
            depth=architecture.depth,
            dropout=architecture.dropout,
        )
        names = {name for name, _ in self._passing.named_parameters()}
        if names != set(GRAPH_TENSORS):
            raise ConfigError(f"this version of chemprop has other parameters ({', '.join(sorted(names))}); {NEEDED}")
        for name in GRAPH_TENSORS:
            owner = self._passing.get_submodule(name.rpartition(".")[0])
            # A parameter that shares memory with the flat vector, and its gradient with the flat gradient.
            parameter = torch.nn.Parameter(tensors[f"trunk.graph.{name}"].detach())
            parameter.grad = tensors[f"trunk.graph.{name}"].grad
            setattr(owner, name.rpartition(".")[2], parameter)
        self._readout = chemprop.MeanAggregation()

    def __call__(self, batch: GraphBatch, training: bool) -> Tensor:
        """float32[n, message_width + descriptors]."""
        self._passing.train(training)
        atoms = self._passing(batch.graph)
        return torch.cat([self._readout(atoms, batch.graph.batch), batch.descriptors], dim=1)


NEEDED = "a dmpnn trunk needs chemprop 2.2: pip install 'kmel-p2p[gnn]'"


@dataclass(frozen=True, slots=True)
class _Chemprop:
    """What we use of the package; imported late, it takes seconds."""

    BondMessagePassing: Any
    MeanAggregation: Any
    BatchMolGraph: Any
    featuriser: Any


@functools.cache
def _chemprop() -> _Chemprop:
    try:
        from chemprop.data import BatchMolGraph
        from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
        from chemprop.nn import BondMessagePassing, MeanAggregation
    except ImportError as error:
        raise ConfigError(f"{NEEDED} ({error})") from None
    featuriser = SimpleMoleculeMolGraphFeaturizer()
    if (featuriser.atom_fdim, featuriser.bond_fdim) != (ATOM_FEATURES, BOND_FEATURES):
        raise ConfigError(
            f"this version of chemprop describes atoms by {featuriser.atom_fdim} and bonds by {featuriser.bond_fdim} "
            f"numbers instead of {ATOM_FEATURES} and {BOND_FEATURES}; {NEEDED}"
        )
    return _Chemprop(BondMessagePassing, MeanAggregation, BatchMolGraph, featuriser)
