"""The advice on constructed cases: clearly better, clearly worse, no evidence, contradicted by held-out compounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate import advice
from kmel_p2p.learn.evaluate.advice import LOCAL, NO_EVIDENCE, USE, in_words
from kmel_p2p.learn.evaluate.scores import resampled

SOLUBILITY = AssayEndpoint(name="solubility", unit="mol/L", transform="log10", center=-4.0, scale=1.5)
RNG = np.random.default_rng(3)
TRUTH = RNG.normal(size=200)
GOOD, POOR = TRUTH + 0.3 * RNG.normal(size=200), TRUTH + 0.9 * RNG.normal(size=200)
OTHER_GOOD = TRUTH + 0.3 * RNG.normal(size=200)


def advise(
    endpoint: AssayEndpoint,
    answers: np.ndarray,
    best_local: np.ndarray,
    labels: np.ndarray,
    *,
    rejected: bool,
    seed: int,
    draws: int = 1000,
) -> dict[str, Any]:
    sampled = resampled(endpoint, {"answers": answers, "best local": best_local}, labels, seed, draws)
    pairs = (answers, sampled["answers"]), (best_local, sampled["best local"])
    return advice.advise(endpoint, *pairs, labels, rejected=rejected)


@pytest.mark.parametrize(
    ("answers", "best_local", "expected"),
    [(GOOD, POOR, USE), (POOR, GOOD, LOCAL), (GOOD, OTHER_GOOD, NO_EVIDENCE), (GOOD, GOOD, NO_EVIDENCE)],
)
def test_advice_follows_the_interval(answers: np.ndarray, best_local: np.ndarray, expected: str) -> None:
    found = advise(SOLUBILITY, answers, best_local, TRUTH, rejected=False, seed=1)
    low, high = found["interval_pct"]
    assert found["advice"] == expected
    assert low <= found["change_pct"] <= high
    assert (high < 0, low > 0) == (expected == USE, expected == LOCAL)


def test_a_federation_that_held_out_compounds_contradict_is_not_advised() -> None:
    found = advise(SOLUBILITY, GOOD, GOOD, TRUTH, rejected=True, seed=1)
    assert found["advice"] == LOCAL
    assert "predicts with its best local model already" in in_words(found, "RMSE")


def test_where_best_local_answers_already_no_change_is_told() -> None:
    found = advise(SOLUBILITY, GOOD, GOOD.copy(), TRUTH, rejected=False, seed=1)
    assert found["same"] is True
    assert in_words(found, "RMSE").startswith("Nothing speaks for the federation, so the site predicts all")


def test_few_compounds_give_less_advice_for_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(150):
        truth = rng.normal(size=10)
        common = truth + 0.5 * rng.normal(size=10)
        cases.append((*(common + 0.3 * rng.normal(size=(2, 10))), truth))

    def told() -> int:
        endpoint = AssayEndpoint(name="x")
        every = [advise(endpoint, *case, rejected=False, seed=draw, draws=200) for draw, case in enumerate(cases)]
        found = [one["advice"] for one in every]
        return len(found) - found.count(NO_EVIDENCE)

    widened = told()
    monkeypatch.setattr(advice, "_ends", lambda compounds: (0.025, 0.975))
    assert widened <= 0.75 * told()


@pytest.mark.parametrize("threshold", [1e-5, 1e-4])
def test_a_compound_measured_at_the_threshold_is_above_it(threshold: float) -> None:
    """Labels are kept as float32, which may round them below the border."""
    for scale in (1.5, 1.1, 0.7, 0.9, 1.3):
        endpoint = AssayEndpoint(name="solubility", unit="mol/L", transform="log10", center=-4.3, scale=scale)
        labels = endpoint.label(np.full(12, threshold)).astype(np.float32).astype(np.float64)
        found = advise(endpoint, labels + 1, labels - 1, labels, rejected=False, seed=1)
        decision = next(d for d in found["decisions"] if d["threshold"] == threshold)
        assert (decision["wrong"], decision["wrong_best_local"]) == (0, 12)


def test_errors_are_told_as_factors_and_as_wrong_decisions() -> None:
    found = advise(SOLUBILITY, GOOD, POOR, TRUTH, rejected=False, seed=1)
    assert found["fold_error"] == [pytest.approx(10 ** found["score"]), pytest.approx(10 ** found["best_local"])]
    border = (np.log10(1e-4) + 4.0) / 1.5
    told = {decision["threshold"]: decision for decision in found["decisions"]}
    assert told[1e-4]["wrong"] == np.count_nonzero((border <= GOOD) != (border <= TRUTH))
    assert told[1e-4]["wrong_best_local"] == np.count_nonzero((border <= POOR) != (border <= TRUTH))
    words = in_words(found, "RMSE")
    fewer = told[1e-4]["wrong_best_local"] - told[1e-4]["wrong"]
    assert f"At 0.0001 mol/L, {told[1e-4]['wrong']} of 200 decisions are wrong: {fewer} fewer." in words
    assert "lower than the best local model's" in words


@pytest.mark.parametrize(
    "endpoint",
    [
        AssayEndpoint(name="solubility", unit="ug/mL", transform="log10"),  # another unit than the catalogue's borders
        AssayEndpoint(name="our own assay"),
        AssayEndpoint(name="herg", kind="classification"),
    ],
)
def test_no_threshold_is_made_up(endpoint: AssayEndpoint) -> None:
    labels = (TRUTH > 0).astype(float) if endpoint.kind == "classification" else TRUTH
    found = advise(endpoint, GOOD, POOR, labels, rejected=False, seed=1)
    assert "decisions" not in found
    assert ("fold_error" in found) == (endpoint.transform == "log10")
