"""Was it right on what was measured since? Error, bias, intervals and ranking by month, against best local.

All figures are of predictions that the site made before it had the measurement. No other test is as hard to fool: no
split, no leak and no choice of compounds comes between (Sheridan, J Chem Inf Model 2013, 53, 783, on how far random and
time splits are from it).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.learn.evaluate.evaluation import MIN_TEST, RESAMPLES, further_scores
from kmel_p2p.learn.evaluate.scores import metric, relative_change, resampled, score
from kmel_p2p.learn.register.drift import drifts
from kmel_p2p.learn.register.matched import Matched, match
from kmel_p2p.learn.register.register import Registered


def prospective(
    predictions: Iterable[Registered], measurements: Sequence[Measurements], endpoints: Sequence[AssayEndpoint]
) -> tuple[dict[str, Any], dict[str, Matched]]:
    """The report, and what it is made from.

    Args:
        predictions: made before they were measured (`Register.ahead`).
        measurements: all of the site, of these assay endpoints.

    Returns:
        the report, ready for JSON, of aggregates over at least `MIN_TEST` values; and by assay endpoint predictions
        with measured values, which stay at the site.
    """
    found, waiting = match(predictions, measurements, endpoints)
    parts = [_endpoint(found[endpoint.name], waiting[endpoint.name]) for endpoint in endpoints]
    return {"endpoints": parts, "drift": [text for part in parts for text in part["drift"]]}, found


def _endpoint(matched: Matched, waiting: int) -> dict[str, Any]:
    endpoint = matched.endpoint
    months = matched.months
    names = sorted(set(months))
    parts = {month: matched.take(np.array([own == month for own in months])) for month in names}
    return {
        "name": endpoint.name,
        "kind": endpoint.kind,
        "unit": endpoint.reported_unit,
        "metric": metric(endpoint),
        "waiting": waiting,
        **_figures(matched),
        "months": [{"month": month, **_figures(part)} for month, part in parts.items()],
        "drift": drifts(list(parts.items())),
    }


def _figures(matched: Matched) -> dict[str, Any]:
    """`values`, and with enough of them all that is known; a figure of few could reveal single compounds."""
    found: dict[str, Any] = {"values": len(matched)}
    if len(matched) < MIN_TEST:
        return found
    endpoint, labels, outputs = matched.endpoint, matched.labels, matched.outputs
    found["score"] = score(endpoint, outputs, labels.astype(np.float32))
    found["bias"] = _bias(endpoint, outputs, labels)
    found |= further_scores(endpoint, outputs, labels)
    for name, column in (("best_local", matched.best_local), ("median", matched.median)):
        known = np.isfinite(column)
        if known.sum() >= MIN_TEST:
            found[name] = score(endpoint, column[known], labels[known].astype(np.float32))
            found |= _change(endpoint, name, outputs[known], column[known], labels[known])
    promised = np.isfinite(matched.inside)
    if promised.sum() >= MIN_TEST:
        found["inside"] = float(matched.inside[promised].mean())
        found["promised"] = float(
            np.mean([row.level for row, told in zip(matched.rows, promised, strict=True) if told])
        )
    if any(row.applicability for row in matched.rows):
        found["outside"] = float(matched.outside.mean())
    return found


def _bias(endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """Mean of predicted less measured: in the transformed unit, or as a difference of shares of class 1."""
    if endpoint.kind == "classification":
        return float(np.mean(1 / (1 + np.exp(-outputs)) - labels))
    return float(np.mean(outputs - labels) * endpoint.scale)


def _change(
    endpoint: AssayEndpoint,
    name: str,
    outputs: NDArray[np.float64],
    other: NDArray[np.float64],
    labels: NDArray[np.float64],
) -> Mapping[str, Any]:
    """Change of the score against another column, with a 95 % bootstrap interval, in percent."""
    scores = score(endpoint, outputs, labels.astype(np.float32)), score(endpoint, other, labels.astype(np.float32))
    sampled = resampled(endpoint, {"own": outputs, "other": other}, labels, 0, RESAMPLES)
    change, interval = relative_change(scores, (sampled["own"], sampled["other"]))
    return {f"change_vs_{name}_pct": change, f"change_vs_{name}_interval_pct": interval}
