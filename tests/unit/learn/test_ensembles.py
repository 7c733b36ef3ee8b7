"""Several networks side by side: `[model] members`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.checkpoint import train_with_checkpoints, validation_loss
from kmel_p2p.learn.train.optimise import LocalOptimiser, MultiTaskLoss
from tests.support.learn_fixtures import SETTINGS, architecture, dataset

THREE = architecture().changed(dropout=0.0, members=3, calibrate=True)
ONE = THREE.changed(members=1)


def alone(network: Network, member: int) -> Network:
    """A network with the parameters of one member."""
    found = Network(ONE)
    for layout, of, source, load in (
        (trunk_layout(THREE), trunk_layout(ONE), network.trunk_values(), found.load),
        (private_layout(THREE), private_layout(ONE), network.private_values(), found.load_private),
    ):
        parts = layout.split(source)
        load(of.join({n: t if n.startswith("calibration") else t[member].copy() for n, t in parts.items()}))
    return found


def started(shape: Architecture) -> Network:
    network = Network(shape)
    start_local(network, shape, 3, 4)
    return network


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    network = started(THREE)
    inputs = np.random.default_rng(0).normal(size=(7, THREE.inputs)).astype(np.float32)
    each = [alone(network, member).predict(inputs) for member in range(3)]
    assert np.abs(each[0] - each[1]).max() > 0.01
    assert network.predict(inputs) == pytest.approx(np.mean(each, axis=0), abs=1e-5)


def test_members_are_trained_as_if_each_were_alone() -> None:
    data, network = dataset(), started(THREE)
    lonely = [alone(network, member) for member in range(3)]
    LocalOptimiser(network, data, SETTINGS).train(1, 1.0)
    for member, one in enumerate(lonely):
        LocalOptimiser(one, data, SETTINGS).train(1, 1.0)
        theirs = trunk_layout(THREE).split(network.trunk_values())["trunk.0.weight"][member]
        own = trunk_layout(ONE).split(one.trunk_values())["trunk.0.weight"]
        assert theirs == pytest.approx(own, abs=2e-5)


def test_an_ensemble_learns_better_than_its_members_do_on_the_mean() -> None:
    data, network = dataset(400), started(THREE)
    LocalOptimiser(network, data, SETTINGS).train(120, 1.0)
    loss = MultiTaskLoss(data.endpoints)
    together = validation_loss(network, data, loss)
    assert together < np.mean([validation_loss(alone(network, member), data, loss) for member in range(3)])


def test_training_ends_early_without_changing_what_is_kept() -> None:
    data = dataclasses.replace(dataset(200))
    runs = []
    for most in (0, 3):
        torch.manual_seed(0)
        network = started(ONE)
        stops: list[int] = []
        course = train_with_checkpoints(
            network, data, SETTINGS, steps=600, every=10, tick=stops.append, stops_without_gain=most
        )
        runs.append((course.best, max(stops)))
    (patient, all_steps), (hasty, fewer) = runs
    assert all_steps == 600
    assert fewer < 600
    network, loss = Network(ONE), MultiTaskLoss(data.endpoints)
    scores = []
    for parameters in (patient, hasty):
        parameters.load_into(network)
        scores.append(validation_loss(network, data, loss))
    assert scores[1] >= scores[0]
    assert scores[1] < validation_loss(started(ONE), data, loss)


@pytest.mark.parametrize("members", [0, 33])
def test_an_impossible_ensemble_is_refused(members: int) -> None:
    with pytest.raises(ValidationError, match=r"members"):
        ONE.changed(members=members)
