"""Where few compounds of a class are held out, all compounds say how sure one may be of it.

Class sets are calibrated on held-out compounds of each class. Where one in twenty compounds is active, a tenth of them
has a handful. But trees, boosting and a Gaussian process on features alone can be fitted again without a fifth of the
site's compounds at a time, so that every compound of training and held-out folds is predicted by learners that knew
nothing of it: calibration by cross-validation, class by class (Vovk 2013, 2015). Fifths are made of whole series, as
the test fold is; a compound whose analogues were learnt from would look easier than a new one.

New compounds are judged by the same three learners, fitted to all compounds, not by the side that answers: what
networks say of compounds that they were trained on would calibrate nothing. Learners fitted to all err less than those
that calibrated, so sets are rather too large than too small; a promise for every data set there is none (without the
fifths' own learners at hand, Barber et al. 2021, "Predictive inference with the jackknife+").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.scores import too_little
from kmel_p2p.learn.stack.learners import KINDS, fit_learner
from kmel_p2p.learn.stack.readings import Known, LearnerInputs, Similar
from kmel_p2p.learn.stack.sides import Mixture
from kmel_p2p.learn.stack.weights import FOLDS, mixed

MIN_OF_CLASS = 10
"""With fewer values of either class no sets are given. Of 10, a set can leave a class out at levels up to 0.9."""

JUDGES = Mixture(KINDS, np.full(len(KINDS), 1 / len(KINDS)))
"""What class sets are made from: learners on features alone, all of equal weight, since nothing is left to weigh on."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What `JUDGES` say of compounds that none of them was fitted to.

    Attributes:
        labels: float64[n], 0 and 1.
        outputs: float64[n], logits.
    """

    labels: NDArray[np.float64]
    outputs: NDArray[np.float64]


def few_of_a_class(labels: NDArray[np.float64]) -> bool:
    """Whether either class has fewer than `MIN_OF_CLASS` of these labels, float64[n]."""
    positive = int(np.count_nonzero(labels > 0.5))
    return min(positive, len(labels) - positive) < MIN_OF_CLASS


def without_their_series(
    endpoint: AssayEndpoint,
    read: Callable[[NDArray[np.int64]], LearnerInputs],
    known: Known,
    rows: NDArray[np.int64],
    of_known: NDArray[np.int64],
    labels: NDArray[np.float64],
    series: NDArray[np.int64],
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> OutOfFold | None:
    """Every compound as learners predict it that were fitted without its part of the series.

    Args:
        endpoint: of classes, with `MIN_OF_CLASS` compounds of each.
        read: reads rows of the dataset.
        rows: int64[n] of the dataset, with a value.
        of_known: int64[n], the same ones in `known`; -1 for those that Gaussian processes do not compare with.
        labels: float64[n].
        series: int64[n], numbers of their series.
        tick: called before every fit; may raise to interrupt.

    Returns:
        None where a part's others have too little to learn from, as where one series has all of a class.
    """
    outputs = np.full((len(rows), len(KINDS)), np.nan)
    for number, part in enumerate(parts_of_series(series, labels, seed)):
        others = np.setdiff1d(np.arange(len(rows)), part)
        compared = others[of_known[others] >= 0]
        if too_little(labels[others]) or too_little(labels[compared]):
            return None
        fitted, asked = read(rows[others]), read(rows[part])
        similar = Similar(read(rows[compared]), known, of_known[compared])
        asked_similar = Similar(asked, known, of_known[compared])
        for place, kind in enumerate(KINDS):
            tick()
            learner = fit_learner(
                kind, "", fitted, similar, labels[others], labels[compared], classes=True, seed=seed + number
            )
            outputs[part, place] = learner(asked, asked_similar)
    together = mixed(endpoint, outputs, JUDGES.weights)
    return OutOfFold(labels, together) if np.isfinite(together).all() else None


def parts_of_series(series: NDArray[np.int64], labels: NDArray[np.float64], seed: int) -> list[NDArray[np.int64]]:
    """`FOLDS` parts of range(n), or as many as there are series, each of whole series; none of a single one.

    Either class is shared out as equally as series allow.

    Args:
        series: int64[n].
        labels: float64[n], 0 and 1, `FOLDS` of each at least.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    most = min(FOLDS, len(np.unique(series)))
    if most < 2:
        return []
    parting = StratifiedGroupKFold(most, shuffle=True, random_state=seed % 2**32)
    # It never looks at features: their place is taken by zeros.
    parts = (part for _, part in parting.split(np.zeros((len(labels), 1)), labels.round().astype(np.int64), series))
    return [part.astype(np.int64) for part in parts if len(part)]
