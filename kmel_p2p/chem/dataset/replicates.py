"""Several measurements of one compound become one, by a rule and with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kmel_p2p.chem.read.cells import ABOVE, BELOW, EQUAL


@dataclass(frozen=True, slots=True)
class Merged:
    """One measurement made of several.

    Attributes:
        label: merged value, in labels.
        relation: of the true value to `label`.
        spread: standard deviation of the uncensored ones, in labels; 0 for fewer than two.
    """

    label: float
    relation: int
    spread: float


def merge_regression(labels: Sequence[float], relations: Sequence[int]) -> Merged | None:
    """Median of the uncensored values; without any, the tightest bound.

    Bounds beside uncensored values are left out: the number says more. Two bounds that leave no or any room between
    them (">3" and "<2", or ">1" and "<5") make no single one-sided value.

    Returns:
        None when the bounds contradict each other or enclose a range.
    """
    values, kinds = np.asarray(labels, float), np.asarray(relations)
    exact = values[kinds == EQUAL]
    if exact.size:
        return Merged(float(np.median(exact)), EQUAL, float(exact.std(ddof=1)) if exact.size > 1 else 0.0)
    lower, upper = values[kinds == ABOVE], values[kinds == BELOW]
    if lower.size and upper.size:
        return None
    if lower.size:
        return Merged(float(lower.max()), ABOVE, 0.0)
    return Merged(float(upper.min()), BELOW, 0.0)


def merge_classification(labels: Sequence[float]) -> Merged | None:
    """The majority class.

    Returns:
        None when as many say one as the other.
    """
    share = float(np.mean(labels))
    if share == 0.5:
        return None
    return Merged(float(share > 0.5), EQUAL, 0.0)
