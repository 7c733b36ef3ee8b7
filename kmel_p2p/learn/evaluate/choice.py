"""Which of the compared models predicts an assay endpoint: the hybrid, unless another is better beyond doubt.

A validation fold of a few dozen compounds cannot rank models that differ by a few percent: the lowest score belongs to
whichever model was lucky. So the choice starts from the model that was best on average over sites and assay endpoints
(docs/models.md), and leaves it only for one whose errors on the same compounds are smaller by more than `CONFIDENCE`
standard errors of the paired difference. The more compounds a fold has, the smaller a difference it can tell; so the
measurements of all assay endpoints together are asked first, which model this site should start from (a federation
that ended too early, or fits nobody, shows there), and then each assay endpoint for exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.models.loss import HUBER_DELTA

PREFERRED = "hybrid"
"""An average of two models with different mistakes is seldom the worst and on average the best."""

CONFIDENCE = 2.0
"""Standard errors by which another model must be better; 2 is wrong once in 44 times if there is no difference."""

MIN_CHOICE = 20
"""Validation values below which there is no choosing: the standard error itself would be a guess."""


def compound_losses(
    endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Loss of each compound, float64[n]: Huber as in training (one outlier must not choose), log loss for classes.

    Args:
        outputs: float64[n], labels or logits.
        labels: float32[n], all measured and no bounds.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if endpoint.kind == "classification":
            losses: NDArray[np.float64] = np.logaddexp(0.0, np.where(labels > 0.5, -outputs, outputs))
            return losses
        error = np.abs(outputs - labels)
        losses = np.where(error <= HUBER_DELTA, error**2 / 2, HUBER_DELTA * (error - HUBER_DELTA / 2))
        return losses


def choose_all(losses: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> dict[str, str]:
    """Assay endpoint -> name of the model to predict it with.

    Args:
        losses: assay endpoint -> model -> loss of each validation compound (see `choose`).
    """
    if not losses:
        return {}
    models = next(iter(losses.values()))
    together = {name: np.concatenate([own[name] for own in losses.values()]) for name in models}
    start = choose(together, PREFERRED)
    return {endpoint: choose(own, start) for endpoint, own in losses.items()}


def choose(losses: Mapping[str, NDArray[np.float64]], start: str) -> str:
    """Name of the model to predict with.

    Args:
        losses: model -> loss of each validation compound, float64[n], the same compounds for all; `start` among them.
            A model whose losses are not finite is never chosen.
        start: the model that stays unless another is better beyond doubt.
    """
    reference = losses[start]
    if len(reference) < MIN_CHOICE:
        return start
    if not np.isfinite(reference).all():
        finite = {name: float(own.mean()) for name, own in losses.items() if np.isfinite(own).all()}
        return min(finite, key=finite.__getitem__, default=start)
    best, lowest = start, 0.0
    for name, own in losses.items():
        if name == start or not np.isfinite(own).all():
            continue
        difference = own - reference
        error = float(difference.std(ddof=1)) / len(difference) ** 0.5
        if float(difference.mean()) < min(lowest, -CONFIDENCE * error):
            best, lowest = name, float(difference.mean())
    return best
