"""A site with a stack: a few hundred made-up compounds, three networks, and the learners on them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.registry import GRAPH_MODEL
from kmel_p2p.learn.predict.model_directory import STORED, Card, write_model
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.stack_file import StoredStack, write_stack
from kmel_p2p.learn.predict.uncertainty import calibrate_stack
from kmel_p2p.learn.stack import graph_networks as graph_networks_of
from kmel_p2p.learn.stack import learners
from kmel_p2p.learn.stack.fit import FittedStack, fit_stack
from kmel_p2p.learn.train.checkpoint import Parameters, train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from tests.support.learn_fixtures import SETTINGS

POLICY = FeatureRule(bits=64)
ENDPOINTS = (
    AssayEndpoint(name="solubility", unit="mol/L", transform="log10", center=-3.0, scale=1.5, head="shared"),
    AssayEndpoint(name="herg", kind="classification", head="shared"),
)
SHAPE = Architecture(inputs=POLICY.width, hidden=(8, 4), endpoints=ENDPOINTS, dropout=0.0)
ENDS = ("O", "N", "F", "Cl", "C(=O)O", "C#N")
SMILES = [f"{'C' * length}{end}" for length in range(1, 41) for end in ENDS]
ELSEWHERE = [f"c1ccc2c(c1)nc({'C' * n})s2" for n in range(1, 31)]
"""Compounds of another chemistry."""


@dataclass(frozen=True)
class Site:
    """What a trainer ends with."""

    data: Dataset
    models: dict[str, Parameters]
    fitted: FittedStack
    stored: StoredStack
    neighbours: Neighbours

    def write(self, folder: Path) -> Path:
        """Write the model directory, and return it."""
        digest = write_stack(folder, self.stored)
        self.neighbours.write(folder)
        chosen = {endpoint.name: "hybrid" for endpoint in ENDPOINTS}
        card = Card(SHAPE, POLICY, reference_hash(POLICY), chosen, {"site": "north"}, {}, stack_digest=digest)
        write_model(folder, card, {name: (model.trunk, model.private) for name, model in self.models.items()})
        return folder


@functools.cache
def make_site(graph_networks: int = 0, active: float = 0.5) -> Site:
    """Train and fit, with few trees and stages: what they predict does not matter much. Made once; change nothing.

    Args:
        graph_networks: small ones, trained for a few passes.
        active: share of class 1.
    """
    table = describe_all(SMILES, POLICY).table
    rng = np.random.default_rng(1)
    signal = np.array([len(smiles) for smiles in SMILES]) / 20 - 1 + 0.1 * rng.normal(size=len(SMILES))
    labels = np.stack([signal, signal > np.quantile(signal, 1 - active)], axis=1).astype(np.float32)
    order = rng.permutation(len(SMILES))
    data = Dataset(
        ENDPOINTS, Inputs(table.counts, table.descriptors), labels, np.zeros(labels.shape, np.int8),
        np.sort(order[:100]), np.sort(order[100:180]), np.sort(order[180:]), tuple(table.smiles),
    )  # fmt: skip
    models = {name: _trained(seed, data) for seed, name in enumerate(STORED)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learners, "TREES", (20, 20))
        patch.setattr(learners, "CLASS_TREES", (20, 20))
        patch.setattr(learners, "STAGES", (40, 40))
        patch.setattr(learners, "CLASS_STAGES", 20)
        patch.setattr(graph_networks_of, "EPOCHS", 5)
        patch.setattr(graph_networks_of, "BATCH", 10)
        graphs = None
        if graph_networks:
            data = data.read_by(GRAPH_MODEL)
            small = graph_networks_of.graph_shape(SHAPE, 12, 2, (8,))
            patch.setattr(graph_networks_of, "graph_shape", lambda site: small)
            graphs = graph_networks_of.train_graphs(SHAPE, data, graph_networks, 7)
        fitted = fit_stack(SHAPE, data, models, 1, graphs=graphs)
    neighbours = Neighbours.of(data)
    return Site(data, models, fitted, StoredStack(fitted.stack, calibrate_stack(data, fitted, neighbours)), neighbours)


def _trained(seed: int, data: Dataset) -> Parameters:
    network = Network(SHAPE)
    rng = np.random.default_rng(seed)
    network.load(rng.normal(0, 0.1, network.trunk.numel()).astype(np.float32))
    return train_with_checkpoints(network, data, SETTINGS, steps=60, every=20).best
