"""Layout, network, loss and optimiser."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.scores import fold_scores, forest_baseline, median_baseline
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.registry import KINDS, TrunkKind
from kmel_p2p.learn.train.adamw import AdamW
from kmel_p2p.learn.train.optimise import LocalOptimiser, MultiTaskLoss, cosine_rate
from tests.support.learn_fixtures import ENDPOINTS, SETTINGS, architecture, dataset


def test_only_body_and_shared_heads_belong_to_the_trunk() -> None:
    shape = architecture()
    names = [spec.name for spec in trunk_layout(shape).specs]
    assert names == [
        "trunk.0.weight",
        "trunk.0.bias",
        "trunk.1.weight",
        "trunk.1.bias",
        "head.shared.weight",
        "head.shared.bias",
    ]
    assert [spec.name for spec in private_layout(shape).specs] == ["head.private.weight", "head.private.bias"]
    assert private_layout(shape.changed(endpoints=ENDPOINTS[:1])).size == 0


@pytest.mark.parametrize(
    "wrong", [{"inputs": 0}, {"hidden": ()}, {"hidden": (4, 0)}, {"endpoints": ()}, {"dropout": 1.0}]
)
def test_impossible_architectures_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        architecture().changed(**wrong)


def test_the_daemon_side_imports_neither_torch_nor_rdkit() -> None:
    code = (
        "import sys, kmel_p2p.learn.worker.session, kmel_p2p.learn.models.layout, kmel_p2p.learn.worker.process;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'rdkit', 'pint', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_adamw_is_torchs_own() -> None:
    generator = torch.Generator().manual_seed(1)
    ours, theirs = ([torch.full((size,), 0.5, requires_grad=True) for size in (70, 9, 3)] for _ in range(2))
    one, other = AdamW(ours, 1e-2, 0.1), torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1, fused=True)
    for step in range(12):
        if step == 6:
            one.learning_rate, one.weight_decay = 1e-3, 0.2
            other.param_groups[0].update(lr=1e-3, weight_decay=0.2)
        # The last one never has a gradient, the second has one in every other step.
        for left, right in list(zip(ours, theirs, strict=True))[: 1 + step % 2]:
            left.grad = torch.randn(left.shape, generator=generator)
            right.grad = left.grad.clone()
        one.step()
        other.step()
        ours[1].grad = theirs[1].grad = None
    assert all(torch.equal(left, right) for left, right in zip(ours, theirs, strict=True))
    assert ours[2] not in one.state


def test_the_network_is_its_flat_vectors() -> None:
    shape = architecture().changed(dropout=0.0)
    network = Network(shape)
    start_local(network, shape, 3, 4)
    trunk = initial_trunk(trunk_layout(shape), 3)
    tensors = trunk_layout(shape).split(trunk) | private_layout(shape).split(initial_trunk(private_layout(shape), 4))
    inputs = np.random.default_rng(0).normal(size=(5, shape.inputs)).astype(np.float32)
    hidden = inputs
    for layer in range(2):
        hidden = np.maximum(hidden @ tensors[f"trunk.{layer}.weight"].T + tensors[f"trunk.{layer}.bias"], 0)
    shared = hidden @ tensors["head.shared.weight"].T + tensors["head.shared.bias"]
    private = hidden @ tensors["head.private.weight"].T + tensors["head.private.bias"]
    expected = np.stack([shared[:, 0], private[:, 0], shared[:, 1]], axis=1)
    assert network.predict(inputs) == pytest.approx(expected, abs=1e-5)


def test_gradients_arrive_in_the_flat_vectors() -> None:
    shape = architecture().changed(dropout=0.0)
    network = Network(shape)
    start_local(network, shape, 3, 4)
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(5, shape.inputs)).astype(np.float32))
    network.forward(inputs).sum().backward()
    assert network.trunk.grad is not None
    gradient = network.laid_out(network.trunk.grad)
    step = np.zeros_like(gradient)
    place = trunk_layout(shape).slices["trunk.1.weight"].start + 5
    step[place] = 1e-2
    before = network.predict(inputs.numpy()).sum()
    network.load(network.trunk_values() + step)
    assert (network.predict(inputs.numpy()).sum() - before) / 1e-2 == pytest.approx(gradient[place], rel=0.05, abs=1e-3)
    network.clear_gradients()
    assert not network.trunk.grad.any()


def huber(error: float) -> float:
    return error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5


@given(
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.sampled_from([-1, 0, 1]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(deadline=None, max_examples=60)
def test_a_bound_costs_on_one_side_only(output: float, label: float, relation: int, beyond: float) -> None:
    loss = MultiTaskLoss((AssayEndpoint(name="one", beyond_bound=beyond),))
    error = output - label
    fulfilled = (relation < 0 and error < 0) or (relation > 0 and error > 0)
    got = loss(torch.tensor([[output]]), torch.tensor([[label]]), torch.tensor([[relation]]))
    assert float(got) == pytest.approx(huber(error) * (beyond if fulfilled else 1), abs=1e-5)


def test_missing_values_and_weights_of_assay_endpoints() -> None:
    endpoints = (
        AssayEndpoint(name="a", weight=3.0),
        AssayEndpoint(name="b"),
        AssayEndpoint(name="c", kind="classification"),
    )
    outputs = torch.tensor([[0.5, 9.0, 0.0], [1.0, 1.0, 2.0]], requires_grad=True)
    labels = torch.tensor([[0.0, np.nan, 1.0], [np.nan, 0.5, np.nan]])
    got = MultiTaskLoss(endpoints)(outputs, labels, torch.zeros(2, 3, dtype=torch.int8))
    assert got.item() == pytest.approx((3 * 0.125 + np.log(2) + 0.125) / 5)
    got.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad[0, 1] == outputs.grad[1, 0] == outputs.grad[1, 2] == 0


def test_nothing_measured_is_no_loss() -> None:
    got = MultiTaskLoss(ENDPOINTS)(torch.ones(2, 3), torch.full((2, 3), np.nan), torch.zeros(2, 3, dtype=torch.int8))
    assert float(got) == 0.0


def test_training_learns_and_a_restart_changes_nothing() -> None:
    shape, data = architecture(), dataset()

    def fresh() -> tuple[Network, LocalOptimiser]:
        network = Network(shape)
        start_local(network, shape, 3, 4)
        return network, LocalOptimiser(network, data, SETTINGS)

    network, straight = fresh()
    first = straight.train(12, 1.0)
    middle = network.trunk_values(), network.private.detach().numpy().copy(), straight.state()
    straight.train(20, 1.0)

    other, resumed = fresh()
    other.load(middle[0])
    other.load_private(middle[1])
    resumed.restore(middle[2])
    resumed.train(20, 1.0)
    assert resumed.steps == straight.steps == 32
    assert np.array_equal(other.trunk_values(), network.trunk_values())
    assert np.array_equal(other.private.detach().numpy(), network.private.detach().numpy())
    straight.train(150, 1.0)
    assert straight.train(10, 1.0) < 0.6 * first


def test_every_row_is_seen_once_per_epoch() -> None:
    data = dataset()
    optimiser = LocalOptimiser(Network(architecture()), data, SETTINGS)
    size, rows = SETTINGS.batch_size, len(data.train)
    steps = rows  # rows * size / rows = size epochs exactly
    seen = np.concatenate([optimiser._batch(step) for step in range(steps)])
    assert np.array_equal(np.unique(seen, return_counts=True)[1], np.full(rows, size))


def test_private_heads_can_be_trained_alone() -> None:
    shape, data = architecture(), dataset()
    network = Network(shape)
    start_local(network, shape, 3, 4)
    trunk, heads = network.trunk_values(), network.private.detach().numpy().copy()
    LocalOptimiser(network, data, SETTINGS, private_only=True).train(5, 1.0)
    assert np.array_equal(network.trunk_values(), trunk)
    assert not np.array_equal(network.private.detach().numpy(), heads)


def test_the_rate_falls_along_a_cosine() -> None:
    rates = [cosine_rate(progress) for progress in np.linspace(-0.5, 1.5, 21)]
    assert rates[0] == 1.0
    assert 0 < rates[-1] < 0.1
    assert rates == sorted(rates, reverse=True)


def test_architecture_is_hashable_and_small_to_send() -> None:
    assert isinstance(architecture(), Architecture)
    assert hash(architecture()) == hash(architecture())


def test_calibration_starts_as_identity_and_absorbs_an_offset() -> None:
    """A site whose assay reads two units higher keeps that to itself: the shared parameters need not move."""
    plain, calibrated = architecture(), architecture().changed(calibrate=True)
    assert trunk_layout(plain).hash == trunk_layout(calibrated).hash
    assert private_layout(calibrated).size == private_layout(plain).size + 4
    data = dataset()
    networks = [Network(shape) for shape in (plain, calibrated)]
    for network, shape in zip(networks, (plain, calibrated), strict=True):
        network.load(initial_trunk(trunk_layout(shape), 3))
        network.load_private(initial_trunk(private_layout(shape), 4))
    inputs = data.inputs.rows(data.train)
    before = networks[0].predict(inputs)
    assert np.allclose(before[:, [0, 2]], networks[1].predict(inputs)[:, [0, 2]])
    labels = data.labels.copy()
    labels[:, 0] = 2.0
    shifted = dataclasses.replace(data, labels=labels)
    trunk = networks[1].trunk.detach().clone()
    quick = SETTINGS.changed(learning_rate=0.05)
    LocalOptimiser(networks[1], shifted, quick, private_only=True).train(200, 1.0)
    assert torch.equal(trunk, networks[1].trunk.detach())
    assert abs(networks[1].predict(inputs)[:, 0].mean() - 2.0) < 0.3


def test_a_rare_class_can_weigh_more() -> None:
    heavy = ENDPOINTS[2].changed(positive_weight=4.0)
    outputs, labels = torch.zeros(2, 1), torch.tensor([[1.0], [0.0]])
    relations = torch.zeros(2, 1, dtype=torch.int8)
    plain = float(MultiTaskLoss([ENDPOINTS[2]])(outputs, labels, relations))
    assert float(MultiTaskLoss([heavy])(outputs, labels, relations)) == pytest.approx(plain * 2.5)


def test_the_forest_learns_values_and_classes_and_survives_too_few() -> None:
    data = dataset(rows=240)
    got = fold_scores(data, forest_baseline(data, seed=1))
    median = fold_scores(data, median_baseline(data))
    assert got["logd"]["test"] < median["logd"]["test"]
    assert got["herg"]["test"] < median["herg"]["test"]
    few = dataclasses.replace(
        data, labels=np.where(np.arange(240)[:, None] < 3, data.labels, np.nan).astype(np.float32)
    )
    assert np.isfinite(forest_baseline(few, seed=1)(data.inputs.rows(data.test))).all()
    assert np.array_equal(
        forest_baseline(data, 1)(data.inputs.rows(data.test)), forest_baseline(data, 1)(data.inputs.rows(data.test))
    )


def test_an_unknown_trunk_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'transformer'; this version has: mlp, dmpnn, projected"):
        trunk_layout(architecture().changed(trunk="transformer"))


@pytest.mark.parametrize(
    ("trunk", "key", "value", "owner"),
    [("mlp", "depth", 4, "dmpnn"), ("dmpnn", "members", 2, "mlp"), ("mlp", "projection", 64, "projected")],
)
def test_a_key_of_another_trunk_is_an_error(trunk: str, key: str, value: int, owner: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key} belongs to trunk {owner}; with trunk {trunk}"):
        trunk_layout(architecture().changed(trunk=trunk, **{key: value}))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_each_kind_of_trunk_says_what_it_costs_and_has_tensors_of_its_own(kind: TrunkKind) -> None:
    narrow = {"projection": 32} if "projection" in kind.keys else {}
    shape = architecture().changed(trunk=kind.name, **narrow)
    tensors = kind.tensors(shape)
    assert all(spec.name.startswith("trunk.") for spec in tensors)
    assert kind.cost(shape) >= shape.hidden[0] * shape.hidden[1]
    assert kind.keys <= ModelRule.model_fields.keys()
