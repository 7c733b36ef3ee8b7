"""Was it worth it, with error bars: the four models and two baselines on a site's own test fold.

`chosen` among the models is what `predict` gives with the same model directory: the chosen models, and the personalised
one for compounds unlike the site's own, if the directory has training compounds to compare with.

Gains are relative, (new - local) / local, and "relative improvement to perfect", (new - local) / (1 - local), for
scores whose best value is 1, as MELLODDY reported them (Heyndrickx et al., J Chem Inf Model 2024, 64, 2331).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.evaluate.calibration_check import MIN_TEST, coverage, reliability
from kmel_p2p.learn.evaluate.comparison import MODELS
from kmel_p2p.learn.evaluate.forest import forest_baseline
from kmel_p2p.learn.evaluate.scores import median_baseline, metric, scorable, score
from kmel_p2p.learn.predict.answer import CHOSEN
from kmel_p2p.learn.predict.predict import Model
from kmel_p2p.learn.predict.uncertainty import Calibration, disagreement
from kmel_p2p.learn.train.dataset import Dataset

RESAMPLES = 1000
Outputs = Mapping[str, NDArray[np.float64]]


def evaluate(model: Model, dataset: Dataset, seed: int) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Scores of every model on the test fold.

    Args:
        seed: of the bootstrap and the forest.

    Returns:
        the report (aggregates only, JSON-ready), and the outputs float64[len(test), E] by model, which stay.

    Raises:
        ConfigError: model and data are of different assay endpoints.
    """
    _require_same(model, dataset)
    inputs = dataset.inputs.rows(dataset.test)
    foreign = np.zeros(len(inputs), bool)
    if model.neighbours is not None:
        foreign = model.neighbours.foreign(dataset.inputs.bits(dataset.test))
    outputs = {
        **model.outputs(inputs, foreign),
        "baseline_median": median_baseline(dataset)(inputs),
        "baseline_forest": forest_baseline(dataset, seed)(inputs),
    }
    spread = disagreement(outputs)
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
            "chosen": model.card.chosen[endpoint.name],
            **_bounds(dataset, place, outputs[CHOSEN][:, place]),
        }
        if endpoint.name in model.card.untrained:
            report["untrained"] = True
        elif known.sum() >= MIN_TEST:
            labels = dataset.labels[dataset.test[known], place].astype(np.float64)
            columns = {name: output[known, place] for name, output in outputs.items()}
            report |= _scores(endpoint, columns, labels, seed)
            report["foreign"] = int(foreign[known].sum())
            calibration = model.calibrations.get(endpoint.name, Calibration())
            report["coverage"] = coverage(endpoint, calibration, columns[CHOSEN], spread[known, place], labels)
            report["reliability"] = reliability(endpoint, columns[CHOSEN], labels)
            # Whether compounds that chose nothing made the intervals; None where there are none.
            report["calibrated_apart"] = not calibration.chose if calibration else None
        endpoints.append(report)
    return {
        "digest": model.card.digest,
        "labels": dict(model.card.labels),
        "compared_with_own": model.neighbours is not None,
        "without_intervals": model.without_intervals(),
        "endpoints": endpoints,
    }, outputs


def _require_same(model: Model, dataset: Dataset) -> None:
    own = model.card.architecture.endpoints
    if own != dataset.endpoints:
        names = [", ".join(endpoint.name for endpoint in endpoints) for endpoints in (own, dataset.endpoints)]
        raise ConfigError(
            f"the model (assay endpoints: {names[0]}) was made under another charter than the site's present one "
            f"({names[1]}; units, transforms and label constants count as well); evaluate it with its own charter, or "
            "finish a run under this one"
        )


def _bounds(dataset: Dataset, place: int, output: NDArray[np.float64]) -> dict[str, Any]:
    """How many test values are bounds, which no score counts, and the share of them that predictions agree with."""
    labels, relations = dataset.labels[dataset.test, place], dataset.relations[dataset.test, place]
    rows = np.isfinite(labels) & (relations != 0)
    count = int(rows.sum())
    if count < MIN_TEST:
        return {"bounds": count}
    agree = (output[rows] - labels[rows]) * relations[rows] >= 0
    return {"bounds": count, "bounds_agree": float(agree.mean())}


def _scores(endpoint: AssayEndpoint, columns: Outputs, labels: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """Scores with bootstrap intervals, and gains over the local model; every model meets the same resamples."""
    rng = np.random.default_rng([seed, len(labels)])
    truth = labels.astype(np.float32)
    found: dict[str, dict[str, Any]] = {}
    sampled = {name: np.empty(RESAMPLES) for name in columns}
    for draw in range(RESAMPLES):
        rows = rng.integers(0, len(labels), len(labels))
        for name, output in columns.items():
            sampled[name][draw] = score(endpoint, output[rows], truth[rows])
    for name, output in columns.items():
        low, high = np.quantile(sampled[name], [0.025, 0.975])
        found[name] = {
            "score": score(endpoint, output, truth),
            "interval": [float(low), float(high)],
            **further_scores(endpoint, output, labels),
        }
    local = found["local"]["score"]
    gains = {}
    for name in (*MODELS[1:], CHOSEN):
        change = sampled[name] / np.maximum(sampled["local"], 1e-12) - 1
        low, high = np.quantile(change, [0.025, 0.975])
        gains[name] = {
            "change_pct": 100 * (found[name]["score"] / max(local, 1e-12) - 1),
            "interval_pct": [100 * float(low), 100 * float(high)],
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
