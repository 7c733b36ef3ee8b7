"""Training on the site's own data alone, keeping the parameters that do best on its validation fold."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import FoldScores, fold_scores, outputs_in_blocks
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import LocalOptimiser, MultiTaskLoss, OptimiserSettings, cosine_rate, loss_of

MIN_VALID = 20
"""With fewer validation measurements, choosing a checkpoint would be choosing by noise."""


@dataclass(slots=True)
class Parameters:
    """Parameters of a model: the trunk with shared heads float32[d], and what stays private float32[p]."""

    trunk: NDArray[np.float32]
    private: NDArray[np.float32]

    @classmethod
    def of(cls, network: Network) -> Parameters:
        """A copy of the network's present parameters."""
        return cls(network.trunk_values(), network.private_values())

    def load_into(self, network: Network) -> None:
        """Load them into a network."""
        network.load(self.trunk)
        network.load_private(self.private)


@dataclass(slots=True)
class TrainingRun:
    """One training run.

    Attributes:
        best: the parameters chosen.
        history: (steps taken, scores) at every stop, if asked for.
    """

    best: Parameters
    history: list[tuple[int, FoldScores]] = field(default_factory=list)


def train_with_checkpoints(
    network: Network,
    dataset: Dataset,
    settings: OptimiserSettings,
    *,
    steps: int,
    every: int,
    rate: float = 1.0,
    tick: Callable[[int], None] = lambda done: None,
    scored: Dataset | None = None,
    stops_without_gain: int = 0,
) -> TrainingRun:
    """Train from the network's present parameters with the cosine schedule.

    The parameters with the lowest loss on the validation fold are kept, including those at the start; with fewer than
    `MIN_VALID` validation measurements, the last ones are.

    Args:
        steps: total optimiser steps.
        every: steps between stops.
        rate: share of the settings' learning rate.
        tick: called with the steps done, before each step and at every stop; may raise to interrupt.
        scored: what every stop is scored on for the history (`scores.sampled`); None: there is no history.
        stops_without_gain: stops without a lower validation loss after which training ends early; 0 trains to the end.
            This does not change which parameters are kept.
    """
    optimiser = LocalOptimiser(network, dataset, settings)
    loss = MultiTaskLoss(dataset.endpoints)
    choosing = can_choose(dataset)
    course = TrainingRun(Parameters.of(network))
    lowest = validation_loss(network, dataset, loss) if choosing else np.inf
    if scored is not None:
        course.history.append((0, fold_scores(scored, network.predict)))
    waited = 0
    for start in range(0, steps, every):
        count = min(every, steps - start)
        optimiser.train(count, rate * cosine_rate(start / steps), functools.partial(tick, start))
        present = validation_loss(network, dataset, loss) if choosing else -np.inf
        if scored is not None:
            course.history.append((start + count, fold_scores(scored, network.predict)))
        if present < lowest or not choosing:
            lowest, course.best, waited = present, Parameters.of(network), 0
        else:
            waited += 1
        tick(start + count)
        if stops_without_gain and waited >= stops_without_gain:
            break
    course.best.load_into(network)
    return course


def can_choose(dataset: Dataset) -> bool:
    """Whether the validation fold has enough measurements to choose parameters by."""
    return int(np.isfinite(dataset.labels[dataset.valid]).sum()) >= MIN_VALID


def validation_loss(network: Network, dataset: Dataset, loss: MultiTaskLoss) -> float:
    """Loss on the validation fold, in labels."""
    rows = dataset.valid
    return loss_of(dataset, rows, outputs_in_blocks(dataset, rows, network.predict), loss)
