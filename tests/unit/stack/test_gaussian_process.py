"""Kernels equal loops over compounds, leave-one-out equals refitting, and likelihood finds what carries the signal."""

from __future__ import annotations

import numpy as np
import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.stack import kernels
from kmel_p2p.learn.stack.gaussian_process import GaussianProcess, choose, left_out, platt
from kmel_p2p.learn.stack.kernels import counts_of, evenly, min_max, rbf, usual_distance
from kmel_p2p.learn.train.dataset import LEVELS

RNG = np.random.default_rng(2)
COUNTS = np.minimum(RNG.poisson(0.4, (30, 50)), 255).astype(np.uint8)
COUNTS[3] = 0
COUNTS[7, 5] = 255
COUNTS[8, 5] = 200


def test_counts_come_back_from_what_networks_read() -> None:
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(counts_of(LEVELS[every]), every)


def test_min_max_equals_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(a: np.ndarray, b: np.ndarray) -> float:
        most = np.maximum(a, b).sum(dtype=int)
        return np.minimum(a, b).sum(dtype=int) / most if most else 1.0

    expected = [[one(a, b) for b in COUNTS] for a in COUNTS[:12]]
    assert min_max(COUNTS[:12], COUNTS) == pytest.approx(np.array(expected), abs=1e-12)
    monkeypatch.setattr(kernels, "KNOWN_VALUES", 350)
    assert min_max(COUNTS[:12], COUNTS) == pytest.approx(np.array(expected), abs=1e-12)
    assert min_max(COUNTS[:0], COUNTS).shape == (0, 30)


def test_rbf_equals_a_loop() -> None:
    features = RNG.normal(size=(9, 4))
    expected = [[np.exp(-((a - b) ** 2).sum() / 6) for b in features] for a in features[:5]]
    assert rbf(features[:5], features, 3.0) == pytest.approx(np.array(expected))
    apart = [((a - b) ** 2).sum() for i, a in enumerate(features) for b in features[:i]]
    assert usual_distance(features) == pytest.approx(np.median(apart))
    assert usual_distance(np.ones((5, 2))) > 0
    assert list(evenly(3, 5)) == [0, 1, 2]
    assert list(evenly(9, 3)) == [0, 4, 8]


def test_leaving_one_out_equals_refitting() -> None:
    features = RNG.normal(size=(25, 3))
    similar = rbf(features, features, 2.0)
    targets = np.where(features[:, 0] > 0, 1.0, -1.0)
    noise = 0.3 * np.eye(25)
    inverse = np.linalg.inv(similar + noise).astype(np.float64)
    found = left_out(inverse, inverse @ targets, targets)
    for at in range(25):
        rest = np.delete(np.arange(25), at)
        alone = np.linalg.solve((similar + noise)[np.ix_(rest, rest)], targets[rest])
        assert found[at] == pytest.approx(similar[at, rest] @ alone)


def test_likelihood_prefers_the_similarity_that_carries_the_signal() -> None:
    signal, noise = RNG.normal(size=(80, 2)), RNG.normal(size=(80, 2))
    targets = np.sin(2 * signal[:, 0]) + signal[:, 1]
    weights, share = choose([rbf(noise, noise, 2.0), rbf(signal, signal, 2.0)], targets - targets.mean())
    assert weights[1] >= 0.75
    assert share <= 0.2


def test_values_and_classes_are_learnt() -> None:
    features = RNG.normal(size=(160, 2))
    values = features[:, 0] ** 2 + features[:, 1]
    known, asked = features[:110], features[110:]
    among, across = [rbf(known, known, 2.0)], [rbf(asked, known, 2.0)]
    process = GaussianProcess.fit(among, values[:110], classes=False)
    assert np.abs(process(across) - values[110:]).mean() < 0.3 * values.std()
    classes = (RNG.random(160) < 1 / (1 + np.exp(-3 * (values - 1)))).astype(float)
    logits = GaussianProcess.fit(among, classes[:110], classes=True)(across)
    loss = np.logaddexp(0, np.where(classes[110:] > 0.5, -logits, logits)).mean()
    assert loss < 0.6
    again = GaussianProcess.from_tensors(process.tensors(), 1, 110, "gp")
    assert np.array_equal(again(across), process(across))


def test_platt_scaling_finds_slope_and_shift() -> None:
    outputs = RNG.normal(size=4000)
    classes = (RNG.random(4000) < 1 / (1 + np.exp(-(2.5 * outputs - 1)))).astype(float)
    slope, shift = platt(outputs, classes)
    assert (slope, shift) == pytest.approx((2.5, -1.0), abs=0.25)
    slope, shift = platt(np.array([-1.0, 1.0]), np.array([0.0, 1.0]))
    assert np.isfinite([slope, shift]).all()
    assert slope > 0


def test_a_damaged_process_is_refused() -> None:
    tensors = GaussianProcess.fit([np.eye(12)], np.arange(12.0), classes=False).tensors()
    for name, value in (("weights", np.array([-1.0])), ("constants", np.zeros(4)), ("coefficients", np.zeros(11))):
        with pytest.raises(ConfigError, match="is damaged"):
            GaussianProcess.from_tensors(tensors | {name: value}, 1, 12, "gp")
