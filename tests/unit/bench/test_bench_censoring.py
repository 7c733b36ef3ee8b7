"""The benchmark of bounds treats training and validation fold only, and scores what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))

import censoring

from kmel_p2p.chem.counts import CountMatrix
from kmel_p2p.learn.dataset import Dataset, Inputs

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


class Fixed:
    """A network whose prediction is the descriptor times a factor."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return (self._factor * inputs[:, -1:]).astype(np.float64)


def test_scores_are_those_of_values_and_of_bounds(data: Dataset) -> None:
    perfect, reversed_ = (censoring.scores(data, Fixed(factor)) for factor in (1.0, -1.0))  # type: ignore[arg-type]
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
