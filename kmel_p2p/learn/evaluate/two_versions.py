"""Two versions of a site's models on the same compounds: those of the test fold as it is now."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.evaluation import MIN_TEST, RESAMPLES, known_to
from kmel_p2p.learn.evaluate.scores import metric, relative_change, resampled, scorable, score
from kmel_p2p.learn.predict.predict import Model
from kmel_p2p.learn.train.dataset import Dataset


def compare_versions(former: Model, later: Model, dataset: Dataset, seed: int) -> dict[str, Any]:
    """What each site predicted with, scored on the test fold with paired bootstrap intervals.

    A compound stays in its fold for as long as the charter's split key stands, so neither version was trained on it.

    Args:
        dataset: of the site now.
        seed: of the bootstrap.

    Returns:
        ready for JSON: for each assay endpoint `former` and `later` (RMSE in the transformed unit or log loss),
        `change_pct` and its 95 % `interval_pct`; only counts with fewer than `MIN_TEST` values, or, marked `silent`,
        where one of the two says nothing of it.

    Raises:
        ConfigError: a version was made for other assay endpoints.
    """
    outputs = [_outputs(model, dataset) for model in (former, later)]
    endpoints = []
    for place, endpoint in enumerate(dataset.endpoints):
        known = scorable(dataset, dataset.test, place)
        found: dict[str, Any] = {
            "name": endpoint.name,
            "unit": endpoint.reported_unit,
            "metric": metric(endpoint),
            "test": int(known.sum()),
        }
        silent = any(_says_nothing_of(model, place, endpoint) for model in (former, later))
        if silent:
            found["silent"] = True
        elif known.sum() >= MIN_TEST:
            labels = dataset.labels[dataset.test[known], place].astype(np.float64)
            columns = {name: output[known, place] for name, output in zip(("former", "later"), outputs, strict=True)}
            scores = {name: score(endpoint, output, labels.astype(np.float32)) for name, output in columns.items()}
            sampled = resampled(endpoint, columns, labels, seed, RESAMPLES)
            change, interval = relative_change(
                (scores["later"], scores["former"]), (sampled["later"], sampled["former"])
            )
            found |= {**scores, "change_pct": change, "interval_pct": interval}
        endpoints.append(found)
    return {"former": former.card.version, "later": later.card.version, "endpoints": endpoints}


def _says_nothing_of(model: Model, place: int, endpoint: AssayEndpoint) -> bool:
    """Whether a version was made before an assay endpoint came, or after it was retired, or without values of it."""
    return place >= len(model.card.architecture.endpoints) or endpoint.name in model.without_values()


def _outputs(model: Model, dataset: Dataset) -> NDArray[np.float64]:
    """What the version predicts for the test fold, float64[len(test), E]; NaN where it does not know the endpoint."""
    known = known_to(model, dataset)
    near = None if model.neighbours is None else model.neighbours.nearest(known.inputs.bits(known.test))
    found = model.answering.answer(known.read_by(model.reads).inputs.rows(known.test), near).output
    return np.pad(found, ((0, 0), (0, len(dataset.endpoints) - found.shape[1])), constant_values=np.nan)
