"""With few held-out values, training values decide: of learners that were refitted without them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.stack import fit, learners, out_of_fold
from kmel_p2p.learn.stack.fit import fit_stack
from kmel_p2p.learn.stack.guard import MIN_HELD_OUT
from kmel_p2p.learn.stack.readings import LearnerInputs
from kmel_p2p.learn.stack.sides import BEST_LOCAL, OTHERS, STACK
from kmel_p2p.learn.stack.weigh import Evidence, weigh
from kmel_p2p.learn.train.checkpoint import Parameters, train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset
from tests.support.learn_fixtures import ENDPOINTS, SETTINGS, architecture, dataset

SHAPE = architecture()
FEW = 13


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few trees: the question is which side is asked."""
    monkeypatch.setattr(learners, "TREES", (20, 20))
    monkeypatch.setattr(learners, "CLASS_TREES", (20, 20))
    monkeypatch.setattr(learners, "STAGES", (40, 40))
    monkeypatch.setattr(learners, "CLASS_STAGES", 20)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """The values of a small site: few to train on, and 13 compounds held out."""
    whole = dataset(900)
    return dataclasses.replace(whole, train=whole.train[:60], valid=whole.valid[:FEW])


@pytest.fixture(scope="module")
def networks(data: Dataset) -> dict[str, Parameters]:
    """A federated network that was trained on the measurements of others, and a local one."""
    others = dataclasses.replace(dataset(900), valid=data.valid)
    others = dataclasses.replace(others, train=np.setdiff1d(others.train, data.train))
    found = {}
    for name, rows in (("local", data), ("federated", others)):
        network = Network(SHAPE)
        rng = np.random.default_rng(1)
        network.load(rng.normal(0, 0.1, network.trunk.numel()).astype(np.float32))
        found[name] = train_with_checkpoints(network, rows, SETTINGS, steps=600, every=600).best
    return {**found, "personalised": found["federated"], "others": found["federated"]}


def test_the_others_trunk_speaks_for_the_federation_where_it_helps(
    data: Dataset, networks: dict[str, Parameters]
) -> None:
    made = fit_stack(SHAPE, data, networks, 1)
    assert made.stack.endpoints[0].held_out < MIN_HELD_OUT
    assert made.stack.endpoints[0].own == STACK
    without = fit_stack(SHAPE, data, {name: m for name, m in networks.items() if name != "others"}, 1)
    assert without.stack.endpoints[0].own == BEST_LOCAL, "without the others' trunk there is no evidence"


def test_a_private_head_gives_no_evidence(data: Dataset, networks: dict[str, Parameters]) -> None:
    made = fit_stack(SHAPE, data, networks, 1)
    assert ENDPOINTS[1].head == "private"
    assert made.stack.endpoints[1].own == BEST_LOCAL


def test_what_private_heads_say_of_their_own_training_compounds_is_not_read(
    data: Dataset, networks: dict[str, Parameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private head was fitted to this site's values, of an assay endpoint that may be much like the one asked for."""
    read = []
    plain = learners.fit_learner

    def fit_learner(kind: str, network: str, readings: LearnerInputs, *rest: Any, **more: Any) -> Any:
        if network == OTHERS:
            read.append(readings.columns(network)[:, -len(ENDPOINTS) :])
        return plain(kind, network, readings, *rest, **more)

    monkeypatch.setattr(out_of_fold, "fit_learner", fit_learner)
    fit_stack(SHAPE, data, networks, 1)
    assert read
    assert [endpoint.head for endpoint in ENDPOINTS[:2]] == ["shared", "private"]
    assert all(columns[:, 0].any() and not columns[:, 1].any() for columns in read)


def test_training_values_are_not_asked_where_enough_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(fit, "out_of_fold", lambda endpoint, *rest: asked.append(endpoint.name))
    whole = dataset(240)
    rng = np.random.default_rng(3)
    network = Network(SHAPE)
    values = Parameters(
        rng.normal(0, 0.1, network.trunk.numel()).astype(np.float32),
        rng.normal(0, 0.1, network.private.numel()).astype(np.float32),
    )
    fit_stack(SHAPE, whole, dict.fromkeys(("local", "federated", "personalised", "others"), values), 1)
    assert asked == []


@pytest.mark.parametrize(("harm", "own"), [(-0.2, STACK), (0.2, BEST_LOCAL)])
def test_evidence_from_training_values_outvotes_a_handful_of_held_out_ones(harm: float, own: str) -> None:
    rng = np.random.default_rng(5)
    labels = rng.normal(size=FEW)
    outputs = {name: labels + 0.3 * rng.normal(size=FEW) for name in ("locals", "trees", "federated", "personalised")}
    local = rng.random(80)
    found = weigh(ENDPOINTS[0], outputs, labels, ("local", "federated"), 1, Evidence(local + harm, local))
    assert found.own == own
    assert weigh(ENDPOINTS[0], outputs, labels, ("local", "federated"), 1).own == BEST_LOCAL
