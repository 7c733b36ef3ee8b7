"""Weights are not negative, add up to one, equal without data; outputs of a row never come from its own weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.stack.weights import FOLDS, cross_fitted, fit_weights, folds, mixed

VALUE = AssayEndpoint(name="value", head="shared")
GROUP = AssayEndpoint(name="group", kind="classification", head="shared")
RNG = np.random.default_rng(3)


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 40), learners=st.integers(1, 8), scale=st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_weights_are_shares(seed: int, rows: int, learners: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    outputs = scale * rng.normal(size=(rows, learners))
    for endpoint, labels in ((VALUE, scale * rng.normal(size=rows)), (GROUP, rng.integers(0, 2, rows).astype(float))):
        weights = fit_weights(endpoint, outputs, labels)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("endpoint", [VALUE, GROUP])
def test_without_rows_weights_are_equal(endpoint: AssayEndpoint) -> None:
    assert fit_weights(endpoint, np.empty((0, 4)), np.empty(0)) == pytest.approx(np.full(4, 0.25))
    assert cross_fitted(endpoint, np.empty((0, 4)), np.empty(0), 1).shape == (0,)


def test_many_rows_find_the_good_learner_and_few_stay_near_equal() -> None:
    labels = RNG.normal(size=3000)
    outputs = np.stack([labels + RNG.normal(size=3000) * noise for noise in (0.1, 1.0, 1.0)], axis=1)
    assert fit_weights(VALUE, outputs, labels)[0] > 0.9
    assert fit_weights(VALUE, outputs[:4], labels[:4])[0] < 0.5
    shifted = fit_weights(VALUE, outputs + 50, labels + 50)
    assert shifted == pytest.approx(fit_weights(VALUE, outputs, labels), abs=1e-6), "zero means nothing"
    classes = (RNG.random(3000) < 1 / (1 + np.exp(-2 * labels))).astype(float)
    logits = np.stack([2 * labels, RNG.normal(size=3000), -labels], axis=1)
    weights = fit_weights(GROUP, logits, classes)
    assert weights[0] > 0.85
    assert mixed(GROUP, logits * 1e6, weights) == pytest.approx(np.clip(logits * 1e6, -8, 8) @ weights)


def test_a_row_has_no_part_in_its_own_weights() -> None:
    labels = RNG.normal(size=31)
    outputs = labels[:, None] + RNG.normal(size=(31, 3))
    parts = folds(31, 5)
    assert len(parts) == FOLDS
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(31))
    before = cross_fitted(VALUE, outputs, labels, 5)
    changed = labels.copy()
    changed[parts[2]] += 10
    after = cross_fitted(VALUE, outputs, changed, 5)
    assert np.array_equal(after[parts[2]], before[parts[2]])
    assert not np.array_equal(after, before)
