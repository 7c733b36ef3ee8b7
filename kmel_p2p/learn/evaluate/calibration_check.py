"""Do intervals, classes and probabilities hold what they promise? Asked of a site's test fold, as aggregates.

For values: the share inside the conformal intervals, level by level. For classes: the share whose true class is in the
predicted set, for each class, and how often a set names one class alone (conformal efficiency, as MELLODDY reported it:
Heyndrickx et al., J Chem Inf Model 2024, 64, 2331); and a reliability curve of the probabilities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.scores import probability
from kmel_p2p.learn.predict.uncertainty import Calibration, class_sets, intervals

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MIN_TEST = 10
"""Test values below which no figure is given: it would say nothing, and would give single compounds away."""

MAX_BINS = 10


def coverage(
    endpoint: AssayEndpoint,
    calibration: Calibration,
    output: NDArray[np.float64],
    spread: NDArray[np.float64],
    labels: NDArray[np.float64],
) -> list[dict[str, float]]:
    """Level by level, the share of test compounds whose true value or class is inside; empty without calibration.

    Args:
        output: float64[n], what the site predicts, in labels or logits.
        spread: float64[n], standard deviation of the models' outputs.
        labels: float64[n], measured values.

    Returns:
        for each level `level` and `inside`; for values `width`, the median in the reported unit, unless the calibration
        is too small for ends at that level; for classes `single`, the share of sets with one class, and `inside_0` and
        `inside_1` for classes with at least `MIN_TEST` compounds.
    """
    if not calibration or not len(labels):
        return []
    if endpoint.kind == "classification":
        return [_of_classes(calibration, output, labels, level) for level in LEVELS]
    return [_of_values(endpoint, calibration, output, spread, labels, level) for level in LEVELS]


def _of_values(
    endpoint: AssayEndpoint,
    calibration: Calibration,
    output: NDArray[np.float64],
    spread: NDArray[np.float64],
    labels: NDArray[np.float64],
    level: float,
) -> dict[str, float]:
    ends = intervals(calibration, output, spread, level)
    assert ends is not None
    inside = (ends[:, 0] <= labels) & (labels <= ends[:, 1])
    width = float(np.median(ends[:, 1] - ends[:, 0])) * endpoint.scale
    # JSON has no infinity.
    return {"level": level, "inside": float(inside.mean()), **({"width": width} if np.isfinite(width) else {})}


def _of_classes(
    calibration: Calibration, output: NDArray[np.float64], labels: NDArray[np.float64], level: float
) -> dict[str, float]:
    sets = class_sets(calibration, output, level)
    assert sets is not None
    true = labels.round().astype(np.int64)
    inside = sets[np.arange(len(true)), true]
    found = {"level": level, "inside": float(inside.mean()), "single": float((sets.sum(axis=1) == 1).mean())}
    for value in (0, 1):
        if np.count_nonzero(true == value) >= MIN_TEST:
            found[f"inside_{value}"] = float(inside[true == value].mean())
    return found


def reliability(
    endpoint: AssayEndpoint, output: NDArray[np.float64], labels: NDArray[np.float64]
) -> list[dict[str, float]]:
    """Compounds in order of the predicted probability of class 1, in up to `MAX_BINS` groups of at least `MIN_TEST`.

    Returns:
        for each group `predicted` (mean probability), `observed` (share of class 1) and `count`; empty for values.
    """
    if endpoint.kind != "classification" or len(labels) < MIN_TEST:
        return []
    predicted = probability(output)
    order = np.argsort(predicted, kind="stable")
    return [
        {
            "predicted": float(predicted[rows].mean()),
            "observed": float(labels[rows].mean()),
            "count": len(rows),
        }
        for rows in np.array_split(order, min(MAX_BINS, len(order) // MIN_TEST))
    ]
