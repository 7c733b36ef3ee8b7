"""Evidence from training compounds, where few are held out: learners are refitted without a part of them at a time.

The networks are not: what they say about their own training compounds is no evidence. The others' trunk never saw a
compound of this site, so its activations are what they would be for new ones; what private heads make of them is not,
and is left out. So trees and Gaussian processes on features alone stand for what the site can do alone, the same two on
the others' trunk for what the federation adds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.losses import compound_losses
from kmel_p2p.learn.evaluate.scores import some_of, too_little
from kmel_p2p.learn.stack.learners import fit_learner
from kmel_p2p.learn.stack.readings import Known, LearnerInputs, Similar
from kmel_p2p.learn.stack.sides import OTHERS
from kmel_p2p.learn.stack.weigh import Evidence
from kmel_p2p.learn.stack.weights import folds

MAX_TRAINING = 300
"""Training compounds that are asked, at most: evidence enough, in a few seconds."""

REFITTED = ("trees", "gp")


def out_of_fold(
    endpoint: AssayEndpoint,
    read: Callable[[NDArray[np.int64]], LearnerInputs],
    known: Known,
    rows: NDArray[np.int64],
    of_known: NDArray[np.int64],
    labels: NDArray[np.float64],
    seed: int,
) -> Evidence | None:
    """Losses of both on training compounds; None where nothing can be refitted.

    Args:
        read: reads rows of the dataset, with the network `OTHERS`.
        rows: int64[n], training compounds with a value.
        of_known: int64[n], the same ones in `known`.
        labels: float64[n].
    """
    some = some_of(np.arange(len(rows)), MAX_TRAINING, seed)
    rows, of_known, labels = rows[some], of_known[some], labels[some]
    found = {network: np.empty(len(rows)) for network in ("", OTHERS)}
    for number, fold in enumerate(folds(len(rows), seed)):
        others = np.setdiff1d(np.arange(len(rows)), fold)
        if too_little(labels[others]):
            return None
        fitted, asked = read(rows[others]), read(rows[fold])
        similar = Similar(fitted, known, of_known[others])
        asked_similar = Similar(asked, known, of_known[others])
        for network, outputs in found.items():
            learners = [
                fit_learner(
                    kind, network, fitted, similar, labels[others], labels[others],
                    classes=endpoint.kind == "classification", seed=seed + number,
                )
                for kind in REFITTED
            ]  # fmt: skip
            outputs[fold] = np.mean([learner(asked, asked_similar) for learner in learners], axis=0)
    losses = {network: compound_losses(endpoint, outputs, labels) for network, outputs in found.items()}
    return Evidence(losses[OTHERS], losses[""])
