"""Predictions of the register beside what was measured afterwards."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.dataset.refresh import measured_in
from kmel_p2p.learn.evaluate.scores import SURE
from kmel_p2p.learn.register.register import Registered


@dataclass(frozen=True, slots=True)
class Matched:
    """n compounds of one assay endpoint, in order of prediction. Bounds (censored values) are left out.

    Attributes:
        endpoint: whose.
        rows: what was predicted.
        labels: float64[n], measured.
        outputs: float64[n], predicted, as labels or logits.
        best_local, median: the same of best local and of the training median; NaN where there was none.
        inside: float64[n], 1 where the measured value or class was in the interval or set, else 0; NaN without one.
        outside: bool[n], compounds outside of what the model was validated on.
    """

    endpoint: AssayEndpoint
    rows: Sequence[Registered]
    labels: NDArray[np.float64]
    outputs: NDArray[np.float64]
    best_local: NDArray[np.float64]
    median: NDArray[np.float64]
    inside: NDArray[np.float64]
    outside: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def months(self) -> list[str]:
        """When each was predicted, such as "2026-11" (UTC)."""
        return [month_of(row.at_s) for row in self.rows]

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> Matched:
        """Some of them."""
        places = np.arange(len(self))[chosen]
        return Matched(
            self.endpoint,
            [self.rows[place] for place in places],
            self.labels[places],
            self.outputs[places],
            self.best_local[places],
            self.median[places],
            self.inside[places],
            self.outside[places],
        )


def month_of(at_s: int) -> str:
    """The month of a time in seconds since 1970 (UTC)."""
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m")


def match(
    predictions: Iterable[Registered], measurements: Sequence[Measurements], endpoints: Sequence[AssayEndpoint]
) -> tuple[dict[str, Matched], dict[str, int]]:
    """Look up what was measured since.

    Args:
        predictions: made before the site measured them.
        measurements: all of the site, of the same assay endpoints.

    Returns:
        by assay endpoint the predictions with a measured value, and how many wait for one.
    """
    values = {key: value for part in measurements for key, value in measured_in(part).items()}
    found: dict[str, list[tuple[Registered, float]]] = {endpoint.name: [] for endpoint in endpoints}
    waiting = dict.fromkeys(found, 0)
    for one in predictions:
        if one.endpoint not in found:
            continue
        value = values.get((one.compound, one.endpoint))
        if value is None:
            waiting[one.endpoint] += 1
        elif value[0] == 0:
            found[one.endpoint].append((one, value[1]))
    return {endpoint.name: _matched(endpoint, found[endpoint.name]) for endpoint in endpoints}, waiting


def _matched(endpoint: AssayEndpoint, found: Sequence[tuple[Registered, float]]) -> Matched:
    rows = [one for one, _ in found]
    labels = np.array([label for _, label in found], np.float64)
    return Matched(
        endpoint,
        rows,
        labels,
        _outputs(endpoint, [row.value for row in rows]),
        _outputs(endpoint, [row.best_local for row in rows]),
        _outputs(endpoint, [row.median for row in rows]),
        np.array([_inside(endpoint, row, label) for row, label in found], np.float64),
        np.array([row.applicability == "outside" for row in rows], np.bool_),
    )


def _outputs(endpoint: AssayEndpoint, values: Sequence[float | None]) -> NDArray[np.float64]:
    """What people read, back to labels or logits; NaN for None and for what no model says."""
    read = np.array([np.nan if value is None else value for value in values], np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        if endpoint.kind == "classification":
            share = np.clip(read, 1 - SURE, SURE)
            found: NDArray[np.float64] = np.log(share / (1 - share))
        else:
            found = endpoint.label(read)
    return np.where(np.isfinite(found), found, np.nan)


def _inside(endpoint: AssayEndpoint, row: Registered, label: float) -> float:
    if endpoint.kind == "classification":
        return float(str(round(label)) in row.classes) if row.classes else np.nan
    if row.lower is None or row.upper is None:
        return np.nan
    lower, upper = endpoint.label(np.maximum([row.lower, row.upper], _least(endpoint)))
    return float(lower <= label <= upper)


def _least(endpoint: AssayEndpoint) -> float:
    """The smallest value that has a label."""
    return np.finfo(np.float64).tiny if endpoint.transform == "log10" else -np.inf
