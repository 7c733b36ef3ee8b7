"""Calibrated probabilities: they come true, keep the order of compounds, and are left alone where they did already."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.evaluate.scores import probability
from kmel_p2p.learn.stack.logits import MIN_CURVE, MIN_VALUES, UNCHANGED, LogitMap, calibrated, fit_map


def sample(count: int, boast: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `boast` times what they should be, and classes."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, count)
    return boast * honest, (rng.random(count) < probability(honest)).astype(float)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(labels > 0.5, -logits, logits)).mean())


@pytest.mark.parametrize(("count", "curve"), [(200, False), (2 * MIN_CURVE, True)])
def test_boastful_logits_become_honest(count: int, curve: bool) -> None:
    found, crossed = calibrated(*sample(count, 4.0), seed=1)
    assert bool(len(found.knots)) == curve
    fresh, labels = sample(5000, 4.0, seed=7)
    assert log_loss(found(fresh), labels) < 0.7 * log_loss(fresh, labels)
    assert log_loss(found(fresh), labels) < log_loss(fresh / 4, labels) + 0.03
    assert log_loss(crossed, sample(count, 4.0)[1]) < log_loss(*sample(count, 4.0))


def test_probabilities_without_evidence_against_them_stay() -> None:
    logits, labels = sample(15, 4.0)
    assert calibrated(logits, labels, 1)[0] is UNCHANGED
    one_class = np.ones(100)
    assert fit_map(sample(100, 4.0)[0], one_class) is UNCHANGED
    backwards, labels = sample(300, -1.0)
    assert calibrated(backwards, labels, 1)[0] is UNCHANGED, "a map that turns the order around is none"


def test_a_single_compound_at_the_low_end_does_not_lift_the_probabilities_of_the_rest() -> None:
    logits, labels = np.linspace(-6, 6, MIN_CURVE), np.zeros(MIN_CURVE)
    labels[[1, *range(60, 500, 60)]] = 1
    labels[700:] = 1
    found = fit_map(logits, labels)
    assert len(found.knots)
    low = slice(0, 450)
    told = probability(found(logits[low])).mean()
    assert told == pytest.approx(labels[low].mean(), abs=0.01), "the first compound alone is a step of its own"


def test_equal_logits_get_one_probability_whatever_their_order() -> None:
    labels = (np.arange(MIN_CURVE) % 4 == 0).astype(float)
    found = [fit_map(np.full(MIN_CURVE, 0.1), some) for some in (labels, np.sort(labels))]
    for one in found:
        assert probability(one(np.array([0.1])))[0] == pytest.approx(0.25, abs=0.001)
        LogitMap.from_rows(one.rows(), "here")


@pytest.mark.parametrize("count", [MIN_VALUES, MIN_CURVE])
def test_the_map_that_is_kept_is_of_the_kind_that_was_tried(count: int) -> None:
    """Four fifths of the values are too few for the kind that all of them get."""
    rng = np.random.default_rng(3)
    labels = (np.arange(count) % 2).astype(float)
    logits = 8.0 * (labels - 0.5) + 6.0 * rng.normal(size=count)
    found, crossed = calibrated(logits, labels, 1)
    assert found is not UNCHANGED
    assert not np.array_equal(crossed, logits)
    if count == MIN_CURVE:
        # A line would be steeper or flatter everywhere; a curve is constant beyond its last step.
        assert len(np.unique(crossed)) < count
    assert np.abs(found(logits) - crossed).mean() < 0.5


@given(st.integers(0, 10**6), st.sampled_from([30, 300, MIN_CURVE]), st.floats(0.1, 9.0))
def test_the_order_of_compounds_stays(seed: int, count: int, boast: float) -> None:
    found = fit_map(*sample(count, boast, seed))
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
