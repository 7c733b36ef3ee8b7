"""How far off a prediction may be: conformal intervals and classes (Vovk, Gammerman and Shafer 2005).

Those of a site's stack are cross-conformal (Vovk 2015): every held-out compound calibrates, each predicted with weights
that were fitted to others of them, so none is kept for calibrating alone. The same compounds chose the networks'
checkpoints and which side answers, so intervals may come out slightly too narrow. Compounds like the site's own and
those less so have calibrations of their own where there are enough of both. Where few of a class are held out, class
sets come from all compounds (`stack.rare_classes`).

Those of the networks alone, in an exported model, come from half of the site's validation fold, divided by series,
which chooses neither checkpoints nor models. If the fold is too small to divide, all of it is used for both; intervals
then come out slightly too narrow, and `Calibration.chose` says so.

Given calibrated residuals, an interval is one order statistic and a class one count, so no package is imported for
them: crepes, which the tests compare them with, would double the time that `predict` takes to start. `kmel-peer
evaluate` prints the coverage on the test fold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.evaluate.scores import Predict, probability, scorable
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.outputs import outputs_on
from kmel_p2p.learn.stack.fit import FittedStack
from kmel_p2p.learn.stack.rare_classes import few_of_a_class
from kmel_p2p.learn.train.dataset import Dataset

MIN_CALIBRATION = 19
"""With fewer values no interval is given; a level of 95 % needs 19."""

MIN_APART = 40
"""Values (of each class) that compounds like the site's own, and those less so, need for calibrations of their own."""

MEMBERS = ("local", "federated", "personalised")
"""Models whose disagreement measures difficulty."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What intervals of one assay endpoint are computed from; part of the model's card.

    Attributes:
        residuals: regressions: |error| / difficulty on the validation fold, ascending, in labels.
        floor: regressions: difficulty is floor + disagreement of the models.
        class_0, class_1: classifications: 1 - probability of the true class, ascending, for each true class.
        chose: whether the same compounds also chose checkpoint and model, or the side of the stack.
        crossed: whether each compound was predicted with weights, or by learners, that were fitted to others.
    """

    residuals: tuple[float, ...] = ()
    floor: float = 0.0
    class_0: tuple[float, ...] = ()
    class_1: tuple[float, ...] = ()
    chose: bool = False
    crossed: bool = False

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Calibration:
        """From a card.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            residuals, *classes = (tuple(map(float, raw[name])) for name in ("residuals", "class_0", "class_1"))
            floor, chose, crossed = float(raw["floor"]), bool(raw["chose"]), bool(raw.get("crossed", False))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"card.json is damaged: uncertainty: {error!r}; copy the directory again") from None
        numbers = (floor, *residuals, *classes[0], *classes[1])
        possible = all(math.isfinite(number) and number >= 0 for number in numbers)
        in_order = all(tuple(sorted(part)) == part for part in (residuals, *classes))
        if not possible or not in_order or (not classes[0]) != (not classes[1]):
            raise ConfigError("card.json is damaged: uncertainty holds impossible values; copy the directory again")
        return cls(residuals, floor, classes[0], classes[1], chose, crossed)

    def __bool__(self) -> bool:
        """Whether intervals or classes can be given."""
        return bool(self.residuals or self.class_0)

    @property
    def values(self) -> int:
        """How many values it has; for classes, of the rarer one."""
        return len(self.residuals) if self.residuals else min(len(self.class_0), len(self.class_1))

    def plain(self) -> dict[str, Any]:
        """For a card."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SiteCalibration:
    """What the intervals of a site's stack are made from, for one assay endpoint.

    Attributes:
        own: for compounds like the site's own.
        unusual: for those that are less so (`Neighbours.unusual`).
    """

    own: Calibration
    unusual: Calibration


def calibrate_stack(dataset: Dataset, fitted: FittedStack, neighbours: Neighbours) -> dict[str, SiteCalibration]:
    """Calibrations of the sides that answer, by assay endpoint; empty where there are too few compounds."""
    found = {}
    for endpoint, held, stack in zip(dataset.endpoints, fitted.held_out, fitted.stack.endpoints, strict=True):
        if held.out_of_fold is not None:
            # Of every compound, each a stranger to what judged it: nothing was chosen by them.
            every = held.out_of_fold
            judged = _calibration(endpoint, every.outputs, every.labels, np.zeros(len(every.labels)))
            found[endpoint.name] = SiteCalibration(*[replace(judged, crossed=True)] * 2)
            continue
        unusual = neighbours.unusual(dataset.inputs.bits(held.rows))
        parts = [~unusual, unusual]
        if min(_smallest(endpoint, held.labels[part]) for part in parts) < MIN_APART:
            parts = [np.ones(len(held.rows), bool)] * 2
        own, far = (
            _crossed(_calibration(endpoint, held.sides[side][part], held.labels[part], held.spread[part]))
            for side, part in zip((stack.own, stack.unusual), parts, strict=True)
        )
        found[endpoint.name] = SiteCalibration(own, far)
    return found


def _crossed(known: Calibration) -> Calibration:
    """Weights were fitted to other compounds; checkpoints and the side that answers were chosen by the same ones."""
    return replace(known, chose=True, crossed=True) if known else known


def _smallest(endpoint: AssayEndpoint, labels: NDArray[np.float64]) -> int:
    """How many values there are; for classes, of the rarer one."""
    if endpoint.kind == "regression":
        return len(labels)
    positive = int(np.count_nonzero(labels > 0.5))
    return min(positive, len(labels) - positive)


def calibrate(dataset: Dataset, predict: Mapping[str, Predict], chosen: Mapping[str, str]) -> dict[str, Calibration]:
    """Calibrations of the chosen models by assay endpoint; empty where there are too few compounds."""
    fresh = dict.fromkeys(chosen, Calibration())
    if len(dataset.calibration):
        fresh = _calibrations(dataset, dataset.calibration, predict, chosen)
    if all(fresh.values()):
        return fresh
    used = _calibrations(dataset, np.union1d(dataset.valid, dataset.calibration), predict, chosen)
    return {name: known or (replace(used[name], chose=True) if used[name] else known) for name, known in fresh.items()}


def disagreement(outputs: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Standard deviation over those of `MEMBERS` that `outputs` has (at least one), float64[n, E]."""
    spread: NDArray[np.float64] = np.std([outputs[name] for name in MEMBERS if name in outputs], axis=0)
    return spread


def _calibrations(
    dataset: Dataset, rows: NDArray[np.int64], predict: Mapping[str, Predict], chosen: Mapping[str, str]
) -> dict[str, Calibration]:
    outputs = outputs_on(dataset, rows, predict, {*MEMBERS, *chosen.values()})
    spread = disagreement(outputs)
    found = {}
    for place, endpoint in enumerate(dataset.endpoints):
        known = scorable(dataset, rows, place)
        labels = dataset.labels[rows[known], place].astype(np.float64)
        output = outputs[chosen[endpoint.name]][known, place]
        found[endpoint.name] = _calibration(endpoint, output, labels, spread[known, place])
    return found


def _calibration(
    endpoint: AssayEndpoint, output: NDArray[np.float64], labels: NDArray[np.float64], spread: NDArray[np.float64]
) -> Calibration:
    if endpoint.kind == "classification":
        unlike = 1 - _probability_of(labels, output)
        zero, one = (np.sort(unlike[labels.round() == value]) for value in (0, 1))
        if few_of_a_class(labels):
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
    """Lower and upper ends in labels, float64[n, 2]; None without calibration, infinite below `needed` values.

    Args:
        output: float64[n] of the chosen model.
        spread: float64[n], standard deviation of the models' outputs.
        level: share of compounds, if they resemble the validation fold, whose value lies inside.
    """
    if not calibration.residuals or not len(output):
        return None
    count = len(calibration.residuals)
    # Of the calibration compounds and the new one together, so many may lie outside.
    outside = int((1 - level) * (count + 1))
    if count < needed(level) or not outside:
        return np.tile([-np.inf, np.inf], (len(output), 1))
    half = calibration.residuals[count - outside] * (calibration.floor + spread)
    return np.stack([output - half, output + half], axis=1)


Parts = Sequence[tuple[NDArray[np.bool_], Calibration]]
"""Compounds, bool[n], and what they are calibrated with; each compound in one part."""


def intervals_of(
    parts: Parts, output: NDArray[np.float64], spread: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """`intervals` of all parts, float64[n, 2]; NaN without calibration, infinite with too few values for the level."""
    ends = np.full((len(output), 2), np.nan)
    for rows, calibration in parts:
        found = intervals(calibration, output[rows], spread[rows], level)
        if found is not None:
            ends[rows] = found
    return ends


def class_sets_of(
    parts: Parts, output: NDArray[np.float64], level: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """`class_sets` of all parts, bool[n, 2], and which compounds have one, bool[n]."""
    sets, known = np.zeros((len(output), 2), bool), np.zeros(len(output), bool)
    for rows, calibration in parts:
        found = class_sets(calibration, output[rows], level)
        if found is not None:
            sets[rows], known[rows] = found, True
    return sets, known


def needed(level: float) -> int:
    """Calibration values needed for a finite interval at this level: 19 at 95 %, 99 at 99 %.

    As many of each class are needed for a set that leaves a class out.
    """
    return math.ceil(1 / (1 - level)) - 1


def class_sets(calibration: Calibration, output: NDArray[np.float64], level: float) -> NDArray[np.bool_] | None:
    """Which classes (0, 1) cannot be ruled out at this level, bool[n, 2]; None without calibration.

    Calibrated per class, so that sets for a rare class are right as often as for a frequent one.
    """
    if not calibration.class_0 or not len(output):
        return None
    columns = []
    for value, known in enumerate((calibration.class_0, calibration.class_1)):
        unlike = 1 - _probability_of(np.full(len(output), float(value)), output)
        # Ties count in full, without drawing lots: the same compound must always get the same answer.
        at_least_as_unlike = len(known) - np.searchsorted(known, unlike, side="left")
        columns.append((at_least_as_unlike + 1) / (len(known) + 1) >= 1 - level)
    return np.stack(columns, axis=1)


def _probability_of(labels: NDArray[np.float64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return probability(np.where(labels > 0.5, logits, -logits))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values)
