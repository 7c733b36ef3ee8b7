"""Non-negative weights with sum 1, from held-out rows, pulled towards equal ones; and outputs of rows left out of them.

With sum 1, the error of a weighted mean is the weighted mean of the errors, so the weights minimise w'Gw with the
errors' Gram matrix G. The pull adds a multiple of the identity: without rows, all weights are equal.

For classes the log loss is minimised, on the logit scale, and the sum may be less than 1: it says how far to trust the
learners together, and is stored beside the weights as the slope of their mean logit. Learners on activations of a
network that was trained on the same compounds need it: they are far too certain (log loss 0.84 instead of 0.44 on
held-out compounds of CYP3A4), and with sum 1 no weights make a mean of certain learners doubt. The slope turns about
the training compounds' share of class 1, so that less certainty is nearer to what is usual, not to one half. Held-out
rows are few series, often easier ones or with another share, so they neither tell that share nor make learners more
certain than they are: with slopes above 1 a site of hERG (seed 101) had a log loss of 0.50 instead of 0.41.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.losses import log_losses

PULL = 30.0
"""Rows that the pull towards equal weights counts as, each with an error of one standard deviation of the labels, or of
the learners' logits."""

FOLDS = 5
SWEEPS = 500
LOGIT_LIMIT = 8.0
"""Logits of single learners are limited to this: log odds of 3,000 to one are nobody's evidence."""

CERTAIN = 0.02
"""Least variance of a class, so that the pull does not vanish where learners are certain."""

LEAST_SPREAD = 1.0
"""Least mean square of logits about the usual one: a few compounds alike are no evidence on others."""

LEAST_SLOPE = 0.05
"""Of a mean logit: less, and compounds could no longer be ranked by it."""


@dataclass(frozen=True, slots=True)
class LearnerWeights:
    """Of some learners.

    Attributes:
        shares: float64[k], not negative, sum 1.
        slope, shift: what makes the stack's logit of their mean logit, with a slope of 1 at most; 1 and 0 for values.
    """

    shares: NDArray[np.float64]
    slope: float = 1.0
    shift: float = 0.0

    def __call__(self, endpoint: AssayEndpoint, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the learners say together, float64[n], from outputs float64[n, k]."""
        return self.slope * mixed(endpoint, outputs, self.shares) + self.shift


Fit = Callable[[AssayEndpoint, NDArray[np.float64], NDArray[np.float64], float], LearnerWeights]
"""What makes weights, as `fit_weights`."""


def fit_weights(
    endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float64], base_rate: float = 0.5
) -> LearnerWeights:
    """The weights of k learners.

    Args:
        outputs: float64[n, k], labels or logits.
        labels: float64[n].
        base_rate: share of class 1 among the compounds that the learners were fitted to.
    """
    if endpoint.kind == "classification":
        return _for_classes(np.clip(outputs, -LOGIT_LIMIT, LOGIT_LIMIT), labels, base_rate)
    spread = float(labels.var()) if len(labels) > 1 else 1.0
    return LearnerWeights(_least(outputs - labels[:, None], PULL * max(spread, 1e-6)))


def mixed(endpoint: AssayEndpoint, outputs: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted mean of learners, float64[n]; of their limited logits for classes."""
    if endpoint.kind == "classification":
        outputs = np.clip(outputs, -LOGIT_LIMIT, LOGIT_LIMIT)
    found: NDArray[np.float64] = outputs @ weights
    return found


def trusted(
    shares: NDArray[np.float64],
    endpoint: AssayEndpoint,
    outputs: NDArray[np.float64],
    labels: NDArray[np.float64],
    base_rate: float = 0.5,
) -> LearnerWeights:
    """Given weights, and for classes how far to trust the learners with them; other arguments as for `fit_weights`."""
    found = fit_weights(endpoint, mixed(endpoint, outputs, shares)[:, None], labels, base_rate)
    return LearnerWeights(shares, found.slope, found.shift)


def cross_fitted(
    endpoint: AssayEndpoint,
    outputs: NDArray[np.float64],
    labels: NDArray[np.float64],
    seed: int,
    base_rate: float = 0.5,
    fit: Fit = fit_weights,
) -> NDArray[np.float64]:
    """What the learners say together of each row, with weights from the other folds, float64[n]."""
    found = np.empty(len(labels))
    for fold in folds(len(labels), seed):
        others = np.setdiff1d(np.arange(len(labels)), fold)
        found[fold] = fit(endpoint, outputs[others], labels[others], base_rate)(endpoint, outputs[fold])
    return found


def folds(rows: int, seed: int) -> list[NDArray[np.int64]]:
    """`FOLDS` parts of range(rows), or as many as there are rows."""
    order = np.random.default_rng([seed, rows]).permutation(rows)
    return [np.sort(part) for part in np.array_split(order, FOLDS) if len(part)]


def _for_classes(logits: NDArray[np.float64], labels: NDArray[np.float64], base_rate: float) -> LearnerWeights:
    count = logits.shape[1]
    equal = np.full(count, 1 / count)
    if not len(labels):
        return LearnerWeights(equal)
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    usual = float(np.clip(logit(base_rate), -LOGIT_LIMIT, LOGIT_LIMIT))
    apart = logits - usual
    shares = expit(logits @ equal)
    variance = max(float((shares * (1 - shares)).mean()), CERTAIN)
    pull = PULL * variance * max(float((apart**2).mean()), LEAST_SPREAD)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = usual + apart @ weights
        errors = expit(at) - labels
        moved = weights - equal
        return float(log_losses(at, labels).sum()) + pull / 2 * float(moved @ moved), apart.T @ errors + pull * moved

    found = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=[(0, None)] * count).x
    total = float(found.sum())
    if not total >= LEAST_SLOPE:
        return LearnerWeights(equal, LEAST_SLOPE, (1 - LEAST_SLOPE) * usual)
    slope = min(total, 1.0)
    return LearnerWeights(found / total, slope, (1 - slope) * usual)


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
