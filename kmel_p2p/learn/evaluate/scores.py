"""How good predictions are, per assay endpoint, on the scale users read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.train.dataset import Dataset

Predict = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Inputs float32[n, width] to outputs float64[n, E]: labels for regressions, logits for classifications."""

FoldScores = dict[str, dict[str, float]]
"""Assay endpoint -> fold ("valid", "test") -> score; lower is better."""


def metric(endpoint: AssayEndpoint) -> str:
    """Name of the score used to compare models."""
    return "rmse" if endpoint.kind == "regression" else "log_loss"


def score(endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float32]) -> float:
    """RMSE in the transformed unit, or mean log loss.

    Args:
        outputs: float64[n].
        labels: float32[n], n > 0, all measured and uncensored.
    """
    # A diverged model scores nan or inf; that is an answer, not a reason to warn.
    with np.errstate(invalid="ignore", over="ignore"):
        if endpoint.kind == "regression":
            return float(np.sqrt(np.mean((outputs - labels) ** 2)) * endpoint.scale)
        # log(1 + exp(-margin)) without overflow
        return float(np.mean(np.logaddexp(0.0, np.where(labels > 0.5, -outputs, outputs))))


def reported(endpoint: AssayEndpoint, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs, float64[n], on the scale people read: transformed values, or the probability of class 1."""
    return probability(outputs) if endpoint.kind == "classification" else endpoint.transformed(outputs)


def probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of class 1, float64[n]; logits are cut where the exponential would overflow."""
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return found


def fold_scores(dataset: Dataset, predict: Predict) -> FoldScores:
    """Scores of a model on validation and test fold; bounds (censored values) are not scored."""
    scores: FoldScores = {endpoint.name: {} for endpoint in dataset.endpoints}
    for fold, rows in (("valid", dataset.valid), ("test", dataset.test)):
        if not len(rows):
            continue
        for name, found in scores_of(dataset, rows, predict(dataset.inputs.rows(rows))).items():
            scores[name][fold] = found
    return scores


def scores_of(dataset: Dataset, rows: NDArray[np.int64], outputs: NDArray[np.float64]) -> dict[str, float]:
    """Assay endpoint -> score of `outputs`, float64[len(rows), E]; endpoints without a value in `rows` are left out."""
    scores = {}
    for place, endpoint in enumerate(dataset.endpoints):
        scored = scorable(dataset, rows, place)
        if scored.any():
            scores[endpoint.name] = score(endpoint, outputs[scored, place], dataset.labels[rows[scored], place])
    return scores


def scorable(dataset: Dataset, rows: NDArray[np.int64], place: int) -> NDArray[np.bool_]:
    """bool[len(rows)]: measured as a value, not as a bound."""
    chosen: NDArray[np.bool_] = np.isfinite(dataset.labels[rows, place]) & (dataset.relations[rows, place] == 0)
    return chosen


def median_baseline(dataset: Dataset) -> Predict:
    """Predicts the training median of each assay endpoint (for classes the log odds of the training share)."""
    constants = np.zeros(len(dataset.endpoints))
    for place, endpoint in enumerate(dataset.endpoints):
        labels = dataset.labels[dataset.measured(dataset.train, place), place].astype(np.float64)
        if not len(labels):
            continue
        if endpoint.kind == "regression":
            constants[place] = np.median(labels)
        else:
            # One pseudo-count of each class keeps the odds finite.
            positive = float(labels.sum())
            constants[place] = np.log((positive + 1) / (len(labels) - positive + 1))
    return lambda inputs: np.tile(constants, (len(inputs), 1))
