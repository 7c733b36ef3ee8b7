"""What a part of the trunk's way did to the own loss: its worth has the right sign, and all parts make up the whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.evaluate.effect import EffectMeter, looked_at
from kmel_p2p.learn.evaluate.worth import GROUPS, WorthMeter
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.tensor_file import read_parts, write_parts, write_vector
from kmel_p2p.learn.train.optimise import LocalOptimiser
from kmel_p2p.learn.worker.session import Appraise, Appraised
from kmel_p2p.learn.worker.trainer import Trainer
from tests.support.learn_fixtures import SETTINGS, architecture, dataset

if TYPE_CHECKING:
    from kmel_p2p.learn.train.round import Rounds
    from kmel_p2p.learn.worker.plan import TrainerPlan
    from kmel_p2p.learn.worker.trainer import Outlet

SHAPE = architecture()
DATA = looked_at(dataset(400), 1)


def way() -> tuple[np.ndarray, np.ndarray, Network]:
    """A trunk, another one that was trained from it for a while, and the network."""
    network = Network(SHAPE)
    network.load(np.random.default_rng(0).normal(0, 0.1, trunk_layout(SHAPE).size).astype(np.float32))
    optimiser = LocalOptimiser(network, dataset(400), SETTINGS)
    optimiser.train(40, 1.0)
    start = network.trunk_values()
    private = network.private_values()
    optimiser.train(5, 1.0)
    network.load_private(private)
    return start, network.trunk_values(), network


def part(moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positions = np.flatnonzero(moved)
    return positions, moved[positions].astype(np.float32)


def test_parts_add_up_to_the_fall_of_the_loss_along_the_stretch() -> None:
    start, end, network = way()
    moved = end - start
    mask = np.random.default_rng(3).random(moved.size) < 0.5
    meter = WorthMeter(DATA, network, 1)
    found = meter.worth((start + end) / np.float32(2), [part(np.where(mask, moved, 0)), part(np.where(mask, 0, moved))])
    measured = EffectMeter(DATA, network)
    before, after = measured.losses(start), measured.losses(end)
    assert found.keys() == {0, 1, 2}
    for place, worth in found.items():
        assert len(worth.worth) == GROUPS
        assert worth.compounds == len(before[place])
        fall = before[place].mean() - after[place].mean()
        total = np.mean([sum(group) for group in worth.worth])
        assert total == pytest.approx(fall, abs=0.1 * abs(fall) + 2e-4)
        assert after[place].mean() - 0.05 < worth.loss < before[place].mean() + 0.05


def test_what_goes_back_is_worth_as_much_less() -> None:
    start, end, network = way()
    meter = WorthMeter(DATA, network, 1)
    half_way = (start + end) / np.float32(2)
    found = meter.worth(half_way, [part(end - start), part(start - end)])
    for worth in found.values():
        for forth, back in worth.worth:
            assert forth == pytest.approx(-back, rel=1e-5)


def test_an_endpoint_with_few_compounds_or_a_trunk_that_overflows_says_nothing() -> None:
    start, end, network = way()
    few = looked_at(dataset(40), 1)
    assert WorthMeter(few, network, 1).worth(start, [part(end - start)]) == {}
    blown = np.full_like(start, 3e37)
    assert WorthMeter(DATA, network, 1).worth(blown, [part(end - start)]) == {}


def test_the_trainer_weighs_what_lies_in_files_and_leaves_its_rounds_alone(tmp_path: Path) -> None:
    start, end, network = way()
    trainer = object.__new__(Trainer)
    trainer._plan = cast("TrainerPlan", SimpleNamespace(training=SETTINGS, architecture=SHAPE))
    trainer._layout, trainer._dataset, trainer._worth = trunk_layout(SHAPE), dataset(400), None
    trainer._outlet = cast("Outlet", SimpleNamespace(check=lambda: None))
    trainer._rounds = cast("Rounds", SimpleNamespace(private=network.private_values))
    before = network.trunk_values()
    write_vector(tmp_path / "half-way", (start + end) / np.float32(2))
    write_parts(tmp_path / "parts", [part(end - start), part(np.zeros_like(start))])
    answer = trainer.handle(Appraise(tmp_path / "half-way", tmp_path / "parts", 2))
    assert isinstance(answer, Appraised)
    assert answer.seconds > 0
    assert all(second == 0 for worth in answer.endpoints.values() for _, second in worth.worth)
    np.testing.assert_array_equal(network.trunk_values(), before)


@pytest.mark.parametrize("spoil", ["missing", "cut off", "of another model"])
def test_a_file_of_parts_that_is_not_whole_is_named(spoil: str, tmp_path: Path) -> None:
    path = tmp_path / "parts.f32"
    write_parts(path, [(np.array([1, 5]), np.ones(2, np.float32))])
    if spoil == "missing":
        path.unlink()
    elif spoil == "cut off":
        path.write_bytes(path.read_bytes()[:-3])
    size = 5 if spoil == "of another model" else 6
    with pytest.raises(ConfigError, match=str(path)):
        read_parts(path, 1, size)
