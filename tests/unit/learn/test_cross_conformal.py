"""Intervals and classes from all held-out compounds hold their level; a batch from elsewhere is told from one's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.shift import shift
from kmel_p2p.learn.predict.uncertainty import MIN_APART, SiteCalibration, calibrate_stack, class_sets, intervals
from kmel_p2p.learn.predict.values import values_of
from kmel_p2p.learn.stack.fit import FittedStack, HeldOut
from kmel_p2p.learn.train.dataset import Dataset

VALUES, CLASSES = AssayEndpoint(name="logd"), AssayEndpoint(name="herg", kind="classification")
OWN = Neighbours.of_bits(np.array([[True] * 4 + [False] * 4]), (0.1, 0.2, 0.5))
"""Compounds with a 1 at the end are less like this one than most."""


def calibrated(
    endpoint: AssayEndpoint, sides: dict[str, np.ndarray], labels: np.ndarray, far: np.ndarray
) -> SiteCalibration:
    """Of held-out compounds with these outputs; `far` ones are unlike the site's own."""
    bits = np.where(far[:, None], [[False] * 4 + [True] * 4], [[True] * 4 + [False] * 4])
    data = SimpleNamespace(endpoints=(endpoint,), inputs=SimpleNamespace(bits=lambda rows: bits[rows]))
    held = HeldOut(np.arange(len(labels)), labels, sides, np.full(len(labels), 0.1))
    stack = SimpleNamespace(own="stack", unusual="foreign")
    fitted: Any = SimpleNamespace(held_out=(held,), stack=SimpleNamespace(endpoints=(stack,)))
    return calibrate_stack(cast(Dataset, data), cast(FittedStack, fitted), OWN)[endpoint.name]


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_intervals_hold_for_compounds_like_the_sites_own_and_for_others(level: float) -> None:
    rng = np.random.default_rng(0)
    inside: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(60):
        labels, far = rng.normal(size=320), np.arange(320) % 4 == 0
        # What answers for compounds less like the site's own errs three times as much there.
        sides = {"stack": labels + 0.2 * rng.normal(size=320), "foreign": labels + 0.6 * rng.normal(size=320)}
        held = np.arange(320) < 240
        known = calibrated(VALUES, {name: side[held] for name, side in sides.items()}, labels[held], far[held])
        for unlike, side, calibration in ((False, "stack", known.own), (True, "foreign", known.unusual)):
            rows = ~held & (far == unlike)
            ends = intervals(calibration, sides[side][rows], np.full(rows.sum(), 0.1), level)
            assert ends is not None
            inside[unlike].append(float(((ends[:, 0] <= labels[rows]) & (labels[rows] <= ends[:, 1])).mean()))
    for shares in inside.values():
        assert abs(np.mean(shares) - level) < 0.03


def test_ten_of_each_class_give_sets_that_hold_per_class_up_to_level_nine_tenths() -> None:
    rng = np.random.default_rng(1)
    inside: dict[int, list[float]] = {0: [], 1: []}
    single = []
    for _ in range(300):
        labels = np.concatenate([np.zeros(40), np.ones(10)])
        logits = 3 * (labels - 0.5) + 1.5 * rng.normal(size=50)
        known = calibrated(CLASSES, {"stack": logits, "foreign": logits}, labels, np.zeros(50, bool)).own
        assert known.values == 10
        fresh = np.repeat([0.0, 1.0], 20)
        sets = class_sets(known, 3 * (fresh - 0.5) + 1.5 * rng.normal(size=40), 0.9)
        assert sets is not None
        single.append((sets.sum(axis=1) == 1).mean())
        for value in (0, 1):
            inside[value].append(sets[fresh == value, value].mean())
    assert all(np.mean(shares) >= 0.87 for shares in inside.values())
    assert np.mean(single) > 0.3, "sets of ten leave classes out"
    few = calibrated(CLASSES, {"stack": logits[:49], "foreign": logits[:49]}, labels[:49], np.zeros(49, bool))
    assert not few.own
    far = np.zeros(3, bool)
    told = values_of(CLASSES, np.zeros(3), ["stack"] * 3, [(~far, known)], level=0.95)
    assert [value.classes for value in told] == [None] * 3, "a level of 95 % needs 19 of each class"


def test_both_kinds_of_compounds_share_a_calibration_where_either_has_few() -> None:
    rng = np.random.default_rng(2)
    labels, far = rng.normal(size=200), np.arange(200) < MIN_APART - 1
    sides = {"stack": labels + rng.normal(size=200), "foreign": labels + rng.normal(size=200)}
    known = calibrated(VALUES, sides, labels, far)
    assert len(known.own.residuals) == len(known.unusual.residuals) == 200
    far[MIN_APART - 1] = True
    known = calibrated(VALUES, sides, labels, far)
    assert (len(known.own.residuals), len(known.unusual.residuals)) == (200 - MIN_APART, MIN_APART)


def test_a_sure_logit_is_told_as_a_probability_below_one() -> None:
    told = values_of(CLASSES, np.array([900.0, -900.0]), ["local"] * 2)
    assert [f"{value.value:.6g}" for value in told] == ["0.999999", "1e-06"]


def test_a_batch_is_from_elsewhere_only_if_chance_does_not_explain_it() -> None:
    rng = np.random.default_rng(4)
    held_out = rng.beta(5, 5, 300)
    alarms = sum(shift(rng.beta(5, 5, 100), held_out) is not None for _ in range(300))
    assert alarms <= 2
    found = shift(rng.beta(3, 7, 100), held_out)
    assert found is not None
    assert found.share > 0.6
    assert shift(rng.beta(8, 3, 100), held_out) is None, "more similar is no reason to warn"
    assert shift(rng.beta(3, 7, 100), held_out[:0]) is None
    assert shift(np.full(50, 0.5), np.full(50, 0.5)) is None, "ties count half"
