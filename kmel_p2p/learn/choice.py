"""Which of the compared models predicts an assay endpoint: the hybrid, unless another is better beyond doubt.

A validation fold of a few dozen compounds cannot rank models that differ by a few percent: the lowest score belongs to
whichever model was lucky. So the choice starts from the model that was best on average over sites and assay endpoints
(docs/models.md), and leaves it only for one whose errors on the same compounds are smaller by more than `CONFIDENCE`
standard errors of the paired difference. The more compounds a fold has, the smaller a difference it can tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.learn.loss import HUBER_DELTA

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


def choose(losses: Mapping[str, NDArray[np.float64]]) -> str:
    """Name of the model to predict with.

    Args:
        losses: model -> loss of each validation compound, float64[n], the same compounds for all; `PREFERRED` among
            them. A model whose losses are not finite is never chosen.
    """
    reference = losses[PREFERRED]
    if len(reference) < MIN_CHOICE:
        return PREFERRED
    if not np.isfinite(reference).all():
        finite = {name: float(own.mean()) for name, own in losses.items() if np.isfinite(own).all()}
        return min(finite, key=finite.__getitem__, default=PREFERRED)
    best, lowest = PREFERRED, 0.0
    for name, own in losses.items():
        if name == PREFERRED or not np.isfinite(own).all():
            continue
        difference = own - reference
        error = float(difference.std(ddof=1)) / len(difference) ** 0.5
        if float(difference.mean()) < min(lowest, -CONFIDENCE * error):
            best, lowest = name, float(difference.mean())
    return best
