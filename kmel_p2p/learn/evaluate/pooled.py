"""The model that nobody is allowed to train: all partitions in one place, for the simulator's report.

It gets the sum of the sites' optimiser steps, their batch size, learning rate and schedule, and picks its checkpoint on
the pooled validation fold, so it is the strongest honest comparison the same network can offer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import ignore_progress
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.scores import FoldScores, fold_scores, median_baseline, sampled
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.checkpoint import train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings

STOPS = 40
"""Points of the history."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """Scores of the pooled model.

    Attributes:
        scores: of the chosen checkpoint.
        baseline_median: of the pooled training median.
        history: (share of the budget, scores).
    """

    scores: FoldScores
    baseline_median: FoldScores
    history: list[tuple[float, FoldScores]]


def train_pooled(
    source: Source,
    test_source: Source | None,
    architecture: Architecture,
    features: FeatureRule,
    split: SplitRule,
    training: TrainingSettings,
    *,
    model_seed: int,
    steps: int,
    cache_dir: Path,
    threads: int = 1,
    progress: Callable[[int, int], None] = ignore_progress,
    start: NDArray[np.float32] | None = None,
) -> Pooled:
    """Train one model on everything.

    Args:
        source: one file with the rows of all sites.
        steps: sum of the sites' optimiser steps.
        progress: called with (steps done, steps in all).
        start: the trunk to start from, float32[d]; None: drawn from the seed.

    Raises:
        ConfigError, DataError: as `ingest`.
    """
    torch.set_num_threads(threads)
    cache = StructureCache(cache_dir)
    endpoints = architecture.endpoints
    test = ingest(test_source, endpoints, features, cache=cache) if test_source else None
    excluded = frozenset(test.structures.identities) if test else frozenset()
    own = ingest(source, endpoints, features, cache=cache, excluded=excluded)
    dataset = Dataset.build(own, own.folds(split), test, model=architecture)
    network = Network(architecture)
    start_local(network, architecture, model_seed, training.seed, start)
    course = train_with_checkpoints(
        network,
        dataset,
        training,
        steps=steps,
        every=max(1, steps // STOPS),
        tick=lambda done: progress(done, steps),
        scored=sampled(dataset, training.seed, test=True),
    )
    return Pooled(
        fold_scores(dataset, network.predict),
        fold_scores(dataset, median_baseline(dataset)),
        [(done / max(1, steps), scores) for done, scores in course.history],
    )
