"""What a site seals under differential privacy: no compound moves its sum further than the bound, and the noise is what
the accountant counts with."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.compound_gradients import CompoundGradients
from kmel_p2p.learn.privacy.discrete_gaussian import REACH, DiscreteGaussian
from kmel_p2p.learn.privacy.grid import Grid
from kmel_p2p.learn.privacy.noised_sum import NoisedSum
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import MultiTaskLoss
from kmel_p2p.learn.train.round import Rounds
from tests.support.learn_fixtures import ENDPOINTS, SETTINGS, architecture
from tests.support.learn_fixtures import dataset as made_up

RULE = PrivacyRule(dp="record", rate=0.5)
LIMIT, NOISE, SHARING = 6553, 2.0, 4
SHARED = tuple(endpoint.changed(head="shared") for endpoint in ENDPOINTS)
PROJECTED = architecture().changed(trunk="projected", projection=16, dropout=0.0, endpoints=SHARED)


def dataset() -> Dataset:
    """Every head is shared, as charters with differential privacy ask for."""
    return replace(made_up(), endpoints=SHARED)


def counted(seed: int) -> Callable[[int], bytes]:
    """Bytes that a test can have again."""
    calls = itertools.count()
    return lambda size: hashlib.shake_256(f"{seed} {next(calls)}".encode()).digest(size)


def network() -> Network:
    made = Network(PROJECTED)
    start_local(made, PROJECTED, 3, 4)
    return made


def noised(seed: int = 0, rule: PrivacyRule = RULE) -> NoisedSum:
    made = network()
    return NoisedSum(made, dataset(), rule, Grid.of(LIMIT, NOISE, SHARING, made.trunk.numel()), counted(seed))


def test_each_compounds_gradient_is_what_a_batch_of_it_alone_gives() -> None:
    made, data = network(), dataset()
    rows = data.train[:7]
    found, losses = CompoundGradients(made, data).of(rows)
    loss = MultiTaskLoss(data.endpoints)
    for at, row in enumerate(rows):
        made.clear_gradients()
        outputs = made.forward(made.read(data.inputs.rows(np.array([row]))))
        labels, relations = (torch.from_numpy(part[[row]]) for part in (data.labels, data.relations))
        one = loss(outputs, labels, relations)
        one.backward()
        assert made.trunk.grad is not None
        np.testing.assert_allclose(found[at].numpy(), made.trunk.grad.numpy(), atol=1e-6)
        assert float(losses[at]) == pytest.approx(float(one.detach()), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, (5, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.floats(0.01, 100.0),
    st.integers(0, 2**32),
)
def test_no_gradient_is_longer_than_the_bound_after_rounding(gradients: np.ndarray, clip: float, seed: int) -> None:
    site = noised(rule=PrivacyRule(dp="record", clip=clip))
    rounded = site._rounded(gradients, np.random.default_rng(seed))
    assert (np.sqrt((rounded * rounded).sum(axis=1)) <= site.grid.longest).all()


def test_values_that_are_no_numbers_count_as_nothing() -> None:
    rounded = noised()._rounded(np.array([[np.nan, np.inf], [-np.inf, 1.0]], np.float32), np.random.default_rng(0))
    assert not rounded[0].any()
    assert rounded[1, 0] == 0


def test_rounding_is_right_on_average() -> None:
    site, rng = noised(), np.random.default_rng(1)
    gradient = rng.normal(size=(1, 200)).astype(np.float32)
    gradient *= 0.4 / np.linalg.norm(gradient)
    mean = np.mean([site._rounded(gradient, rng)[0] for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, gradient[0] * site.grid.clipped / RULE.clip, atol=0.05)


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.int64, 30, elements=st.integers(-10_000, 10_000)),
    arrays.arrays(np.float32, (1, 30), elements=st.floats(-1024, 1024, width=32)),
)
def test_a_compound_more_moves_what_is_noised_by_the_bound_at_most(others: np.ndarray, gradient: np.ndarray) -> None:
    """Also where the sum is cut: cutting brings sums together, never apart."""
    site = noised()
    part = site._rounded(gradient, np.random.default_rng(0))[0]
    most = site.grid.most
    moved = np.clip(others + part, -most, most) - np.clip(others, -most, most)
    assert np.linalg.norm(moved.astype(float)) <= site.grid.longest


def test_who_is_not_in_a_batch_moves_no_sum(tmp_path: Path) -> None:
    """Rounds of two data sets that differ in one compound: nothing that was trained on it without noise is in the
    sums of the others."""
    whole = dataset()
    less = replace(whole, train=whole.train[1:])
    sums = []
    for data in (whole, less):
        made = network()
        grid = Grid.of(LIMIT, NOISE, SHARING, made.trunk.numel())
        noise = NoisedSum(made, data, PrivacyRule(dp="record", rate=1.0), grid, counted(0))
        rounds = Rounds(made, data, trunk_layout(PROJECTED), None, SETTINGS, tmp_path / str(len(data.train)), noise)
        trunk = made.trunk_values()
        for number in range(1, 6):
            rounds.train(number, 1, None, trunk, lambda progress: None)
            rounds.commit(number)
            trunk = trunk + 0.01 * number
        made.load(trunk)
        noise._entropy = counted(1)
        sums.append(noise.clipped_sum(less.train)[0])
    np.testing.assert_array_equal(sums[0], sums[1])


def test_a_step_stays_within_the_levels_whatever_the_data() -> None:
    site = noised(rule=PrivacyRule(dp="record", rate=1.0, clip=1e-3))
    for _ in range(5):
        levels, loss = site.draw()
        assert levels.dtype == np.int64
        assert np.abs(levels).max() <= LIMIT
        assert math.isfinite(loss)


def test_the_noise_of_all_that_share_it_has_the_spread_that_is_counted_with() -> None:
    site = noised(rule=PrivacyRule(dp="record", rate=1e-9))
    drawn = np.concatenate([sum(site.draw()[0] for _ in range(SHARING)) for _ in range(40)])
    assert drawn.std() == pytest.approx(NOISE * site.grid.longest, rel=0.02)


@pytest.mark.parametrize("std", [1.0, 7.5, 400.0])
def test_drawn_numbers_are_distributed_as_they_should_be(std: float) -> None:
    source = DiscreteGaussian(std)
    drawn = source.draw(200_000, counted(int(std)))
    assert np.abs(drawn).max() <= REACH * std + 1
    assert drawn.mean() == pytest.approx(0, abs=5 * std / math.sqrt(len(drawn)))
    assert drawn.std() == pytest.approx(std, rel=0.01)
    steps = np.arange(-3, 4)
    masses = np.exp(-0.5 * (np.arange(-60 * std, 60 * std + 1) / std) ** 2).sum()
    expected = np.exp(-0.5 * (steps / std) ** 2) / masses
    seen = np.array([(drawn == step).mean() for step in steps])
    np.testing.assert_allclose(seen, expected, atol=5 * np.sqrt(expected.max() / len(drawn)))


def test_every_word_gives_a_number_and_the_ends_are_the_furthest() -> None:
    source = DiscreteGaussian(5.0)
    lowest, highest = source.draw(2, lambda size: bytes(8) + b"\xff" * 8)
    assert (lowest, highest) == (-highest, source.most)


def test_batches_are_drawn_compound_by_compound() -> None:
    site, data = noised(rule=PrivacyRule(dp="record", rate=0.3)), dataset()
    sizes = [len(site._batch()) for _ in range(300)]
    expected = 0.3 * len(data.train)
    assert np.mean(sizes) == pytest.approx(expected, rel=0.05)
    assert np.var(sizes) == pytest.approx(0.7 * expected, rel=0.3)


def test_a_trunk_with_too_many_values_for_the_noise_is_named() -> None:
    with pytest.raises(ConfigError, match="too many for the noise that its budget asks for"):
        Grid.of(2047, 40.0, 3, 200_000)


def test_the_grid_leaves_room_for_all_noise_and_nearly_all_of_the_clip() -> None:
    grid = Grid.of(LIMIT, NOISE, SHARING, 15_000)
    assert grid.most + math.ceil(REACH * grid.std) <= LIMIT
    assert 0.95 < grid.clipped / grid.longest < 1
