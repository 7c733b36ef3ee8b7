"""The benchmark of bounds treats training and validation fold only, and scores what it says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks import censoring, censoring_kernel
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.learn.train.dataset import Dataset, Inputs

COUNT = 60
ROWS = np.arange(COUNT)


@pytest.fixture
def data() -> Dataset:
    """60 compounds, some above 10 umol/L known as ">10" only; one descriptor that is the true label."""
    truth = np.random.default_rng(0).permutation(np.linspace(-2, 2, COUNT)).astype(np.float32)
    relations = ((ROWS % 3 != 0) & (truth > 0)).astype(np.int8)[:, None]
    labels = np.where(relations > 0, np.float32(0), truth[:, None])
    counts = CountMatrix.from_rows(np.zeros((COUNT, 8), np.int64), 8)
    inputs = Inputs(counts, truth[:, None])
    return Dataset((censoring.ENDPOINT,), inputs, labels, relations, ROWS[:30], ROWS[30:45], ROWS[45:])


@pytest.mark.parametrize("treatment", censoring.TREATMENTS)
def test_all_treatments_are_tested_alike(data: Dataset, treatment: str) -> None:
    treated = censoring.treated(data, treatment)
    assert np.array_equal(treated.test, data.test)
    assert np.array_equal(treated.labels, data.labels, equal_nan=True)
    assert np.array_equal(treated.relations[data.test], data.relations[data.test])
    taught = np.concatenate([treated.train, treated.valid])
    bounds = np.count_nonzero(data.relations[:45])
    assert 10 < bounds < 35
    assert np.count_nonzero(treated.relations[taught]) == (0 if treatment in ("dropped", "as_values") else bounds)
    assert len(taught) == (45 - bounds if treatment == "dropped" else 45)


def test_scores_are_those_of_values_and_of_bounds(data: Dataset) -> None:
    truth = data.inputs.rows(data.test)[:, -1].astype(np.float64)
    perfect, reversed_ = (censoring.scores(data, factor * truth) for factor in (1.0, -1.0))
    assert perfect["spearman"] == pytest.approx(1)
    assert perfect["mae"] == pytest.approx(0, abs=1e-6)
    assert perfect["agree"] == 1.0
    assert perfect["auroc"] == 1.0
    assert reversed_["spearman"] == pytest.approx(-1)
    assert reversed_["agree"] == reversed_["auroc"] == 0.0


def test_a_difference_is_paired_over_folds() -> None:
    own, other = ([{"spearman": value} for value in values] for values in ((0.5, 0.7, 0.6), (0.4, 0.5, 0.65)))
    found = censoring.paired(own, other)
    assert found["mean"] == pytest.approx(0.25 / 3)
    assert found["standard_error"] == pytest.approx(np.std([0.1, 0.2, -0.05], ddof=1) / 3**0.5)
    assert found["wins"] == 2


@pytest.mark.parametrize("name", censoring_kernel.STAND_INS)
def test_stand_ins_never_break_the_bound(name: str) -> None:
    beyond = np.linspace(-3, 3, 25)
    stand_ins = censoring_kernel.STAND_INS[name](beyond)
    assert (stand_ins >= 0).all()
    assert (np.diff(stand_ins) >= -1e-12).all()


def test_the_kernel_learns_from_bounds(data: Dataset) -> None:
    """Compounds that are alike lie alike: two clusters, one of which is known by bounds alone."""
    cluster = np.arange(COUNT) % 2
    rng = np.random.default_rng(1)
    fingerprints = rng.integers(0, 2, (COUNT, 8)) + 3 * np.repeat(np.eye(2, dtype=int)[cluster], 4, axis=1)
    labels = np.where(cluster == 1, 1.0, -1.0).astype(np.float32)[:, None]
    known = dataclasses.replace(data, labels=labels, relations=cluster.astype(np.int8)[:, None])
    found = censoring_kernel.predicted(censoring_kernel.similarities(CountMatrix.from_rows(fingerprints, 8)), known)
    above = cluster[known.test] == 1
    for name in censoring_kernel.STAND_INS:
        assert found[name][above].min() > found[name][~above].max(), name
    assert np.ptp(found["dropped"]) < 0.1
