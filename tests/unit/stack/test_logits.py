"""Calibrated probabilities: they come true, keep the order of compounds, and are left alone where they did already."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.evaluate.scores import probability
from kmel_p2p.learn.stack.logits import MIN_CURVE, UNCHANGED, LogitMap, calibrated, curve


def sample(count: int, boast: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `boast` times what they should be, and classes."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, count)
    return boast * honest, (rng.random(count) < probability(honest)).astype(float)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(labels > 0.5, -logits, logits)).mean())


def test_boastful_logits_become_honest() -> None:
    known = sample(2 * MIN_CURVE, 4.0)
    found, crossed = calibrated(*known, seed=1)
    assert len(found.knots)
    fresh, labels = sample(5000, 4.0, seed=7)
    assert log_loss(found(fresh), labels) < 0.7 * log_loss(fresh, labels)
    assert log_loss(found(fresh), labels) < log_loss(fresh / 4, labels) + 0.03
    assert log_loss(crossed, known[1]) < log_loss(*known)


def test_probabilities_without_evidence_against_them_stay() -> None:
    logits, labels = sample(MIN_CURVE - 1, 4.0)
    assert calibrated(logits, labels, 1)[0] is UNCHANGED
    few = np.arange(MIN_CURVE) < 4
    assert calibrated(sample(MIN_CURVE, 4.0)[0], few.astype(float), 1)[0] is UNCHANGED
    rarely, whatever = np.random.default_rng(5).normal(0, 0.1, MIN_CURVE), np.arange(MIN_CURVE) % 2
    assert calibrated(rarely, whatever.astype(float), 1)[0] is UNCHANGED, "curves made of chance are no better"


def test_a_map_after_a_line_is_one_map() -> None:
    at = np.linspace(-7, 7, 29)
    for found in (LogitMap(0.5, -0.25), curve(*sample(MIN_CURVE, 4.0))):
        assert found.after(0.75, 0.5)(at) == pytest.approx(found(0.75 * at + 0.5))
    assert UNCHANGED.after(1.0, 0.0)(at) == pytest.approx(at)


def test_a_single_compound_at_the_low_end_does_not_lift_the_probabilities_of_the_rest() -> None:
    logits, labels = np.linspace(-6, 6, MIN_CURVE), np.zeros(MIN_CURVE)
    labels[[1, *range(60, 500, 60)]] = 1
    labels[700:] = 1
    found = curve(logits, labels)
    assert len(found.knots)
    low = slice(0, 450)
    told = probability(found(logits[low])).mean()
    assert told == pytest.approx(labels[low].mean(), abs=0.01), "the first compound alone is a step of its own"


def test_equal_logits_get_one_probability_whatever_their_order() -> None:
    labels = (np.arange(MIN_CURVE) % 4 == 0).astype(float)
    found = [curve(np.full(MIN_CURVE, 0.1), some) for some in (labels, np.sort(labels))]
    for one in found:
        assert probability(one(np.array([0.1])))[0] == pytest.approx(0.25, abs=0.001)
        LogitMap.from_rows(one.rows(), "here")


def test_outputs_that_curves_are_kept_for_come_from_other_compounds() -> None:
    """Four fifths of the values are too few for a curve of their own."""
    logits, labels = sample(MIN_CURVE, 4.0)
    found, crossed = calibrated(logits, labels, 1)
    assert len(found.knots)
    assert not np.array_equal(crossed, found(logits))
    assert np.abs(found(logits) - crossed).mean() < 0.5
    assert len(np.unique(crossed)) < MIN_CURVE, "constant beyond the last step"


@given(st.integers(0, 10**6), st.sampled_from([30, 300, MIN_CURVE]), st.floats(0.1, 9.0))
def test_the_order_of_compounds_stays(seed: int, count: int, boast: float) -> None:
    found = curve(*sample(count, boast, seed))
    at = np.linspace(-20, 20, 101)
    assert (np.diff(found(at)) >= 0).all()
    assert np.isfinite(found(at)).all()
    again = LogitMap.from_rows(found.rows(), "here")
    assert np.array_equal(again(at), found(at))


@pytest.mark.parametrize(
    "rows",
    [np.empty((0, 2)), [[0.0, 0.0]], [[-1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [[1, 0], [1, 0], [0, 1]]],
)
def test_a_map_that_turns_the_order_around_is_damaged(rows: object) -> None:
    with pytest.raises(ConfigError, match="here: is damaged"):
        LogitMap.from_rows(np.asarray(rows, float), "here")
