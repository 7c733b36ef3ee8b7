"""Weights are not negative, add up to one, equal without data; outputs of a row never come from its own weights.

Of classes, their slope says how far to trust the learners together.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.losses import log_losses
from kmel_p2p.learn.stack.sides import LOCALS
from kmel_p2p.learn.stack.weigh import weigh
from kmel_p2p.learn.stack.weights import FOLDS, LEAST_SLOPE, cross_fitted, fit_weights, folds, mixed, trusted

VALUE = AssayEndpoint(name="value", head="shared")
GROUP = AssayEndpoint(name="group", kind="classification", head="shared")


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), learners=st.integers(1, 8), scale=st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_weights_are_shares(seed: int, rows: int, learners: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    outputs = scale * rng.normal(size=(rows, learners))
    for endpoint, labels in ((VALUE, scale * rng.normal(size=rows)), (GROUP, rng.integers(0, 2, rows).astype(float))):
        weights = fit_weights(endpoint, outputs, labels)
        assert (weights.shares >= 0).all()
        assert weights.shares.sum() == pytest.approx(1)
        assert LEAST_SLOPE <= weights.slope <= 1
        if endpoint is VALUE:
            assert (weights.slope, weights.shift) == (1, 0)


@pytest.mark.parametrize("endpoint", [VALUE, GROUP])
def test_without_rows_weights_are_equal(endpoint: AssayEndpoint) -> None:
    weights = fit_weights(endpoint, np.empty((0, 4)), np.empty(0))
    assert weights.shares == pytest.approx(np.full(4, 0.25))
    assert (weights.slope, weights.shift) == (1, 0)
    assert cross_fitted(endpoint, np.empty((0, 4)), np.empty(0), 1).shape == (0,)


def test_many_rows_find_the_good_learner_and_few_stay_near_equal() -> None:
    rng = np.random.default_rng(3)
    labels = rng.normal(size=3000)
    outputs = np.stack([labels + rng.normal(size=3000) * noise for noise in (0.1, 1.0, 1.0)], axis=1)
    found = fit_weights(VALUE, outputs, labels).shares
    assert found[0] > 0.9
    assert fit_weights(VALUE, outputs[:4], labels[:4]).shares[0] < 0.5
    assert fit_weights(VALUE, outputs + 50, labels + 50).shares == pytest.approx(found, abs=1e-6), "zero means nothing"
    classes = (rng.random(3000) < 1 / (1 + np.exp(-2 * labels))).astype(float)
    logits = np.stack([2 * labels, rng.normal(size=3000), -labels], axis=1)
    weights = fit_weights(GROUP, logits, classes)
    assert weights.shares[0] > 0.85
    limited = weights.slope * (np.clip(logits * 1e6, -8, 8) @ weights.shares) + weights.shift
    assert weights(GROUP, logits * 1e6) == pytest.approx(limited)


def test_learners_that_are_too_certain_lose_their_certainty_and_not_their_part() -> None:
    """As those on activations of a network that was trained on the same compounds."""
    rng = np.random.default_rng(11)
    truth = rng.normal(-1, 1.5, 4000)
    classes = (rng.random(4000) < 1 / (1 + np.exp(-truth))).astype(float)
    noise = [rng.normal(0, 1, 4000) for _ in range(3)]
    boast = np.stack([4 * (truth + own) for own in noise], axis=1)
    known, new = slice(0, 80), slice(80, None)
    weights = fit_weights(GROUP, boast[known], classes[known], float(classes.mean()))
    honest = log_losses(weights(GROUP, boast[new]), classes[new]).mean()
    assert weights.slope < 0.5
    assert honest < 0.6 * log_losses(mixed(GROUP, boast[new], weights.shares), classes[new]).mean()
    assert honest < log_losses(np.full(3920, -1.0), classes[new]).mean()
    assert weights(GROUP, boast[new]).mean() < -0.5, "less certainty is nearer to what is usual, not to one half"


@pytest.mark.parametrize(("boast", "doubted"), [(4.0, True), (0.3, False)])
def test_given_weights_stay_and_doubt_is_all_that_is_added(boast: float, doubted: bool) -> None:
    rng = np.random.default_rng(12)
    truth = rng.normal(0, 1.5, 200)
    classes = (rng.random(200) < 1 / (1 + np.exp(-truth))).astype(float)
    shares = np.array([0.25, 0.75])
    logits = boast * np.stack([truth, truth], axis=1)
    weights = trusted(shares, GROUP, logits, classes)
    assert np.array_equal(weights.shares, shares)
    assert (weights.slope < 0.5) if doubted else ((weights.slope, weights.shift) == (1, 0))
    values = trusted(shares, VALUE, logits, truth)
    assert (values.slope, values.shift) == (1, 0)


def test_learners_that_are_always_wrong_are_hardly_listened_to() -> None:
    classes = (np.arange(60) % 3 == 0).astype(float)
    wrong = np.stack([6 - 12 * classes, 5 - 10 * classes], axis=1)
    weights = fit_weights(GROUP, wrong, classes)
    assert weights.slope == pytest.approx(LEAST_SLOPE)
    assert log_losses(weights(GROUP, wrong), classes).mean() < 0.9 < log_losses(wrong[:, 0], classes).mean() - 4


@pytest.mark.parametrize("classes", [np.zeros(9), np.ones(9), np.array([1.0])])
def test_a_single_class_makes_nobody_certain(classes: np.ndarray) -> None:
    logits = np.full((len(classes), 3), 2.0) * np.where(classes > 0.5, 1, -1)[:, None]
    weights = fit_weights(GROUP, logits, classes, 0.1 if classes[0] < 0.5 else 0.9)
    assert 0.8 < weights.slope <= 1
    assert abs(weights(GROUP, logits)).max() < 2.1, "they said 2"


def test_a_row_has_no_part_in_its_own_weights() -> None:
    rng = np.random.default_rng(4)
    labels = rng.normal(size=31)
    outputs = labels[:, None] + rng.normal(size=(31, 3))
    parts = folds(31, 5)
    assert len(parts) == FOLDS
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(31))
    before = cross_fitted(VALUE, outputs, labels, 5)
    changed = labels.copy()
    changed[parts[2]] += 10
    after = cross_fitted(VALUE, outputs, changed, 5)
    assert np.array_equal(after[parts[2]], before[parts[2]])
    assert not np.array_equal(after, before)


def test_networks_whose_loss_counts_class_one_more_often_are_read_as_if_it_did_not() -> None:
    """The lines that are stored beside the weights undo it, since networks are asked again as they are."""
    endpoint = GROUP.changed(positive_weight=20.0)
    rng = np.random.default_rng(13)
    truth = rng.normal(-2.5, 1.5, 300)
    classes = (rng.random(300) < 1 / (1 + np.exp(-truth))).astype(float)
    network = np.clip(truth + np.log(20.0), -7.9, 7.9)
    outputs = {LOCALS: network, "local": network, "federated": network, "trees": truth}
    base_rate = float(classes.mean())
    weighed = weigh(endpoint, outputs, classes, ["local", "federated"], 1, None, base_rate)
    for name, side in weighed.sides.items():
        columns = np.stack([outputs[learner] for learner in side.names], axis=1)
        found = side.logits(mixed(endpoint, columns, side.weights))
        assert (1 / (1 + np.exp(-found))).mean() == pytest.approx(base_rate, abs=0.03), name
        assert log_losses(weighed.crossed[name], classes).mean() == pytest.approx(
            log_losses(found, classes).mean(), abs=0.02
        )
