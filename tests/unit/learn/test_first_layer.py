"""The first layer over what occurs is the dense layer: outputs, gradients, clipping, weight decay, dropout, state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models import first_layer
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.first_layer import MOST_OCCURRING, SparseRows
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import LEVELS, Dataset, Inputs
from kmel_p2p.learn.train.optimise import LocalOptimiser
from tests.support.learn_fixtures import SETTINGS

BITS, DESCRIPTORS = 200, 7
ENDPOINTS = (AssayEndpoint(name="a", head="shared"), AssayEndpoint(name="b"))


def shape(members: int = 1, **changes: object) -> Architecture:
    return Architecture(
        inputs=BITS + DESCRIPTORS, descriptors=DESCRIPTORS, hidden=(12, 6), endpoints=ENDPOINTS, dropout=0.2,
        members=members,
    ).changed(**changes)  # fmt: skip


def started(architecture: Architecture) -> Network:
    network = Network(architecture)
    start_local(network, architecture, 3, 4)
    return network


def made_up(compounds: int, seed: int) -> Dataset:
    """Compounds with up to eight environments that occur up to five times; some have none."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((compounds, BITS), np.int64)
    for row in counts:
        places = rng.choice(BITS, rng.integers(0, 9), replace=False)
        row[places] = rng.integers(1, 6, len(places))
    inputs = Inputs(
        CountMatrix.from_rows(counts, BITS), rng.standard_normal((compounds, DESCRIPTORS)).astype(np.float32)
    )
    labels = rng.standard_normal((compounds, 2)).astype(np.float32)
    rows = np.arange(compounds)
    return Dataset(ENDPOINTS, inputs, labels, np.zeros((compounds, 2), np.int8), rows, rows[:0], rows[:0])


def dense() -> AbstractContextManager[object]:
    """Within, every first layer multiplies by all inputs."""
    return patch.object(SparseRows, "of", return_value=None)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 20), st.integers(0, 1000), st.sampled_from([1, 3]))
def test_outputs_and_gradients_are_those_of_the_dense_layer(rows: int, seed: int, members: int) -> None:
    data = made_up(rows, seed)
    inputs = data.inputs.rows(data.train)
    found = []
    for context in (nullcontext(), dense()):
        network = started(shape(members, dropout=0.0))
        with context:
            outputs = network.member_outputs(network.read(inputs), training=True)
        (outputs * torch.arange(1.0, 3.0)).sin().sum().backward()  # type: ignore[no-untyped-call]
        assert network.trunk.grad is not None
        found.append((outputs.detach().numpy(), network.laid_out(network.trunk.grad)))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=2e-5)


def test_gradients_summed_a_few_environments_at_a_time_are_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    data, found = made_up(12, 3), []
    for summed in (1 << 20, 1):
        monkeypatch.setattr(first_layer, "SUMMED", summed)
        network = started(shape(dropout=0.0))
        network.forward(network.read(data.inputs.rows(data.train))).sum().backward()  # type: ignore[no-untyped-call]
        assert network.trunk.grad is not None
        found.append(network.laid_out(network.trunk.grad))
    assert np.any(found[0])
    assert found[0].tobytes() == found[1].tobytes()


def test_gradients_of_two_passes_add_up() -> None:
    data, network = made_up(12, 1), started(shape(dropout=0.0))
    inputs = data.inputs.rows(data.train)
    for _ in range(2):
        network.forward(network.read(inputs)).sum().backward()  # type: ignore[no-untyped-call]
    assert network.trunk.grad is not None
    twice = network.trunk.grad.clone()
    network.clear_gradients()
    network.forward(network.read(inputs)).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(twice, 2 * network.trunk.grad)


@pytest.mark.parametrize("members", [1, 3])
def test_training_goes_the_same_way(members: int) -> None:
    """Dropout, clipping (the rate makes it bite) and weight decay included."""
    data, found = made_up(60, 2), []
    strong = SETTINGS.changed(learning_rate=0.02, weight_decay=0.1)
    for context in (nullcontext(), dense()):
        network = started(shape(members))
        optimiser = LocalOptimiser(network, data, strong)
        with context, patch("kmel_p2p.learn.train.optimise.CLIP_NORM", 0.05):
            losses = [optimiser.train(1, 1.0) for _ in range(6)]
        found.append((losses, network.trunk_values(), optimiser.state()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    # Adam turns rounding of a gradient near zero into a step: most values agree closely, all of them roughly.
    apart = np.abs(found[0][1] - found[1][1])
    assert np.quantile(apart, 0.99) < 1e-4
    assert apart.max() < 0.02
    np.testing.assert_allclose(found[0][2].first, found[1][2].first, atol=1e-4)
    np.testing.assert_allclose(found[0][2].second, found[1][2].second, atol=1e-6)


def test_a_state_continues_the_same_way_whichever_way_the_layer_is_computed() -> None:
    """Moments in files are laid out like the trunk, so a site's state outlives this choice."""
    data, ends = made_up(60, 3), []
    first = started(shape())
    before = LocalOptimiser(first, data, SETTINGS)
    with dense():
        before.train(4, 1.0)
    for _ in range(2):
        network = started(shape())
        network.load(first.trunk_values())
        network.load_private(first.private_values())
        optimiser = LocalOptimiser(network, data, SETTINGS)
        optimiser.restore(before.state())
        optimiser.train(4, 1.0)
        ends.append(network.trunk_values())
    before.train(4, 1.0)
    assert ends[0].tobytes() == ends[1].tobytes()
    assert ends[0].tobytes() == first.trunk_values().tobytes()


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([1, 2, 3]), st.integers(0, 100))
def test_what_leaves_a_network_is_laid_out_as_agreed(members: int, seed: int) -> None:
    architecture = shape(members)
    values = np.random.default_rng(seed).standard_normal(trunk_layout(architecture).size).astype(np.float32)
    network = Network(architecture)
    network.load(values)
    assert network.trunk_values().tobytes() == values.tobytes()
    weight = trunk_layout(architecture).split(values)["trunk.0.weight"]
    kept = network._tensors["trunk.0.weight"].detach().numpy()
    assert np.array_equal(kept, weight)


def test_what_occurs_is_read_from_the_rows() -> None:
    data = made_up(30, 5)
    rows = data.inputs.rows(data.train)
    read = SparseRows.of(rows, BITS)
    assert read is not None
    again = np.zeros((30, BITS), np.float32)
    again[read.owners, read.positions] = read.values
    assert np.array_equal(again, rows[:, :BITS])
    assert set(read.values.tolist()) <= set(LEVELS[1:6].tolist())
    assert np.array_equal(read.descriptors.numpy(), rows[:, BITS:])


def test_rows_in_which_too_much_occurs_are_multiplied_as_they_are() -> None:
    rows = np.ones((4, BITS + DESCRIPTORS), np.float32)
    assert SparseRows.of(rows, BITS) is None
    rows[:, int(MOST_OCCURRING * BITS) : BITS] = 0
    assert SparseRows.of(rows, BITS) is not None
    rows[:, :BITS] = 0
    assert SparseRows.of(rows, BITS) is None
    network = started(shape())
    assert isinstance(network.read(rows), torch.Tensor)
    assert np.isfinite(network.predict(rows)).all()
