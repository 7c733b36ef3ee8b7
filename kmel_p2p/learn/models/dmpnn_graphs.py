"""Molecular graphs of chemprop for trunk `dmpnn`, rows of features that carry them, and message passing over them.

Importing this module does not need chemprop (extra `gnn`); making a graph or a network does.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem
from torch import Tensor

from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.learn.device import device
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.dmpnn_layout import ATOM_FEATURES, BOND_FEATURES, GRAPH_TENSORS
from kmel_p2p.learn.models.graph_rows import Graph, GraphRows
from kmel_p2p.learn.models.perceptron import Perceptron


class _Kinds:
    """Distinct rows of features, each stored once: a few hundred describe the atoms of all molecules.

    Grows with what the process has seen, and never by more than one row per atom or bond. Threads may share it, as they
    do where a service predicts.
    """

    def __init__(self, width: int) -> None:
        self._numbers: dict[bytes, int] = {}
        self._rows = np.empty((64, width), np.float32)
        self._lock = threading.Lock()

    def number(self, rows: NDArray[Any]) -> NDArray[np.int32]:
        """int32[n]: the kind of each row of float[n, width]; new ones are added."""
        rows = np.ascontiguousarray(rows, np.float32)
        with self._lock:
            return np.fromiter(map(self._number, rows), np.int32, len(rows))

    def rows(self, numbers: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32[n, width]: the features of each kind."""
        return self._rows[numbers]

    def _number(self, row: NDArray[np.float32]) -> int:
        number = self._numbers.setdefault(row.tobytes(), len(self._numbers))
        if number == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[number] = row
        return number


_ATOMS, _BONDS = _Kinds(ATOM_FEATURES), _Kinds(BOND_FEATURES)


class MoleculeGraphs:
    """Graphs of n molecules, each made when first asked for (0.4 ms) and kept (0.7 kB); see `registry.Molecules`."""

    def __init__(self, smiles: Sequence[str]) -> None:
        self._smiles = smiles
        self._graphs: list[Graph | None] = [None] * len(smiles)

    def attach(self, features: NDArray[np.float32], rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return GraphRows.of(features, [self._graph(int(row)) for row in rows])

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        for row in range(len(self._graphs)):
            self._graph(row)
            progress(row + 1, len(self._graphs))

    def _graph(self, row: int) -> Graph:
        graph = self._graphs[row]
        if graph is None:
            graph = self._graphs[row] = graph_of(self._smiles[row])
        return graph


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """What a `dmpnn` network reads: n molecules as one graph of a atoms and e directed bonds.

    Attributes:
        atoms: float32[a, ATOM_FEATURES].
        bonds: float32[e, ATOM_FEATURES + BOND_FEATURES]; features of the atom a bond leaves, then its own.
        source, target: int64[e] atoms that a bond leaves and reaches.
        reverse: int64[e] the same bonds the other way.
        molecule: int64[a] the molecule of each atom.
        sizes: float32[n, 1] atoms of each molecule.
        descriptors: float32[n, descriptors].
    """

    atoms: Tensor
    bonds: Tensor
    source: Tensor
    target: Tensor
    reverse: Tensor
    molecule: Tensor
    sizes: Tensor
    descriptors: Tensor


def with_graphs(rows: NDArray[np.float32]) -> GraphRows:
    """The same rows.

    Raises:
        Bug: they have no graphs.
    """
    if not isinstance(rows, GraphRows) or not hasattr(rows, "graphs"):
        raise Bug("a dmpnn network was given features without graphs")
    return rows


def batch_of(rows: GraphRows, architecture: Architecture) -> GraphBatch:
    """The molecules of these rows as one graph, on the process's device."""
    graphs, plain = rows.graphs, np.asarray(rows)
    sizes = np.array([len(graph.atoms) for graph in graphs])
    joined = np.concatenate([graph.bonds for graph in graphs], axis=1)
    ends = joined[1:] + np.repeat(np.cumsum(sizes) - sizes, [graph.bonds.shape[1] for graph in graphs])
    # Each bond there and back: 2i leads from its first atom to its second, 2i + 1 back.
    source, target = ends.T.ravel(), ends[::-1].T.ravel()
    atoms = _ATOMS.rows(np.concatenate([graph.atoms for graph in graphs]))
    bonds = np.concatenate([atoms[source], _BONDS.rows(np.repeat(joined[0], 2))], axis=1)
    parts: tuple[NDArray[Any], ...] = (
        atoms,
        bonds,
        source,
        target,
        np.arange(len(source)) ^ 1,
        np.repeat(np.arange(len(graphs)), sizes),
        sizes[:, None].astype(np.float32),
        np.ascontiguousarray(plain[:, plain.shape[1] - architecture.descriptors :]),
    )
    return GraphBatch(*(torch.from_numpy(part).to(device()) for part in parts))


def graph_of(smiles: str) -> Graph:
    """The graph of a standardised structure, as chemprop describes it."""
    found = _described(smiles)
    if not np.array_equal(found.rev_edge_index, np.arange(len(found.E)) ^ 1):
        raise ConfigError(f"this version of chemprop orders bonds differently; {NEEDED}")
    forward = slice(None, None, 2)
    bonds = np.concatenate([_BONDS.number(found.E[forward])[None], found.edge_index[:, forward]])
    return Graph(_ATOMS.number(found.V), bonds.astype(np.int32))


def _described(smiles: str) -> Any:
    """chemprop's `MolGraph`: dense features of atoms and of bonds, there and back; about 15 kB."""
    molecule: Chem.Mol | None = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise Bug(f"a standardised structure does not parse: {smiles!r:.120}")
    return _chemprop().featuriser(molecule)


def graphs_hash(smiles: Sequence[str]) -> str:
    """BLAKE2b-256 (hex) of the graphs of these structures; differs where chemprop computes different features."""
    state = hashlib.blake2b(digest_size=32, person=b"kmel graphs 1")
    for text in smiles:
        graph = _described(text)
        state.update(f"{graph.V.shape} {graph.E.shape}\n".encode())
        for part, kind in ((graph.V, "<f4"), (graph.E, "<f4"), (graph.edge_index, "<i4")):
            state.update(np.ascontiguousarray(part).astype(kind).tobytes())
    return state.hexdigest()


class MessagePassing:
    """chemprop's bond message passing over given tensors, and the mean over the atoms of a molecule."""

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

    def __call__(self, batch: GraphBatch, training: bool) -> Tensor:
        """float32[n, message_width + descriptors]."""
        self._passing.train(training)
        atoms = self._atoms(batch)
        # In float32, also where the passes are bfloat16: a sum over many atoms needs the digits.
        sums = _sums(atoms.float(), batch.molecule, len(batch.sizes))
        return torch.cat([sums / batch.sizes, batch.descriptors], dim=1)

    def _atoms(self, batch: GraphBatch) -> Tensor:
        """float32[a, message_width]: chemprop's `BondMessagePassing.forward`.

        The same sums by other kernels: chemprop's (`scatter_reduce_`, an index as wide as the messages) took a third of
        a training step on a CPU.
        """
        count = len(batch.atoms)
        first = self._passing.W_i(batch.bonds)
        messages = self._passing.tau(first)
        for _ in range(1, self._passing.depth):
            arrived = _sums(messages, batch.target, count).index_select(0, batch.source)
            messages = self._passing.update(arrived - messages.index_select(0, batch.reverse), first)
        atoms: Tensor = self._passing.finalize(_sums(messages, batch.target, count), batch.atoms, None)
        return atoms


class DmpnnBody:
    """Message passing, then a perceptron; see `registry.TrunkBody`."""

    def __init__(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> None:
        self._architecture = architecture
        self._passing = MessagePassing(architecture, tensors)
        self._perceptron = Perceptron(architecture, tensors)

    def parts(self, rows: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
        for start, stop in with_graphs(rows).cuts(most):
            yield with_graphs(rows).part(start, stop)

    def read(self, rows: NDArray[np.float32]) -> GraphBatch:
        return batch_of(with_graphs(rows), self._architecture)

    def __call__(self, reading: GraphBatch, training: bool) -> Tensor:
        return self._perceptron(self._passing(reading, training), training)


def _sums(rows: Tensor, places: Tensor, count: int) -> Tensor:
    """float[count, width]: sums of the rows that belong to each place."""
    return rows.new_zeros(count, rows.shape[1]).index_add_(0, places, rows)


NEEDED = "a dmpnn trunk needs chemprop 2.2: pip install 'kmel-p2p[gnn]'"


@dataclass(frozen=True, slots=True)
class _Chemprop:
    """What we use of the package; imported late, it takes seconds."""

    BondMessagePassing: Any
    featuriser: Any


@functools.cache
def _chemprop() -> _Chemprop:
    try:
        from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
        from chemprop.nn import BondMessagePassing
    except ImportError as error:
        raise ConfigError(f"{NEEDED} ({error})") from None
    featuriser = SimpleMoleculeMolGraphFeaturizer()
    if (featuriser.atom_fdim, featuriser.bond_fdim) != (ATOM_FEATURES, BOND_FEATURES):
        raise ConfigError(
            f"this version of chemprop describes atoms by {featuriser.atom_fdim} and bonds by {featuriser.bond_fdim} "
            f"numbers instead of {ATOM_FEATURES} and {BOND_FEATURES}; {NEEDED}"
        )
    return _Chemprop(BondMessagePassing, featuriser)
