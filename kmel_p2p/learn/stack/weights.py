"""Non-negative weights with sum 1, from held-out rows, pulled towards equal ones; and outputs of rows left out of them.

With sum 1, the error of a weighted mean is the weighted mean of the errors, so the weights minimise w'Gw with the
errors' Gram matrix G. The pull adds a multiple of the identity: without rows, all weights are equal. For classes the
same is done on the logit scale, with Newton's quadratic approximation of the log loss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.losses import log_losses

PULL = 30.0
"""Rows that the pull towards equal weights counts as, each with an error of one standard deviation of the labels."""

FOLDS = 5
SWEEPS = 500
NEWTON_STEPS = 20
LOGIT_LIMIT = 8.0
"""Logits of single learners are limited to this: log odds of 3,000 to one are nobody's evidence."""

CERTAIN = 0.02
"""Least variance of a class, so that a few certain rows do not drown the rest."""


def fit_weights(
    endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """float64[k].

    Args:
        outputs: float64[n, k] of the learners, labels or logits.
        labels: float64[n].
    """
    if endpoint.kind == "classification":
        return _for_classes(np.clip(outputs, -LOGIT_LIMIT, LOGIT_LIMIT), labels)
    spread = float(labels.var()) if len(labels) > 1 else 1.0
    return _least(outputs - labels[:, None], PULL * max(spread, 1e-6))


def mixed(endpoint: AssayEndpoint, outputs: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted mean of learners, float64[n]; of their limited logits for classes."""
    if endpoint.kind == "classification":
        outputs = np.clip(outputs, -LOGIT_LIMIT, LOGIT_LIMIT)
    found: NDArray[np.float64] = outputs @ weights
    return found


def cross_fitted(
    endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """`mixed` for each row, with weights from the other folds, float64[n]."""
    found = np.empty(len(labels))
    for fold in folds(len(labels), seed):
        others = np.setdiff1d(np.arange(len(labels)), fold)
        found[fold] = mixed(endpoint, outputs[fold], fit_weights(endpoint, outputs[others], labels[others]))
    return found


def folds(rows: int, seed: int) -> list[NDArray[np.int64]]:
    """`FOLDS` parts of range(rows), or as many as there are rows."""
    order = np.random.default_rng([seed, rows]).permutation(rows)
    return [np.sort(part) for part in np.array_split(order, FOLDS) if len(part)]


def _for_classes(logits: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    count = logits.shape[1]
    equal = weights = np.full(count, 1 / count)
    if not len(labels):
        return equal
    lowest, kept = np.inf, equal
    for _ in range(NEWTON_STEPS):
        at = logits @ weights
        shares = 1 / (1 + np.exp(-at))
        variances = np.maximum(shares * (1 - shares), CERTAIN)
        pull = PULL * float(variances.mean())
        loss = float(log_losses(at, labels).sum()) + pull / 2 * float(((weights - equal) ** 2).sum())
        if loss >= lowest - 1e-9:
            break
        lowest, kept = loss, weights
        targets = at + (labels - shares) / variances
        found = _least((logits - targets[:, None]) * np.sqrt(variances)[:, None], pull)
        weights = (weights + found) / 2
    return kept


def _least(errors: NDArray[np.float64], pull: float) -> NDArray[np.float64]:
    """Weights w >= 0 with sum 1 that minimise |errors w|^2 + pull |w|^2, float64[k].

    They are those of min z'Gz / 2 - sum(z), z >= 0, divided by their sum; found coordinate by coordinate.
    """
    gram = errors.T @ errors
    gram[np.diag_indices_from(gram)] += pull
    # In units of the pull, so that the end of the descent does not depend on the scale of the labels.
    gram = gram / pull
    z = np.full(len(gram), 1 / len(gram))
    for _ in range(SWEEPS):
        before = z.copy()
        for at in range(len(z)):
            z[at] = max(0.0, (1 - gram[at] @ z + gram[at, at] * z[at]) / gram[at, at])
        if np.abs(z - before).max() <= 1e-10 * z.max():
            break
    weights: NDArray[np.float64] = z / z.sum()
    return weights
