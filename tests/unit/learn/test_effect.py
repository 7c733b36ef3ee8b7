"""What a part of the trunk does to the own loss: seen where it is, whatever somebody blew up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from kmel_p2p.learn.evaluate.effect import LARGEST, MAX_COMPOUNDS, EffectMeter, looked_at
from kmel_p2p.learn.evaluate.losses import trimmed_difference
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.tensor_file import write_vector
from kmel_p2p.learn.train.optimise import LocalOptimiser
from kmel_p2p.learn.worker.session import Examine, Examined, PartFile
from kmel_p2p.learn.worker.trainer import Trainer
from tests.support.learn_fixtures import SETTINGS, architecture, dataset

if TYPE_CHECKING:
    from kmel_p2p.learn.train.round import Rounds
    from kmel_p2p.learn.worker.plan import TrainerPlan
    from kmel_p2p.learn.worker.trainer import Outlet


def trained() -> tuple[EffectMeter, np.ndarray]:
    shape = architecture()
    network = Network(shape)
    network.load(np.random.default_rng(0).normal(0, 0.1, trunk_layout(shape).size).astype(np.float32))
    LocalOptimiser(network, dataset(), SETTINGS).train(60, 1.0)
    trunk = network.trunk_values()
    return EffectMeter(looked_at(dataset(), 1), network), trunk


def test_a_part_that_does_harm_is_told_from_one_that_helps() -> None:
    meter, trunk = trained()
    bad = np.random.default_rng(1).normal(0, 0.3, trunk.size).astype(np.float32)
    harmed = meter.effects(meter.losses(trunk + bad), trunk)
    assert harmed
    assert all(effect.loss > effect.without for effect in harmed.values())
    helped = meter.effects(meter.losses(trunk), trunk + bad)
    assert all(effect.loss < effect.without for effect in helped.values())
    for place, effect in harmed.items():
        assert effect.compounds == helped[place].compounds >= 2
        assert effect.loss == pytest.approx(helped[place].without)
        assert effect.error > 0


def test_a_trunk_that_overflows_gives_a_finite_loss() -> None:
    meter, trunk = trained()
    effects = meter.effects(meter.losses(np.full_like(trunk, 3e37)), trunk)
    assert all(effect.without < effect.loss <= LARGEST for effect in effects.values())


def test_few_held_out_compounds_are_all_looked_at_and_many_in_part() -> None:
    data = dataset()
    looked = looked_at(data, 1)
    assert len(looked.valid) == min(MAX_COMPOUNDS, len(data.valid) + len(data.calibration))
    assert set(looked.valid) <= set(data.valid) | set(data.calibration)


def test_the_trainer_examines_what_lies_in_files_and_leaves_its_rounds_alone(tmp_path: Path) -> None:
    meter, trunk = trained()
    bad = trunk + np.random.default_rng(1).normal(0, 0.3, trunk.size).astype(np.float32)
    trainer = object.__new__(Trainer)
    trainer._plan = cast("TrainerPlan", SimpleNamespace(training=SETTINGS, architecture=architecture()))
    trainer._layout, trainer._dataset, trainer._meter = trunk_layout(architecture()), dataset(), None
    trainer._outlet = cast("Outlet", SimpleNamespace(check=lambda: None))
    network = meter._network
    trainer._rounds = cast("Rounds", SimpleNamespace(private=network.private_values))
    before = network.trunk_values()
    write_vector(tmp_path / "whole", bad)
    write_vector(tmp_path / "part", trunk)
    part = PartFile(b"a" * 32, 1, 5, tmp_path / "part")
    answer = trainer.handle(Examine(tmp_path / "whole", (part,)))
    assert isinstance(answer, Examined)
    assert answer.seconds > 0
    assert [effect.part for effect in answer.effects] == [part]
    assert all(each.loss > each.without for each in answer.effects[0].endpoints.values())
    np.testing.assert_array_equal(network.trunk_values(), before)


@pytest.mark.parametrize("spoilt", ["with", "without", "both"])
def test_a_few_compounds_neither_hide_harm_nor_make_it(spoilt: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        without = rng.exponential(0.3, 256)
        with_part = 1.5 * without
        for losses, name in ((with_part, "with"), (without, "without")):
            if spoilt in (name, "both"):
                losses[:3] = 30.0
        loss, less, error = trimmed_difference(with_part, without)
        assert loss - less > max(0.4 * less, 2 * error)
        # Harm to a twentieth of the compounds alone is not seen, so that nobody finds out who owns them.
        few = without.copy()
        few[5:17] += 30.0
        loss, less, error = trimmed_difference(few, without)
        assert loss - less < 0.05 * less


def test_the_error_of_a_trimmed_difference_is_what_chance_makes_of_it() -> None:
    rng = np.random.default_rng(4)
    drawn = [trimmed_difference(rng.normal(1, 0.1, 200), rng.normal(1, 0.1, 200)) for _ in range(400)]
    apart = [loss - less for loss, less, _ in drawn]
    assert np.mean([error for _, _, error in drawn]) == pytest.approx(np.std(apart), rel=0.15)
