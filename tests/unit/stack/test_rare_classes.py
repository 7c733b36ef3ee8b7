"""Class sets where few compounds of a class are held out: from all compounds, each without its series, and for good."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.learn.evaluate import evaluation
from kmel_p2p.learn.evaluate.scores import scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict.predict import load_model
from kmel_p2p.learn.predict.uncertainty import calibrate_stack, class_sets
from kmel_p2p.learn.stack import learners
from kmel_p2p.learn.stack.fit import fit_stack, learners_in_all
from kmel_p2p.learn.stack.learners import KINDS, fit_learner
from kmel_p2p.learn.stack.rare_classes import JUDGES, MIN_OF_CLASS, parts_of_series, without_their_series
from kmel_p2p.learn.stack.readings import Known, LearnerInputs, Similar
from kmel_p2p.learn.stack.sides import read_by
from kmel_p2p.learn.stack.stack import STORED_ELSEWHERE, SiteStack
from kmel_p2p.learn.stack.weights import FOLDS, mixed
from kmel_p2p.learn.train.dataset import Inputs
from tests.support.small_learners import make_learners_small_here
from tests.support.stacked_site import SMILES, Site, make_site

BITS, DESCRIPTORS = 32, 8
ACTIVE = AssayEndpoint(name="active", kind="classification", head="shared")
SHAPE = Architecture(inputs=BITS + DESCRIPTORS, hidden=(2,), endpoints=(ACTIVE,), dropout=0.0)


@pytest.fixture(scope="module")
def rare() -> Site:
    """One compound in ten is active: of some 180 to train on and hold out about 18, fewer than ten held out."""
    return make_site(active=0.1)


def test_parts_are_of_whole_series_and_have_both_classes() -> None:
    rng = np.random.default_rng(0)
    series, labels = rng.integers(0, 60, 400), (rng.random(400) < 0.08).astype(float)
    parts = parts_of_series(series, labels, 2**40)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(400))
    assert len(parts) == FOLDS
    for number, part in enumerate(parts):
        others = np.concatenate(parts[:number] + parts[number + 1 :])
        assert not set(series[part]) & set(series[others])
        assert 0 < labels[part].sum() < 0.4 * labels.sum()
    again = parts_of_series(series, labels, 2**40)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    assert [len(parts_of_series(series % few, labels, 1)) for few in (1, 2, 4)] == [0, 2, 4]


def _described(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of features in which a class is seen, but not for certain, float32[n, BITS + DESCRIPTORS]."""
    descriptors = rng.normal(size=(len(labels), DESCRIPTORS)).astype(np.float32)
    descriptors[:, :2] += labels[:, None]
    counts = CountMatrix.from_rows(list(rng.poisson(0.2 + 0.3 * labels[:, None], (len(labels), BITS))), BITS)
    return Inputs(counts, descriptors).rows(np.arange(len(labels)))


def test_sets_of_compounds_left_out_hold_for_either_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "TREES", (20, 20))
    monkeypatch.setattr(learners, "CLASS_TREES", (20, 20))
    monkeypatch.setattr(learners, "CLASS_STAGES", 20)
    networks = {"local": Network(SHAPE)}
    shares: list[list[float]] = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0.0, 1.0], (180, 20))
        rows, fresh = _described(labels, rng), np.repeat([0.0, 1.0], 200)

        def read(places: np.ndarray, rows: np.ndarray = rows) -> LearnerInputs:
            return LearnerInputs(rows[places], networks, BITS)

        every = np.arange(len(labels))
        known = Known.of([read(every)], [])
        found = without_their_series(ACTIVE, read, known, every, every, labels, every, seed)
        assert found is not None
        asked = LearnerInputs(_described(fresh, rng), networks, BITS)
        similar, asked_similar = Similar(read(every), known, every), Similar(asked, known, every)
        judged = [
            fit_learner(kind, "", read(every), similar, labels, labels, classes=True, seed=1)(asked, asked_similar)
            for kind in KINDS
        ]
        output = mixed(ACTIVE, np.stack(judged, axis=1), JUDGES.weights)
        logits = (found.outputs, output)
        # As `class_sets`: a class is ruled out where nine in ten of its compounds were more like it.
        inside = []
        for value, sign in ((0, -1), (1, 1)):
            own, new = sign * logits[0][labels == value], sign * logits[1][fresh == value]
            inside.append(float(((own[None, :] <= new[:, None]).sum(axis=1) + 1 >= 0.1 * (len(own) + 1)).mean()))
        shares.append(inside)
    held = np.mean(shares, axis=0)
    assert (held > 0.85).all(), held
    assert (held < 0.99).all(), f"sets that leave nothing out say nothing: {held}"


def test_nothing_is_said_where_one_series_has_all_of_a_class() -> None:
    labels = np.repeat([0.0, 1.0], (80, 20))
    rows = _described(labels, np.random.default_rng(1))
    every, networks = np.arange(100), {"local": Network(SHAPE)}

    def read(places: np.ndarray) -> LearnerInputs:
        return LearnerInputs(rows[places], networks, BITS)

    known = Known.of([read(every)], [])
    for series in (np.where(labels > 0.5, 100, every), np.zeros(100, np.int64)):
        assert without_their_series(ACTIVE, read, known, every, every, labels, series, 1) is None


def test_a_site_with_few_active_compounds_held_out_gets_sets_from_all(
    rare: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, judged = rare.fitted.held_out
    assert values.out_of_fold is None
    assert judged.out_of_fold is not None
    assert judged.labels.sum() < MIN_OF_CLASS
    own = np.concatenate([rare.data.train, rare.data.valid])
    labels = rare.data.labels[own[scorable(rare.data, own, 1)], 1]
    assert judged.out_of_fold.labels.sum() == labels.sum() >= MIN_OF_CLASS
    calibration = rare.stored.calibrations["herg"]
    assert len(calibration.own.class_1) == labels.sum()
    assert calibration.own == calibration.unusual
    assert calibration.own.crossed
    assert not calibration.own.chose

    model = load_model(rare.write(tmp_path / "model"))
    assert "herg" not in model.without_intervals()
    rows = model.predictions(SMILES)
    # Sets and probabilities are read from different learners; what is written to a file says the same as what was made.
    sides = rare.fitted.stack.outputs(rare.data.inputs.rows(np.arange(len(SMILES))))
    assert np.isnan(sides.judged[:, 0]).all()
    assert not np.array_equal(sides.judged[:, 1], sides.sides["stack"][:, 1])
    expected = class_sets(calibration.own, sides.judged[:, 1], 0.9)
    assert expected is not None
    assert [row.assays["herg"].classes for row in rows] == [tuple(np.flatnonzero(classes)) for classes in expected]
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    coverage = evaluation.evaluate(model, rare.data, 1)[0]["endpoints"][1]["coverage"]
    assert {told["level"] for told in coverage} >= {0.8, 0.9}


def test_every_fit_is_counted_and_the_work_can_be_left(rare: Site) -> None:
    seen: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        make_learners_small_here(patch)
        fit_stack(rare.fitted.stack.architecture, rare.data, rare.models, 1, lambda *told: seen.append(told))
    total = learners_in_all(rare.data, rare.models)
    assert total == (2 * len(rare.data.endpoints) * len(read_by(rare.models)) + FOLDS) * len(KINDS)
    assert seen == [(done, total) for done in range(total)] + [(total, total)]


def test_a_file_that_lacks_what_judges_is_damaged(rare: Site) -> None:
    stack = rare.fitted.stack
    models = {name: rare.models[name] for name in STORED_ELSEWHERE}
    spoilt = copy.deepcopy(stack.facts())
    spoilt["endpoints"][0]["judged"] = True
    with pytest.raises(ConfigError, match="class sets are made from is missing"):
        SiteStack.from_tensors(stack.tensors(), spoilt, stack.architecture, models)
    older = copy.deepcopy(stack.facts())
    for told in older["endpoints"]:
        del told["judged"]
    again = SiteStack.from_tensors(stack.tensors(), older, stack.architecture, models)
    assert [endpoint.judges for endpoint in again.endpoints] == [None, None], "a directory of an earlier version"


def test_fewer_than_ten_of_a_class_in_all_give_no_sets(rare: Site) -> None:
    labels = rare.data.labels.copy()
    positive = np.flatnonzero(labels[:, 1] > 0.5)
    own = np.intersect1d(positive, np.concatenate([rare.data.train, rare.data.valid]))
    labels[own[MIN_OF_CLASS - 1 :], 1] = np.nan
    few = dataclasses.replace(rare.data, labels=labels)
    assert learners_in_all(few, rare.models) == learners_in_all(rare.data, rare.models) - FOLDS * len(KINDS)
    with pytest.MonkeyPatch.context() as patch:
        make_learners_small_here(patch)
        fitted = fit_stack(rare.fitted.stack.architecture, few, rare.models, 1)
    assert fitted.held_out[1].out_of_fold is None
    assert not calibrate_stack(few, fitted, rare.neighbours)["herg"].own
