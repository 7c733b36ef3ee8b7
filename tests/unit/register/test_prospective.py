"""Figures and signs of drift: what is compared, what is too little to tell, and what is found when it is there."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.learn.register.drift import drifts
from kmel_p2p.learn.register.matched import match
from kmel_p2p.learn.register.prospective import prospective
from kmel_p2p.learn.register.prospective_page import in_words, prospective_page
from kmel_p2p.learn.register.register import Registered

LOGD = AssayEndpoint(name="logd", unit="", center=2.0, scale=1.5)
SOLUBILITY = AssayEndpoint(name="solubility", unit="mol/L", transform="log10", center=-3.0, scale=1.5)
HERG = AssayEndpoint(name="herg", kind="classification")
MONTH_S = 31 * 86_400
NOVEMBER = 1_793_600_000
"""In November 2026."""


class Structures:
    def __init__(self, identities: list[str]) -> None:
        self.identities = identities


class Measured:
    """What of `Measurements` is looked at."""

    def __init__(self, endpoint: AssayEndpoint, native: np.ndarray, relations: np.ndarray | None = None) -> None:
        self.endpoints = (endpoint,)
        labels = native if endpoint.kind == "classification" else endpoint.label(native)
        self.labels = labels.astype(np.float32)[:, None]
        self.relations = (np.zeros(len(native), np.int8) if relations is None else relations)[:, None]
        self.structures = Structures([f"c{place}" for place in range(len(native))])


def report_on(rows: list[Registered], measured: Measured) -> dict[str, Any]:
    part: Any = measured
    parts: list[Measurements] = [part]
    report, _ = prospective(rows, parts, [measured.endpoints[0]])
    return report


def rows_of(endpoint: AssayEndpoint, values: np.ndarray, local: np.ndarray, **facts: Any) -> list[Registered]:
    """One prediction per compound, `width` around its value, ten a day from `at_s` on."""
    width, at_s, outside = facts.get("width", 1.0), facts.get("at_s", NOVEMBER), facts.get("outside", 0)
    return [
        Registered(
            compound=f"c{place + facts.get('first', 0)}", endpoint=endpoint.name, version="v", at_s=at_s + 60 * place,
            value=float(value), lower=float(value - width), upper=float(value + width), classes="", level=0.9,
            best_local=float(other), median=2.0, similarity=0.5,
            applicability="outside" if place < outside else "inside",
        )
        for place, (value, other) in enumerate(zip(values, local, strict=True))
    ]  # fmt: skip


def test_errors_are_compared_in_the_transformed_unit() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(2, 1, 60)
    rows = rows_of(LOGD, true + 0.5, true + 1.0, width=0.6)
    (found,) = report_on(rows, Measured(LOGD, true))["endpoints"]
    assert found["score"] == pytest.approx(0.5, abs=1e-5)
    assert found["bias"] == pytest.approx(0.5, abs=1e-5)
    assert found["best_local"] == pytest.approx(1.0, abs=1e-5)
    assert found["change_vs_best_local_pct"] == pytest.approx(-50, abs=0.01)
    assert (found["inside"], found["promised"], found["spearman"]) == (1.0, pytest.approx(0.9), pytest.approx(1.0))
    assert [month["month"] for month in found["months"]] == ["2026-11"]
    assert "50.0 % lower than best local's" in in_words(found)
    assert "intervals hold 100 % where 90 % were promised; none waits." in in_words(found)


def test_logarithms_are_compared_as_logarithms() -> None:
    true = 10.0 ** np.linspace(-6, -2, 30)
    rows = [
        replace(row, value=value * 10, lower=0.9 * value, upper=value * 100, best_local=None)
        for row, value in zip(rows_of(SOLUBILITY, true, true), map(float, true), strict=True)
    ]
    rows[0] = replace(rows[0], lower=0.0)
    (found,) = report_on(rows, Measured(SOLUBILITY, true))["endpoints"]
    assert found["score"] == pytest.approx(1.0, abs=1e-4)
    assert found["inside"] == 1.0, "ends of intervals that are no logarithms exclude nothing"
    assert "best_local" not in found


def test_bounds_are_not_scored_and_few_values_give_no_figure() -> None:
    true = np.linspace(0, 3, 12)
    relations = np.array([1] * 3 + [0] * 9, np.int8)
    (found,) = report_on(rows_of(LOGD, true, true), Measured(LOGD, true, relations))["endpoints"]
    assert found["values"] == 9
    assert "score" not in found
    assert "9 predicted values were measured since, too few for figures; none waits." in in_words(found)


def test_predictions_without_a_measurement_wait() -> None:
    true = np.linspace(0, 3, 12)
    rows = rows_of(LOGD, np.linspace(0, 3, 20), np.linspace(0, 3, 20))
    (found,) = report_on(rows, Measured(LOGD, true))["endpoints"]
    assert (found["values"], found["waiting"]) == (12, 8)
    assert "8 more wait for a measurement" in in_words(found)


def test_classes_are_scored_by_log_loss_and_their_sets() -> None:
    rng = np.random.default_rng(1)
    true = (rng.random(80) < 0.5).astype(np.float64)
    share = np.where(true > 0.5, 0.8, 0.2)
    rows = [
        replace(row, lower=None, upper=None, classes="1" if value > 0.5 else "01", median=0.5)
        for row, value in zip(rows_of(HERG, share, np.full(80, 0.5)), share, strict=True)
    ]
    (found,) = report_on(rows, Measured(HERG, true))["endpoints"]
    assert found["score"] == pytest.approx(-np.log(0.8), abs=1e-6)
    assert found["best_local"] == pytest.approx(np.log(2), abs=1e-6)
    assert (found["inside"], found["auroc"]) == (1.0, 1.0)
    assert found["bias"] == pytest.approx(float(np.mean(share - true)), abs=1e-6)


def drift_of(*months: list[Registered], true: np.ndarray) -> list[str]:
    measured: Any = Measured(LOGD, true)
    parts = [match(month, [measured], [LOGD])[0]["logd"] for month in months]
    return drifts([(part.months[0], part) for part in parts])


def test_well_kept_promises_are_no_drift() -> None:
    """A hundred sites with two months: hardly one of them is told about by chance."""
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        true = rng.normal(2, 1, 80)
        noise, local = rng.normal(0, 0.5, 80), rng.normal(0, 0.5, 80)
        # 1.645 standard deviations hold 90 %.
        early = rows_of(LOGD, (true + noise)[:40], (true + local)[:40], width=0.8224)
        late = rows_of(LOGD, (true + noise)[40:], (true + local)[40:], width=0.8224, first=40, at_s=NOVEMBER + MONTH_S)
        alarms += bool(drift_of(early, late, true=true))
    assert alarms <= 3


def test_each_sign_of_drift_is_found() -> None:
    rng = np.random.default_rng(5)
    true = rng.normal(2, 1, 80)
    small, large = rng.normal(0, 0.4, 80), rng.normal(0, 1.2, 80)
    early = rows_of(LOGD, (true + small)[:40], (true + small)[:40])
    wrong = rows_of(LOGD, (true + large)[40:], (true + small)[40:], first=40, at_s=NOVEMBER + MONTH_S, width=0.5)
    found = drift_of(early, wrong, true=true)
    assert any("predictions of 2026-12 had intervals that hold" in text for text in found), found
    assert any("erred" in text and "% more than earlier ones (40 values against 40)" in text for text in found), found
    assert any("best local would have been right more often on 80 values" in text for text in found), found
    elsewhere = rows_of(LOGD, (true + small)[40:], (true + small)[40:], first=40, at_s=NOVEMBER + MONTH_S, outside=30)
    (text,) = drift_of(early, elsewhere, true=true)
    assert text.startswith("logd: predictions of 2026-12 were for other chemistry: 75 % outside")
    assert drift_of(early, true=true) == []


def test_the_page_shows_what_the_report_has_and_no_compound() -> None:
    rng = np.random.default_rng(5)
    true = rng.normal(2, 1, 80)
    early = rows_of(LOGD, true[:40] + 0.3, true[:40] + 0.4)
    late = rows_of(LOGD, true[40:] + 1.3, true[40:] + 0.4, first=40, at_s=NOVEMBER + MONTH_S)
    report = report_on([*early, *late], Measured(LOGD, true))
    whole = {"site": "north<b>", "federation": "demo", "versions": {"v": {"predictions": 80, "since": "2026-11-01"}}}
    page = prospective_page({**whole, **report})
    assert "north&lt;b&gt;" in page
    assert page.count("Look at this:") == len(report["drift"]) > 0
    assert "2026-12" in page
    assert "data:image/png;base64," in page
    assert "c40" not in page.replace("base64", "").split("data:image")[0]
    assert "c40" not in json.dumps(report)
