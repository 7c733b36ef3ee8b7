"""How far a prediction may be off: conformal intervals and classes (Vovk, Gammerman and Shafer 2005), through crepes.

Calibrated on the site's own validation fold. crepes was taken because it works on plain residuals of any model, with
per-compound difficulty and per-class calibration, and needs nothing beyond numpy and pandas; MAPIE wraps
scikit-learn estimators, which these networks are not.

The validation fold also chose the checkpoint and the model, so intervals are slightly too narrow in theory;
`kmel-peer evaluate` prints the coverage on the test fold, which chose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from crepes import ConformalClassifier, ConformalRegressor
from numpy.typing import NDArray

from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.learn.dataset import Dataset
from kmel_p2p.learn.scores import Predict, scorable

MIN_CALIBRATION = 19
"""Values below which no interval is given: 19 is what a level of 95 % needs."""

MEMBERS = ("local", "federated", "personalised")
"""Models whose disagreement is taken for difficulty."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What intervals of one assay endpoint are made from; it goes into the model's card.

    Attributes:
        residuals: regressions: |error| / difficulty on the validation fold, ascending, in labels.
        floor: regressions: difficulty is floor + disagreement of the models.
        class_0, class_1: classifications: 1 - probability of the true class, ascending, for each true class.
    """

    residuals: tuple[float, ...] = ()
    floor: float = 0.0
    class_0: tuple[float, ...] = ()
    class_1: tuple[float, ...] = ()

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Calibration:
        """From a card."""
        return cls(tuple(raw["residuals"]), float(raw["floor"]), tuple(raw["class_0"]), tuple(raw["class_1"]))

    def plain(self) -> dict[str, Any]:
        """For a card."""
        return asdict(self)


def calibrate(dataset: Dataset, predict: Mapping[str, Predict], chosen: Mapping[str, str]) -> dict[str, Calibration]:
    """Calibrations of the chosen models by assay endpoint; empty ones where the fold is too small."""
    inputs = dataset.inputs.rows(dataset.valid)
    outputs = {name: predict[name](inputs) for name in {*MEMBERS, *chosen.values()}}
    disagreement = np.std([outputs[name] for name in MEMBERS], axis=0)
    found = {}
    for place, endpoint in enumerate(dataset.endpoints):
        known = scorable(dataset, dataset.valid, place)
        labels = dataset.labels[dataset.valid[known], place].astype(np.float64)
        output = outputs[chosen[endpoint.name]][known, place]
        found[endpoint.name] = _calibration(endpoint, output, labels, disagreement[known, place])
    return found


def _calibration(
    endpoint: AssayEndpoint, output: NDArray[np.float64], labels: NDArray[np.float64], spread: NDArray[np.float64]
) -> Calibration:
    if endpoint.kind == "classification":
        unlike = 1 - _probability_of(labels, output)
        zero, one = (np.sort(unlike[labels.round() == value]) for value in (0, 1))
        if min(len(zero), len(one)) < MIN_CALIBRATION:
            return Calibration()
        return Calibration(class_0=_rounded(zero), class_1=_rounded(one))
    if len(labels) < MIN_CALIBRATION:
        return Calibration()
    errors = np.abs(output - labels)
    floor = max(float(np.median(errors)), 1e-6)
    return Calibration(_rounded(np.sort(errors / (floor + spread))), floor)


def intervals(
    calibration: Calibration, output: NDArray[np.float64], spread: NDArray[np.float64], level: float
) -> NDArray[np.float64] | None:
    """Lower and upper end in labels, float64[n, 2]; None without calibration.

    Args:
        output: float64[n] of the chosen model.
        spread: float64[n], standard deviation of the models' outputs.
        level: share of compounds like those of the validation fold whose value lies inside.
    """
    if not calibration.residuals or not len(output):
        return None
    regressor = ConformalRegressor()
    ones = np.ones(len(calibration.residuals))
    regressor.fit(np.array(calibration.residuals), sigmas=ones)
    found: NDArray[np.float64] = regressor.predict_int(output, calibration.floor + spread, confidence=level)
    return found


def class_sets(calibration: Calibration, output: NDArray[np.float64], level: float) -> NDArray[np.bool_] | None:
    """Which classes (0, 1) cannot be ruled out at this level, bool[n, 2]; None without calibration.

    Calibrated per class, so that a rare class is right as often as a frequent one.
    """
    if not calibration.class_0 or not len(output):
        return None
    columns = []
    for value, known in enumerate((calibration.class_0, calibration.class_1)):
        classifier = ConformalClassifier()
        classifier.fit(np.array(known))
        unlike = 1 - _probability_of(np.full(len(output), float(value)), output)
        # Without smoothing, so that the same compound always gets the same answer.
        columns.append(classifier.predict_set(unlike[:, None], confidence=level, smoothing=False)[:, 0] > 0)
    return np.stack(columns, axis=1)


def _probability_of(labels: NDArray[np.float64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    margin = np.where(labels > 0.5, logits, -logits)
    probability: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(margin, -500, 500)))
    return probability


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
