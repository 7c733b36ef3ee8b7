"""The loss of each compound, by which models of one site are compared on the same compounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.train.optimise import HUBER_DELTA


def compound_losses(
    endpoint: AssayEndpoint, outputs: NDArray[np.float64], labels: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Loss of each compound, float64[n]: Huber as in training (one outlier must not decide), log loss for classes.

    Args:
        outputs: float64[n], labels or logits.
        labels: float[n], all measured, none of them a bound.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        if endpoint.kind == "classification":
            return log_losses(outputs, labels)
        error = np.abs(outputs - labels)
        huber: NDArray[np.float64] = np.where(
            error <= HUBER_DELTA, error**2 / 2, HUBER_DELTA * (error - HUBER_DELTA / 2)
        )
        return huber


def log_losses(logits: NDArray[np.float64], labels: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log loss of each compound, float64[n], from logits float64[n] and classes float[n]."""
    losses: NDArray[np.float64] = np.logaddexp(0.0, np.where(labels > 0.5, -logits, logits))
    return losses


def difference(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of losses - reference, and its standard error.

    Args:
        losses, reference: of the same compounds in the same order, float64[n]; at least two.
    """
    apart = losses - reference
    return float(apart.mean()), float(apart.std(ddof=1)) / len(apart) ** 0.5
