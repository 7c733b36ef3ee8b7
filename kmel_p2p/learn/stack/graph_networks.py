"""Graph networks of a site's own, as one learner of its stacks: an ensemble that reads bonds and atoms (extra `gnn`).

Each member is what a charter's trunk of graphs is (`registry.GRAPH_TRUNK`): chemprop's directed message passing, then a
perceptron that also reads the descriptors, with a head for every assay endpoint. All assay endpoints of the site train
it together. Nothing of it leaves the site, and no other site needs the extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.chem.structures.features import REFERENCE_MOLECULES
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.registry import GRAPH_MODEL, GRAPH_TRUNK, trunk_kind
from kmel_p2p.learn.stack.stored import Tensors, below, damaged, require, under
from kmel_p2p.learn.train.checkpoint import Parameters, train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings

GRAPHS = "graphs"
"""The learner that is the mean of the graph networks."""

MAX_MEMBERS = 10

MESSAGE_WIDTH, DEPTH, HIDDEN, DROPOUT = 300, 3, 300, 0.1
"""Chemprop's own sizes."""

BATCH, EPOCHS, RATE, WEIGHT_DECAY = 64, 30, 1e-3, 0.01
"""The rate falls along a cosine; of all passes over the training fold, the one that validation likes best is kept."""

OTHER_SEED = 104_729
"""Between the seeds of two members."""

NEEDED = "graph networks need chemprop 2.2: pip install 'kmel-p2p[gnn]'"


@dataclass(frozen=True, slots=True)
class GraphNetworks:
    """The trained ensemble, which networks and learners read like one network (`readings.LearnerInputs`).

    Attributes:
        architecture: of each member.
        members: their parameters.
        reference: hash of the reference molecules' graphs where they were trained.
    """

    architecture: Architecture
    members: tuple[Parameters, ...]
    reference: str

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The parameters as named arrays."""
        found: dict[str, NDArray[Any]] = {}
        for number, member in enumerate(self.members):
            found |= under(str(number), {"trunk": member.trunk, "private": member.private})
        return found

    def facts(self) -> dict[str, Any]:
        """What is no array, ready for JSON."""
        shape = self.architecture
        return {
            "members": len(self.members),
            "message_width": shape.message_width,
            "depth": shape.depth,
            "hidden": list(shape.hidden),
            "reference": self.reference,
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, facts: Mapping[str, Any], site: Architecture, where: str) -> GraphNetworks:
        """What `tensors` and `facts` gave.

        Args:
            site: the architecture of the site's other networks.
            where: what they belong to, for the error.

        Raises:
            ConfigError: they are damaged; or chemprop is missing here, or makes other graphs than where they were
                trained.
        """
        members, numbers = facts["members"], (facts["message_width"], facts["depth"], *facts["hidden"])
        if type(members) is not int or not 1 <= members <= MAX_MEMBERS or not facts["hidden"]:
            raise damaged(where, "it cannot have so many graph networks")
        # The sizes have to be those of arrays that are there: nothing large is made from a number alone.
        largest = max((tensor.size for tensor in tensors.values()), default=0)
        if any(type(number) is not int or not 1 <= number <= largest for number in numbers):
            raise damaged(where, "its graph networks have impossible sizes")
        shape = graph_shape(site, facts["message_width"], facts["depth"], tuple(facts["hidden"]))
        sizes = trunk_layout(shape).size, private_layout(shape).size
        found = []
        for number in range(members):
            own = below(tensors, str(number))
            parts = zip(("trunk", "private"), sizes, strict=True)
            found.append(Parameters(*(require(own, part, np.float32, (size,), where) for part, size in parts)))
        if facts["reference"] != graphs_reference():
            raise ConfigError(
                "its graph networks were trained with another version of chemprop or RDKit, which makes other graphs: "
                "install that version here, or have the site make its models anew"
            )
        return cls(shape, tuple(found), facts["reference"])


class GraphEnsemble:
    """`GraphNetworks` ready to predict. See `readings.Reader`."""

    def __init__(self, trained: GraphNetworks) -> None:
        """
        Raises:
            ConfigError: chemprop is missing.
        """
        self.architecture = trained.architecture
        self._members = [Network(trained.architecture) for _ in trained.members]
        for network, member in zip(self._members, trained.members, strict=True):
            member.load_into(network)

    def activations(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """No activations, and the mean of the members' outputs, float64[n, E].

        Args:
            inputs: rows that carry graphs (`Dataset.read_by`).
        """
        outputs: NDArray[np.float64] = np.mean([network.predict(inputs) for network in self._members], axis=0)
        return np.empty((len(outputs), 0), np.float32), outputs


def graph_shape(
    site: Architecture, message_width: int = MESSAGE_WIDTH, depth: int = DEPTH, hidden: tuple[int, ...] = (HIDDEN,)
) -> Architecture:
    """The shape of a member at a site with these networks."""
    return Architecture(
        trunk=GRAPH_TRUNK, inputs=site.inputs, descriptors=site.descriptors, endpoints=site.endpoints,
        message_width=message_width, depth=depth, hidden=hidden, dropout=DROPOUT,
    )  # fmt: skip


def graph_steps(dataset: Dataset) -> int:
    """Optimiser steps of one member, at most."""
    return EPOCHS * _steps_per_epoch(dataset)


def _steps_per_epoch(dataset: Dataset) -> int:
    return -(-len(dataset.train) // BATCH)


def train_graphs(
    site: Architecture,
    dataset: Dataset,
    members: int,
    seed: int,
    tick: Callable[[int], None] = lambda done: None,
) -> GraphNetworks | None:
    """Train an ensemble on the site's own training fold.

    Args:
        site: the architecture of the site's other networks.
        members: networks, from seeds of their own; 0: None is returned.
        tick: called with the steps done, of `members * graph_steps(dataset)`; may raise to interrupt.

    Raises:
        ConfigError: chemprop is missing.
    """
    if not members:
        return None
    dataset, shape, reference = dataset.read_by(GRAPH_MODEL), graph_shape(site), graphs_reference()
    every, steps = _steps_per_epoch(dataset), graph_steps(dataset)
    found = []
    for number in range(members):
        own = seed + number * OTHER_SEED
        network = Network(shape)
        network.load(initial_trunk(trunk_layout(shape), own))
        network.load_private(initial_trunk(private_layout(shape), own))
        settings = TrainingSettings(batch_size=BATCH, learning_rate=RATE, weight_decay=WEIGHT_DECAY, seed=own)
        before = number * steps
        run = train_with_checkpoints(
            network, dataset, settings, steps=steps, every=every,
            tick=lambda done, before=before: tick(before + done),  # type: ignore[misc]
        )  # fmt: skip
        found.append(run.best)
    return GraphNetworks(shape, tuple(found), reference)


def graphs_reference() -> str:
    """Hash of the reference molecules' graphs on this machine.

    Raises:
        ConfigError: chemprop is missing; says what to do.
    """
    try:
        return trunk_kind(GRAPH_TRUNK).reference_hash(REFERENCE_MOLECULES, ModelRule(), 0)
    except ConfigError as error:
        raise ConfigError(f"{NEEDED} ({error})") from None
