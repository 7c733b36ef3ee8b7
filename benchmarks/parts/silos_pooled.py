"""The model of `silos.py` that nobody may train: one trunk for all data, a head for each silo and assay endpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.scores import Predict
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.checkpoint import train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings

STOPS = 50
"""Checkpoints the pooled validation fold chooses from."""


class _Joined:
    """Features of several silos, one after the other."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self._rows = np.concatenate([part.inputs.rows(np.arange(len(part.inputs))) for part in parts])

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return self._rows[rows]


def pooled_predictors(
    shape: Architecture, data: Sequence[Dataset], settings: TrainingSettings, seed: int, steps: int
) -> list[Predict]:
    """For each silo its outputs of the pooled model, float64[n, E].

    Args:
        steps: optimiser steps, the sum over the sites.
    """
    joined, places = _join(data)
    wide = shape.changed(endpoints=joined.endpoints, calibrate=False)
    network = Network(wide)
    start_local(network, wide, seed, settings.seed)
    train_with_checkpoints(network, joined, settings, steps=steps, every=max(1, steps // STOPS))
    return [lambda inputs, own=own: network.predict(inputs)[:, own] for own in places]  # type: ignore[misc]


def _join(data: Sequence[Dataset]) -> tuple[Dataset, list[list[int]]]:
    """One dataset with a column for each silo and assay endpoint, and the columns of each silo."""
    width = len(data[0].endpoints)
    endpoints = tuple(
        endpoint.changed(name=f"{silo} {endpoint.name}", head="private")
        for silo, part in enumerate(data)
        for endpoint in part.endpoints
    )
    starts = np.cumsum([0, *(len(part.inputs) for part in data)])
    labels = np.full((int(starts[-1]), width * len(data)), np.nan, np.float32)
    relations = np.zeros(labels.shape, np.int8)
    places = [list(range(silo * width, (silo + 1) * width)) for silo in range(len(data))]
    for part, start, own in zip(data, starts, places, strict=False):
        labels[start : start + len(part.inputs), own] = part.labels
        relations[start : start + len(part.inputs), own] = part.relations
    train, valid, test = (
        np.concatenate([getattr(part, fold) + start for part, start in zip(data, starts, strict=False)])
        for fold in ("train", "valid", "test")
    )
    return Dataset(endpoints, _Joined(data), labels, relations, train, valid, test), places  # type: ignore[arg-type]
