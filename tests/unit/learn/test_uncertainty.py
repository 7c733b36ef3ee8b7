"""Conformal intervals and classes hold their level; applicability tells near from far."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from crepes import ConformalClassifier, ConformalRegressor

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.learn.evaluate.scores import Predict, probability, scorable
from kmel_p2p.learn.predict.neighbours import FILE, Neighbours, read_neighbours
from kmel_p2p.learn.predict.uncertainty import MEMBERS, MIN_CALIBRATION, Calibration, calibrate, class_sets, intervals
from kmel_p2p.learn.train.dataset import Dataset
from tests.support.learn_fixtures import ENDPOINTS, dataset


def noisy(data_seed: int) -> dict[str, Predict]:
    """Members that know the signal and err with different noise."""

    def member(seed: int) -> Predict:
        def predict(inputs: np.ndarray) -> np.ndarray:
            rng = np.random.default_rng([seed, data_seed])
            signal = inputs[:, :64] @ np.random.default_rng(99).normal(size=64) / 3 + inputs[:, 64]
            out = np.stack([signal, signal**2 / 3, 3 * signal], axis=1)
            return out + rng.normal(scale=0.4, size=out.shape)

        return predict

    return {name: member(seed) for seed, name in enumerate(MEMBERS)}


CHOSEN = {endpoint.name: "local" for endpoint in ENDPOINTS}


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_and_classes_hold_their_level_on_new_compounds(level: float) -> None:
    data, fresh = dataset(rows=8000, seed=1), dataset(rows=8000, seed=2)
    members = noisy(1)
    known = calibrate(data, members, CHOSEN)
    rows = fresh.test
    inputs = fresh.inputs.rows(rows)
    outputs = {name: predict(inputs) for name, predict in noisy(2).items()}
    spread = np.std([outputs[name] for name in MEMBERS], axis=0)
    ends = intervals(known["logd"], outputs["local"][:, 0], spread[:, 0], level)
    assert ends is not None
    scored = np.isfinite(fresh.labels[rows, 0]) & (fresh.relations[rows, 0] == 0)
    labels = fresh.labels[rows[scored], 0]
    inside = (ends[scored, 0] <= labels) & (labels <= ends[scored, 1])
    assert abs(inside.mean() - level) < 0.06
    sets = class_sets(known["herg"], outputs["local"][:, 2], level)
    assert sets is not None
    measured = np.isfinite(fresh.labels[rows, 2])
    truth = fresh.labels[rows[measured], 2].astype(int)
    for value in (0, 1):
        assert abs(sets[measured][truth == value, value].mean() - level) < 0.06


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("count", [19, 20, 99, 100, 333])
def test_intervals_and_classes_are_those_of_crepes(level: float, count: int) -> None:
    rng = np.random.default_rng(count)
    # Two digits, so that values tie.
    residuals, zero, one = (np.sort(rng.random(count).round(2)) for _ in range(3))
    known = Calibration(residuals=tuple(residuals), floor=0.5)
    output, spread = rng.normal(size=200), rng.random(200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        regressor = ConformalRegressor().fit(residuals, sigmas=np.ones(count))
        expected = regressor.predict_int(output, 0.5 + spread, confidence=level)
    assert intervals(known, output, spread, level) == pytest.approx(expected)
    classes = Calibration(class_0=tuple(zero), class_1=tuple(one))
    logits = np.concatenate([output, np.log(zero[zero > 0] / (1.001 - zero[zero > 0])), [50.0, -50.0]])
    sets = [
        ConformalClassifier().fit(own).predict_set(each[:, None], confidence=level, smoothing=False)[:, 0] > 0
        for own, each in zip((zero, one), ((1 - probability(-logits)), (1 - probability(logits))), strict=True)
    ]
    found = class_sets(classes, logits, level)
    assert found is not None
    assert np.array_equal(found, np.stack(sets, axis=1))


def test_too_few_compounds_give_no_interval() -> None:
    data = dataset(rows=120)
    few = dataclasses.replace(data, valid=data.valid[: MIN_CALIBRATION - 1])
    known = calibrate(few, noisy(0), CHOSEN)
    assert known["logd"] == Calibration()
    assert intervals(known["logd"], np.zeros(2), np.zeros(2), 0.9) is None
    assert class_sets(known["herg"], np.zeros(2), 0.9) is None
    whole = calibrate(dataset(rows=600), noisy(0), CHOSEN)["logd"]
    assert Calibration.read(whole.plain()) == whole


def test_compounds_that_chose_the_model_do_not_calibrate_it() -> None:
    whole = dataset(rows=800)
    data = whole.with_calibration(SplitRule(fold_key="k").apart([f"series {row}" for row in range(800)]))
    assert len(data.calibration) >= 50
    assert sorted([*data.valid, *data.calibration]) == sorted(whole.valid)
    lucky = {name: exact_on(data, data.valid) for name in MEMBERS}
    known = calibrate(data, lucky, CHOSEN)
    assert not any(calibration.chose for calibration in known.values())
    assert len(known["logd"].residuals) == np.count_nonzero(scorable(data, data.calibration, 0))
    # A model that knows only what chose it: those compounds would flatter it.
    ends = intervals(known["logd"], np.zeros(1), np.zeros(1), 0.9)
    flattered = intervals(calibrate(whole, lucky, CHOSEN)["logd"], np.zeros(1), np.zeros(1), 0.9)
    assert ends is not None
    assert flattered is not None
    assert np.ptp(ends) > 1.2 * np.ptp(flattered)


def exact_on(data: Dataset, rows: np.ndarray) -> Predict:
    """Right about `rows`, ignorant of all others."""
    known = {data.inputs.rows(rows[at : at + 1]).tobytes(): data.labels[row] for at, row in enumerate(rows)}

    def predict(inputs: np.ndarray) -> np.ndarray:
        blank = np.zeros(len(data.endpoints))
        return np.array([np.nan_to_num(known.get(row[None].tobytes(), blank)) for row in inputs], float)

    return predict


def test_a_small_fold_is_not_divided_and_the_card_says_so() -> None:
    whole = dataset(rows=300)
    data = whole.with_calibration(SplitRule(fold_key="k").apart([f"series {row}" for row in range(300)]))
    assert data is whole
    known = calibrate(data, noisy(0), CHOSEN)
    assert known["logd"].residuals
    assert known["logd"].chose
    assert Calibration.read(known["logd"].plain()) == known["logd"]


def test_nearness_is_told_and_survives_the_disk(tmp_path: Path) -> None:
    data = dataset(rows=400)
    near = Neighbours.of(data)
    assert near.nearest(data.inputs.bits(data.train)) == pytest.approx(1.0)
    assert near.nearest(np.zeros((1, 64), bool))[0] == 0
    assert near.usual is not None
    assert [near.applicability(s) for s in (1.0, sum(near.usual[1:]) / 2, 0.0)] == ["inside", "edge", "outside"]
    assert read_neighbours(tmp_path, 64, 3) is None
    near.write(tmp_path)
    again = read_neighbours(tmp_path, 64, 3)
    assert again is not None
    assert np.array_equal(again.packed, near.packed)
    assert again.usual == near.usual
    with pytest.raises(ConfigError, match="another model"):
        read_neighbours(tmp_path, 128, 3)
    (tmp_path / FILE).write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_neighbours(tmp_path, 64, 3)
