"""The baseline every chemist asks for: a random forest per assay endpoint on the same features and training fold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import Predict
from kmel_p2p.learn.train.dataset import Dataset

TREES = 100
FEATURE_SHARE = 0.1
"""Features tried per split; about 200 of 2,259, which is faster than all of them and no worse on fingerprints."""

MAX_ROWS = 5000
"""Training rows per forest: beyond this the baseline would cost more than the models it is compared with."""

MIN_ROWS = 10
MIN_LEAF = 2


def forest_baseline(dataset: Dataset, seed: int) -> Predict:
    """A function from inputs to outputs; bounds are not trained on, as forests know no one-sided loss.

    An assay endpoint with fewer than `MIN_ROWS` values, or a single class, is predicted by its mean.
    """
    columns = [_forest(dataset, place, seed) for place in range(len(dataset.endpoints))]
    return lambda inputs: np.stack([column(inputs) for column in columns], axis=1)


def _forest(dataset: Dataset, place: int, seed: int) -> Predict:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    rows = dataset.measured(dataset.train, place)
    rows = rows[dataset.relations[rows, place] == 0]
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))
    labels = dataset.labels[rows, place].astype(np.float64)
    classification = dataset.endpoints[place].kind == "classification"
    if len(rows) < MIN_ROWS or labels.min() == labels.max():
        mean = float(labels.mean()) if len(rows) else 0.0
        constant = _logit(np.array([mean]))[0] if classification and len(rows) else mean
        return lambda inputs: np.full(len(inputs), constant)
    kind = RandomForestClassifier if classification else RandomForestRegressor
    # One job: the daemon's machine belongs to its user, and threads of several sites would fight.
    forest = kind(TREES, max_features=FEATURE_SHARE, min_samples_leaf=MIN_LEAF, random_state=seed % 2**32, n_jobs=1)
    forest.fit(dataset.inputs.rows(rows), labels)

    def predict(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        if not len(inputs):
            return np.empty(0)
        if classification:
            return _logit(forest.predict_proba(inputs)[:, 1])
        values: NDArray[np.float64] = forest.predict(inputs)
        return values

    return predict


def _logit(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds, kept finite as if one more tree had voted for either class."""
    smooth = (share * TREES + 0.5) / (TREES + 1)
    odds: NDArray[np.float64] = np.log(smooth / (1 - smooth))
    return odds
