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


TRIMMED = 0.05
"""Of paired losses, at each end, that a trimmed mean leaves out: what is told must not rest on a few compounds."""


def trimmed_difference(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float, float]:
    """Means of losses and of reference over the compounds that both do not get altogether wrong, and whose difference
    is neither among the largest nor among the smallest; and the standard error of the difference of these means (Tukey
    and McLaughlin, Sankhya A 25, 1963).

    Args:
        losses, reference: of the same compounds in the same order, float64[n]; at least two.
    """
    cut = int(TRIMMED * len(losses))
    sound = np.argsort(np.minimum(losses, reference), kind="stable")[: len(losses) - cut]
    losses, reference = losses[sound], reference[sound]
    apart = losses - reference
    order = np.argsort(apart, kind="stable")
    kept = order[cut : len(apart) - cut]
    winsorised = np.clip(apart, apart[kept[0]], apart[kept[-1]])
    error = float(winsorised.std(ddof=1)) / ((1 - 2 * cut / len(apart)) * len(apart) ** 0.5)
    return float(losses[kept].mean()), float(reference[kept].mean()), error


def difference(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of losses - reference, and its standard error.

    Args:
        losses, reference: of the same compounds in the same order, float64[n]; at least two.
    """
    apart = losses - reference
    return float(apart.mean()), float(apart.std(ddof=1)) / len(apart) ** 0.5
