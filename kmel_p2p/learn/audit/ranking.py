"""How well scores tell members from others: area under the ROC curve, and detection at few false alarms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

FALSE_ALARMS = 0.01
"""False positive rate at which detection is told: what an attack finds without crying wolf (Carlini et al. 2022)."""


def auroc(members: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """Probability that a member has a higher score than another; equal scores count half. NaN without either."""
    if not len(members) or not len(others):
        return float("nan")
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    above = ranks.sum() - len(members) * (len(members) + 1) / 2
    return float(above / (len(members) * len(others)))


def found_at(members: NDArray[np.floating], others: NDArray[np.floating], false_alarms: float = FALSE_ALARMS) -> float:
    """Share of members whose score is above all but `false_alarms` of the others'. NaN without either."""
    if not len(members) or not len(others):
        return float("nan")
    allowed = int(false_alarms * len(others))
    threshold = np.sort(others)[len(others) - 1 - allowed]
    return float(np.mean(members > threshold))
