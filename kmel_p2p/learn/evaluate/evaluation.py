"""Was it worth it, with error bars: four models and two baselines on a site's own test fold.

`chosen` among the models is what `predict` gives with the same model directory (`learn.predict.answering`): the site's
stack, or the chosen networks in an exported model; for compounds unlike the site's own another model, provided the
directory has training compounds to compare with.

Gains are relative, (new - local) / local, and "relative improvement to perfect", (new - local) / (1 - local), for
scores whose best value is 1, as MELLODDY reported them (Heyndrickx et al., J Chem Inf Model 2024, 64, 2331).

Intervals, classes and probabilities are checked as aggregates. For values: the share inside the conformal intervals,
level by level. For classes: the share whose true class is in the predicted set, per class, how often a set names a
single class (conformal efficiency, as in MELLODDY), and a reliability curve of the probabilities. Both are told for
compounds like the site's own and for others, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.evaluate.advice import advise
from kmel_p2p.learn.evaluate.comparison import MODELS
from kmel_p2p.learn.evaluate.scores import (
    forest_baseline,
    median_baseline,
    metric,
    probability,
    relative_change,
    resampled,
    scorable,
    score,
)
from kmel_p2p.learn.predict.answering import Answer, parts_of
from kmel_p2p.learn.predict.outputs import CHOSEN
from kmel_p2p.learn.predict.predict import Model
from kmel_p2p.learn.predict.shift import shift
from kmel_p2p.learn.predict.uncertainty import Parts, class_sets_of, intervals_of
from kmel_p2p.learn.stack.guard import MIN_HELD_OUT
from kmel_p2p.learn.stack.sides import BEST_LOCAL
from kmel_p2p.learn.train.dataset import Dataset

RESAMPLES = 1000
Outputs = Mapping[str, NDArray[np.float64]]

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MIN_TEST = 10
"""With fewer test values no figure is given: it would mean little, and could reveal single compounds."""

MAX_BINS = 10


def evaluate(
    model: Model, dataset: Dataset, seed: int, retired: Mapping[str, int] = MappingProxyType({})
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Scores of every model on the test fold.

    Args:
        dataset: as `known_to` gives it.
        seed: of the bootstrap and the forest.
        retired: assay endpoint that is trained no more -> the campaign that retired it.

    Returns:
        the report (aggregates only, JSON-ready), and by model the outputs float64[len(test), E], which stay here.
    """
    inputs = dataset.read_by(model.reads).inputs.rows(dataset.test)
    near = None if model.neighbours is None else model.neighbours.nearest(dataset.inputs.bits(dataset.test))
    answer = model.answering.answer(inputs, near)
    outputs = {
        **model.outputs(inputs, MODELS),
        **(answer.outputs if model.stack is not None else {}),
        CHOSEN: answer.output,
        "baseline_median": median_baseline(dataset)(inputs),
        "baseline_forest": forest_baseline(dataset, seed)(inputs),
    }
    endpoints = []
    for place, endpoint in enumerate(dataset.endpoints):
        known = scorable(dataset, dataset.test, place)
        report: dict[str, Any] = {
            "name": endpoint.name,
            "kind": endpoint.kind,
            "unit": endpoint.reported_unit,
            "metric": metric(endpoint),
            "train": len(dataset.measured(dataset.train, place)),
            "test": int(known.sum()),
            "chosen": model.chosen[endpoint.name],
            "far_model": model.answering.names[place][1],
            **_bounds(dataset, place, outputs[CHOSEN][:, place]),
        }
        if endpoint.name in retired:
            report["retired"] = retired[endpoint.name]
        if endpoint.name in model.card.untrained or endpoint.name in model.card.retired:
            report["untrained"] = True
        elif known.sum() >= MIN_TEST:
            labels = dataset.labels[dataset.test[known], place].astype(np.float64)
            columns = {name: output[known, place] for name, output in outputs.items()}
            sampled = resampled(endpoint, columns, labels, seed, RESAMPLES)
            report |= _scores(endpoint, columns, labels, sampled)
            report |= _uncertainty(endpoint, model, answer, known, labels, place)
            if model.stack is not None:
                sides = set(model.answering.names[place])
                rejected = sides == {BEST_LOCAL} and model.stack.endpoints[place].held_out >= MIN_HELD_OUT
                own, local = ((columns[name], sampled[name]) for name in (CHOSEN, BEST_LOCAL))
                report["verdict"] = advise(endpoint, own, local, labels, rejected=rejected)
        endpoints.append(report)
    warning = shift(near, model.neighbours.held_out) if near is not None and model.neighbours is not None else None
    return {
        "digest": model.card.digest,
        "labels": dict(model.card.labels),
        "compared_with_own": model.neighbours is not None,
        "stacked": model.stack is not None,
        "warning": str(warning) if warning is not None else "",
        "without_intervals": model.without_intervals(),
        "endpoints": endpoints,
    }, outputs


def known_to(model: Model, dataset: Dataset) -> Dataset:
    """The same compounds with the assay endpoints of a model, which may be from before others were added.

    Raises:
        ConfigError: it was made for other assay endpoints, units or transforms.
    """
    own = model.card.architecture.endpoints
    if own != dataset.endpoints[: len(own)]:
        names = [", ".join(endpoint.name for endpoint in endpoints) for endpoints in (own, dataset.endpoints)]
        raise ConfigError(
            f"the model (assay endpoints: {names[0]}) was made under a different charter than the site has now "
            f"({names[1]}; units, transforms and label constants count too). Evaluate it with its own charter, or "
            "finish a run under this one"
        )
    return dataset.of_first(len(own))


def _uncertainty(
    endpoint: AssayEndpoint,
    model: Model,
    answer: Answer,
    known: NDArray[np.bool_],
    labels: NDArray[np.float64],
    place: int,
) -> dict[str, Any]:
    """Whether intervals, classes and probabilities hold, for all test compounds and for those far from the site's own.

    Args:
        known: bool[len(test)], compounds with a value.
        labels: of those.
    """
    output, spread, far = answer.output[known, place], answer.spread[known, place], answer.far[known]
    told = answer.judged[known, place] if endpoint.kind == "classification" else output
    calibration = model.answering.calibration(endpoint.name)
    # By similarity, as coverage: whether what holds on the whole holds for compounds unlike the site's own.
    groups = {"coverage": np.ones(len(far), bool), "coverage_own": ~far, "coverage_far": far}
    return {
        "foreign": int(far.sum()),
        **{
            name: coverage(endpoint, parts_of(calibration, far[rows]), told[rows], spread[rows], labels[rows])
            for name, rows in groups.items()
            if name == "coverage" or min(far.sum(), (~far).sum()) >= MIN_TEST
        },
        "reliability": reliability(endpoint, output, labels),
        # Whether the calibration compounds had no part in choosing the model; None without intervals.
        "calibrated_apart": not calibration.own.chose if calibration.own else None,
        # Whether they were predicted with weights that were fitted to others of them.
        "calibrated_crosswise": calibration.own.crossed,
    }


def _bounds(dataset: Dataset, place: int, output: NDArray[np.float64]) -> dict[str, Any]:
    """How many test values are bounds, which are not scored, and the share that predictions agree with."""
    labels, relations = dataset.labels[dataset.test, place], dataset.relations[dataset.test, place]
    rows = np.isfinite(labels) & (relations != 0)
    count = int(rows.sum())
    if count < MIN_TEST:
        return {"bounds": count}
    agree = (output[rows] - labels[rows]) * relations[rows] >= 0
    return {"bounds": count, "bounds_agree": float(agree.mean())}


def _scores(
    endpoint: AssayEndpoint, columns: Outputs, labels: NDArray[np.float64], sampled: Mapping[str, NDArray[np.float64]]
) -> dict[str, Any]:
    """Scores with bootstrap intervals, and gains over the local model, all on the same resamples (`sampled`)."""
    truth = labels.astype(np.float32)
    found: dict[str, dict[str, Any]] = {}
    for name, output in columns.items():
        low, high = np.quantile(sampled[name], [0.025, 0.975])
        found[name] = {
            "score": score(endpoint, output, truth),
            "interval": [float(low), float(high)],
            **further_scores(endpoint, output, labels),
        }
    local = found["local"]["score"]
    gains = {}
    for name in (name for name in columns if name != "local" and not name.startswith("baseline")):
        change, interval = relative_change((found[name]["score"], local), (sampled[name], sampled["local"]))
        gains[name] = {
            "change_pct": change,
            "interval_pct": interval,
            "to_perfect": _to_perfect(found["local"], found[name]),
        }
    return {"models": found, "gains": gains}


def further_scores(endpoint: AssayEndpoint, output: NDArray[np.float64], labels: NDArray[np.float64]) -> dict[str, Any]:
    """MAE in the reported unit, R2 and Spearman; for classes AUROC and average precision, None with a single class."""
    import pandas as pd
    from sklearn.metrics import average_precision_score, roc_auc_score

    if endpoint.kind == "classification":
        if labels.min() == labels.max():
            return {"auroc": None, "average_precision": None}
        return {
            "auroc": float(roc_auc_score(labels, output)),
            "average_precision": float(average_precision_score(labels, output)),
        }
    variance = float(np.mean((labels - labels.mean()) ** 2))
    varied = variance > 0 and bool(np.ptp(output) > 0)
    return {
        "mae": float(np.mean(np.abs(output - labels)) * endpoint.scale),
        "r2": 1 - float(np.mean((output - labels) ** 2)) / variance if variance > 0 else None,
        "spearman": float(np.corrcoef(pd.Series(labels).rank(), pd.Series(output).rank())[0, 1]) if varied else None,
    }


def _to_perfect(local: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, float]:
    """Relative improvement to perfect of the scores whose best value is 1."""
    return {
        name: (new[name] - local[name]) / (1 - local[name])
        for name in ("r2", "spearman", "auroc", "average_precision")
        if local.get(name) is not None and new.get(name) is not None and local[name] < 1
    }


def coverage(
    endpoint: AssayEndpoint,
    parts: Parts,
    output: NDArray[np.float64],
    spread: NDArray[np.float64],
    labels: NDArray[np.float64],
) -> list[dict[str, float]]:
    """For each level, the share of test compounds whose true value or class is inside; empty without calibration.

    Args:
        parts: the compounds by what they are calibrated with.
        output: float64[n], what intervals or class sets are made from, as labels or logits.
        spread: float64[n], standard deviation of the models' outputs.
        labels: float64[n], measured values.

    Returns:
        for each level `level` and `inside`; for values also `width`, the median in the reported unit, unless there are
        too few calibration values for that level; for classes also `single`, the share of sets with one class, and
        `inside_0` and `inside_1` for classes with at least `MIN_TEST` compounds.
    """
    if not all(calibration for _, calibration in parts) or not len(labels):
        return []
    if endpoint.kind == "classification":
        return [_of_classes(parts, output, labels, level) for level in LEVELS]
    return [_of_values(endpoint, parts, output, spread, labels, level) for level in LEVELS]


def _of_values(
    endpoint: AssayEndpoint,
    parts: Parts,
    output: NDArray[np.float64],
    spread: NDArray[np.float64],
    labels: NDArray[np.float64],
    level: float,
) -> dict[str, float]:
    ends = intervals_of(parts, output, spread, level)
    inside = (ends[:, 0] <= labels) & (labels <= ends[:, 1])
    width = float(np.median(ends[:, 1] - ends[:, 0])) * endpoint.scale
    # JSON has no infinity.
    return {"level": level, "inside": float(inside.mean()), **({"width": width} if np.isfinite(width) else {})}


def _of_classes(
    parts: Parts, output: NDArray[np.float64], labels: NDArray[np.float64], level: float
) -> dict[str, float]:
    sets, _ = class_sets_of(parts, output, level)
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
    """Compounds sorted by predicted probability of class 1, in up to `MAX_BINS` groups of at least `MIN_TEST`.

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
