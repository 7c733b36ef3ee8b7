"""The ranks of a trainer that runs in several processes: one leads, the others follow its steps.

Only the leader has the daemon's pipe, the site's files and everything that a round is beside its steps. Before an
optimiser's first step here, and whenever somebody else changed what it trains, the leader hands the others network,
data, moments and settings. Then a step costs one small message and one sum of the flat gradient (all-reduce), from
which every rank takes the same step of AdamW.

What travels is JSON and arrays of plain numbers, never a pickle: the connections of torch's process group (gloo) are
not authenticated. They belong on one machine or on a cluster's own network.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import FileStore  # type: ignore[attr-defined]

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.learn.device import device
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.registry import kind_of
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.train.optimise import LocalOptimiser, OptimiserState, train_with

ORDERS_WAIT = timedelta(days=3650)
"""Followers wait for the next round as long as it takes. A leader that dies closes its connections."""

STEP_WAIT = timedelta(hours=1)
"""A sum that takes longer has lost a machine without a word."""

STEP, TAKE_OVER, END = 0, 1, 2
"""Kinds of orders: take a step; take over what follows; end."""


@dataclass(frozen=True, slots=True)
class SharedSettings:
    """What an optimiser needs of the leader's settings; see `optimise.OptimiserSettings`."""

    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


class LeaderGone(Exception):
    """There will be no further orders."""


class TrainerGroup:
    """This process among the ranks; see `optimise.Ranks`.

    Args:
        leads: whether this one has the daemon's pipe; exactly one of the ranks has.

    Raises:
        LocalError: none of the ranks leads, or several do.
    """

    def __init__(self, leads: bool) -> None:
        self.rank, self.size, self.leads = dist.get_rank(), dist.get_world_size(), leads
        # Two groups, because a wait for orders has no end and a sum has.
        self._orders = dist.new_group(backend="gloo", timeout=ORDERS_WAIT)
        claims = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(claims, torch.tensor([int(leads)]), group=self._orders)
        leaders = [rank for rank, claim in enumerate(claims) if int(claim)]
        if len(leaders) != 1:
            raise LocalError(f"{len(leaders)} of the trainer's {self.size} processes have a daemon; one must")
        self._leader = leaders[0]
        self._held: tuple[Any, ...] = ()
        """What the others have: an optimiser in a state."""
        self._dataset: Dataset | None = None

    def add_up(self, values: Tensor) -> None:
        """Replace float32 values by their sums over all ranks.

        Raises:
            LocalError: a rank is gone.
        """
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise LocalError(f"another process of this trainer is gone: {error}") from error

    def before_step(self, optimiser: LocalOptimiser, rate: float) -> None:
        """Where this rank leads: have the others take the step that comes next, at `rate` times the learning rate.

        Raises:
            LocalError: a rank is gone.
        """
        if not self.leads:
            return
        try:
            # Torch counts the changes of a tensor in place: steps are known, and anything else is from outside.
            if self._held != _state_of(optimiser):
                self._hand_over(optimiser)
            # Until the step is known to be taken here, too, the others may be ahead.
            self._held = ()
            self._order(STEP, rate)
        except RuntimeError as error:
            raise LocalError(f"another process of this trainer is gone: {error}") from error

    def after_step(self, optimiser: LocalOptimiser) -> None:
        """The others have taken it, too."""
        if self.leads:
            self._held = _state_of(optimiser)

    def end(self) -> None:
        """Have the others end."""
        self._order(END)

    def next_order(self) -> tuple[int, float]:
        """Kind and figure of the leader's next order; wait for it.

        Raises:
            LeaderGone: it does not come.
        """
        head = torch.zeros(2, dtype=torch.float64)
        try:
            dist.broadcast(head, self._leader, group=self._orders)
        except RuntimeError as error:
            raise LeaderGone from error
        return int(head[0]), float(head[1])

    def take_over(self, length: int, held: Dataset | None) -> LocalOptimiser:
        """What the leader hands over, as an optimiser of this rank.

        Args:
            length: of the description in bytes.
            held: the data taken over before.
        """
        text = torch.empty(length, dtype=torch.uint8)
        dist.broadcast(text, self._leader, group=self._orders)
        facts = json.loads(bytes(text.numpy()))
        arrays = iter([self._receive(np.dtype(kind), tuple(shape)) for kind, shape in facts["arrays"]])
        architecture = Architecture.model_validate_json(facts["architecture"])
        trunk, private, first, second = (next(arrays) for _ in range(4))
        dataset = held
        if facts["dataset"] is not None:
            dataset = _received_dataset(architecture, facts["dataset"], arrays)
        if dataset is None:
            raise LocalError("the leading process sent no data")
        network = Network(architecture)
        network.load(trunk)
        network.load_private(private)
        optimiser = LocalOptimiser(network, dataset, SharedSettings(**facts["settings"]), facts["private_only"])
        optimiser.restore(OptimiserState(first, second, facts["steps"], facts["fresh_at"]))
        return optimiser

    def _order(self, kind: int, figure: float = 0.0) -> None:
        dist.broadcast(torch.tensor([kind, figure], dtype=torch.float64), self._leader, group=self._orders)

    def _hand_over(self, optimiser: LocalOptimiser) -> None:
        network, state, dataset = optimiser.network, optimiser.state(), optimiser.dataset
        arrays: list[NDArray[Any]] = [network.trunk_values(), network.private_values(), state.first, state.second]
        described = None
        if dataset is not self._dataset:
            described, of_dataset = _described_dataset(dataset)
            arrays += of_dataset
        settings = optimiser.settings
        facts = {
            "architecture": network.architecture.model_dump_json(),
            "settings": {name: getattr(settings, name) for name in SharedSettings.__slots__},
            "private_only": optimiser.private_only,
            "steps": state.steps,
            "fresh_at": state.fresh_at,
            "dataset": described,
            "arrays": [(array.dtype.str, array.shape) for array in arrays],
        }
        text = json.dumps(facts).encode()
        self._order(TAKE_OVER, len(text))
        dist.broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8), self._leader, group=self._orders)
        for array in arrays:
            if array.size:
                # The bytes, because torch lacks some kinds of numbers that numpy has.
                flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
                dist.broadcast(torch.from_numpy(flat), self._leader, group=self._orders)
        self._dataset = dataset

    def _receive(self, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        array = np.empty(shape, kind)
        if array.size:
            dist.broadcast(torch.from_numpy(array.reshape(-1).view(np.uint8)), self._leader, group=self._orders)
        return array


@contextmanager
def joined(leads: bool, store: str, rank: int, size: int) -> Iterator[TrainerGroup]:
    """Join the ranks, and have every optimiser of this process share its steps with them until the end.

    Args:
        store: a file where they find each other; empty: as the environment says (torchrun).
    """
    backend = "cpu:gloo,cuda:nccl" if device().type == "cuda" else "gloo"
    found = FileStore(store, size) if store else None
    dist.init_process_group(backend, store=found, rank=rank, world_size=size, timeout=STEP_WAIT)
    try:
        group = TrainerGroup(leads)
        train_with(group)
        yield group
    finally:
        train_with(None)
        dist.destroy_process_group()


def follow(group: TrainerGroup) -> None:
    """Take the leader's steps until it ends.

    Raises:
        LocalError: another rank is gone in the middle of a step.
    """
    optimiser: LocalOptimiser | None = None
    dataset: Dataset | None = None
    while True:
        try:
            kind, figure = group.next_order()
        except LeaderGone:
            return
        if kind == TAKE_OVER:
            optimiser = None  # Its memory is needed for the next one.
            optimiser = group.take_over(int(figure), dataset)
            dataset = optimiser.dataset
        elif kind == STEP and optimiser is not None:
            optimiser.train(1, figure)
        else:
            return


def _state_of(optimiser: LocalOptimiser) -> tuple[Any, ...]:
    network = optimiser.network
    return weakref.ref(optimiser), optimiser.changes, optimiser.steps, network.trunk._version, network.private._version


def _described_dataset(dataset: Dataset) -> tuple[dict[str, Any], Sequence[NDArray[Any]]]:
    """The training fold, which is all that steps read."""
    counts, descriptors = dataset.inputs.features(dataset.train)
    described = {
        "width": counts.width,
        "smiles": [dataset.smiles[row] for row in dataset.train] if dataset.smiles else [],
    }
    return described, [
        counts.offsets,
        counts.positions,
        counts.values,
        descriptors,
        dataset.labels[dataset.train],
        dataset.relations[dataset.train],
    ]


def _received_dataset(architecture: Architecture, described: dict[str, Any], arrays: Iterator[NDArray[Any]]) -> Dataset:
    offsets, positions, values, descriptors, labels, relations = arrays
    smiles = tuple(described["smiles"])
    none = np.empty(0, np.int64)
    counts = CountMatrix(offsets, positions, values, described["width"])
    inputs = Inputs(counts, descriptors, kind_of(architecture).molecules(smiles))
    train = np.arange(len(labels), dtype=np.int64)
    return Dataset(architecture.endpoints, inputs, labels, relations, train, none, none, smiles)
