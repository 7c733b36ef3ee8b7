"""How good predictions are, per assay endpoint, on the scale users read; and two baselines to compare them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.train.dataset import Dataset

Predict = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Inputs float32[n, width] to outputs float64[n, E]: labels for regressions, logits for classifications."""

FoldScores = dict[str, dict[str, float]]
"""Assay endpoint -> fold ("valid", "test") -> score; lower is better."""

MAX_SCORED = 1000
"""Compounds per fold that a round is scored on, so that scoring takes the same time however many a site has."""

BLOCK_ROWS = 1024
"""Compounds laid out at a time: 10 MB of features."""

TREES = 100
FEATURE_SHARE = 0.1
"""Share of features tried per split: about 200 of 2,259, faster than trying all and no worse on fingerprints."""

MAX_ROWS = 5000
"""Training rows per forest. With more, the baseline would cost more than the models it is compared with."""

MIN_ROWS = 10
MIN_LEAF = 2

SURE = 1 - 1e-6
"""The highest probability that is told."""


def metric(endpoint: AssayEndpoint) -> str:
    """Name of the score used to compare models."""
    return "rmse" if endpoint.kind == "regression" else "log_loss"


def score(endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float32]) -> float:
    """RMSE in the transformed unit, or mean log loss.

    Args:
        outputs: float64[n].
        labels: float32[n], n > 0, all measured, none of them a bound.
    """
    # A diverged model scores nan or inf. That is a result, not a reason to warn.
    with np.errstate(invalid="ignore", over="ignore"):
        if endpoint.kind == "regression":
            return float(np.sqrt(np.mean((outputs - labels) ** 2)) * endpoint.scale)
        # log(1 + exp(-margin)) without overflow
        return float(np.mean(np.logaddexp(0.0, np.where(labels > 0.5, -outputs, outputs))))


def reported(endpoint: AssayEndpoint, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs, float64[n], on the reported scale: transformed values, or the probability of class 1."""
    return probability(outputs) if endpoint.kind == "classification" else endpoint.transformed(outputs)


def probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of class 1, float64[n]; at most `SURE`, at least 1 - `SURE`: no number of measurements makes one certain."""
    limit = np.log(SURE / (1 - SURE))
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -limit, limit)))
    return found


def fold_scores(dataset: Dataset, predict: Predict) -> FoldScores:
    """Scores of a model on the validation and test folds; bounds (censored values) are not scored."""
    return scores_by_fold(dataset, fold_outputs(dataset, predict))


def fold_outputs(dataset: Dataset, predict: Predict) -> dict[str, NDArray[np.float64]]:
    """Fold ("valid", "test") -> a model's outputs, float64[rows of the fold, E]; empty folds are left out."""
    folds = {"valid": dataset.valid, "test": dataset.test}
    return {fold: outputs_in_blocks(dataset, rows, predict) for fold, rows in folds.items() if len(rows)}


def scores_by_fold(dataset: Dataset, outputs: Mapping[str, NDArray[np.float64]]) -> FoldScores:
    """Scores of what `fold_outputs` found."""
    scores: FoldScores = {endpoint.name: {} for endpoint in dataset.endpoints}
    for fold, found in outputs.items():
        rows = dataset.valid if fold == "valid" else dataset.test
        for name, value in scores_of(dataset, rows, found).items():
            scores[name][fold] = value
    return scores


def outputs_in_blocks(dataset: Dataset, rows: NDArray[np.int64], predict: Predict) -> NDArray[np.float64]:
    """A model's outputs for compounds of the dataset, float64[len(rows), E], in bounded memory."""
    parts = [predict(dataset.inputs.rows(block)) for block in blocks(rows)]
    return np.concatenate(parts) if parts else np.empty((0, len(dataset.endpoints)))


def blocks(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """`rows` in order, in parts of `BLOCK_ROWS`."""
    return [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]


def sampled(dataset: Dataset, seed: int, *, test: bool) -> Dataset:
    """The dataset with at most `MAX_SCORED` compounds in each scored fold, for scores along the way.

    The same seed always chooses the same compounds, so that scores can be compared.

    Args:
        test: whether to keep the test fold; else it is empty.
    """
    none = np.empty(0, np.int64)
    return replace(
        dataset,
        valid=_sample(dataset, dataset.valid, seed),
        test=_sample(dataset, dataset.test, seed) if test else none,
    )


def _sample(dataset: Dataset, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most `MAX_SCORED` of `rows`; of every assay endpoint at least its share of values, if there are so many."""
    if len(rows) <= MAX_SCORED:
        return rows
    shuffled = np.random.default_rng(seed).permutation(rows)
    places = range(len(dataset.endpoints))
    share = MAX_SCORED // len(places)
    first = [shuffled[scorable(dataset, shuffled, place)][:share] for place in places]
    order = np.concatenate([*first, shuffled])
    # `unique` gives the first place of each compound: endpoints' shares come before the rest.
    _, earliest = np.unique(order, return_index=True)
    chosen: NDArray[np.int64] = np.sort(order[np.sort(earliest)[:MAX_SCORED]])
    return chosen


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
        constants[place] = best_constant(endpoint, labels)
    return lambda inputs: np.tile(constants, (len(inputs), 1))


def best_constant(endpoint: AssayEndpoint, labels: NDArray[np.float64]) -> float:
    """The one output that suits these labels best: their median, or the log odds of class 1; 0 without labels."""
    if not len(labels):
        return 0.0
    if endpoint.kind == "regression":
        return float(np.median(labels))
    # One pseudo-count of each class keeps the odds finite.
    positive = float(labels.sum())
    return float(np.log((positive + 1) / (len(labels) - positive + 1)))


def forest_baseline(dataset: Dataset, seed: int) -> Predict:
    """A random forest per assay endpoint on the same features and training fold.

    Bounds are left out of training, as forests have no one-sided loss.

    An assay endpoint with fewer than `MIN_ROWS` values, or a single class, is predicted by its mean.
    """
    columns = [_forest(dataset, place, seed) for place in range(len(dataset.endpoints))]
    return lambda inputs: np.stack([column(inputs) for column in columns], axis=1)


def _forest(dataset: Dataset, place: int, seed: int) -> Predict:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    rows = some_of(dataset.train[scorable(dataset, dataset.train, place)], MAX_ROWS, seed)
    labels = dataset.labels[rows, place].astype(np.float64)
    classification = dataset.endpoints[place].kind == "classification"
    if too_little(labels):
        mean = float(labels.mean()) if len(rows) else 0.0
        constant = logit_of(np.array([mean]), TREES)[0] if classification and len(rows) else mean
        return lambda inputs: np.full(len(inputs), constant)
    kind = RandomForestClassifier if classification else RandomForestRegressor
    # One job: the machine has other work to do, and several sites on one machine would compete for cores.
    forest = kind(TREES, max_features=FEATURE_SHARE, min_samples_leaf=MIN_LEAF, random_state=seed % 2**32, n_jobs=1)
    forest.fit(dataset.inputs.rows(rows), labels)

    def predict(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        if not len(inputs):
            return np.empty(0)
        if classification:
            return logit_of(forest.predict_proba(inputs)[:, 1], TREES)
        values: NDArray[np.float64] = forest.predict(inputs)
        return values

    return predict


def resampled(
    endpoint: AssayEndpoint,
    columns: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.float64],
    seed: int,
    draws: int,
) -> dict[str, NDArray[np.float64]]:
    """Scores float64[draws] of each model's outputs on bootstrap resamples of the compounds, the same for all models.

    Args:
        columns: model -> labels or logits, float64[n].
        labels: float64[n], measured, none of them a bound.
    """
    rng = np.random.default_rng([seed, len(labels)])
    truth = labels.astype(np.float32)
    found = {name: np.empty(draws) for name in columns}
    for draw in range(draws):
        rows = rng.integers(0, len(labels), len(labels))
        for name, output in columns.items():
            found[name][draw] = score(endpoint, output[rows], truth[rows])
    return found


def relative_change(
    scores: tuple[float, float], sampled: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[float, list[float]]:
    """Change of a score against a reference, and its 95 % bootstrap interval, both in percent.

    Args:
        scores: of the two, the reference last.
        sampled: the same on the same resamples (`resampled`), float64[draws] each.
    """
    low, high = np.quantile(sampled[0] / np.maximum(sampled[1], 1e-12) - 1, [0.025, 0.975])
    return 100 * (scores[0] / max(scores[1], 1e-12) - 1), [100 * float(low), 100 * float(high)]


def some_of(rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """At most `most` of ascending rows, ascending; the same ones for the same seed."""
    if len(rows) <= most:
        return rows
    chosen: NDArray[np.int64] = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return chosen


def too_little(labels: NDArray[np.floating]) -> bool:
    """Whether trees have nothing to learn from these values: fewer than `MIN_ROWS`, or all the same."""
    return len(labels) < MIN_ROWS or bool(labels.min() == labels.max())


def logit_of(share: NDArray[np.float64], votes: int) -> NDArray[np.float64]:
    """Log odds of a share of votes, kept finite as if half a tree more had voted for each class."""
    smooth = (share * votes + 0.5) / (votes + 1)
    odds: NDArray[np.float64] = np.log(smooth / (1 - smooth))
    return odds
