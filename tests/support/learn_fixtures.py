"""A small made-up task: a few hundred rows, three assay endpoints, one of them private, one a class."""

from __future__ import annotations

import numpy as np

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.worker.plan import TrainingSettings

ENDPOINTS = (
    AssayEndpoint(name="logd", head="shared", center=1.0, scale=2.0),
    AssayEndpoint(name="stays", head="private"),
    AssayEndpoint(name="herg", kind="classification", head="shared"),
)
SETTINGS = TrainingSettings(
    batch_size=16, learning_rate=3e-3, weight_decay=0.01, seed=5, entry_limit=10, steps_per_entry=5
)
BITS, DESCRIPTORS = 64, 8


def architecture() -> Architecture:
    return Architecture(inputs=BITS + DESCRIPTORS, hidden=(24, 12), endpoints=ENDPOINTS, dropout=0.1)


def dataset(rows: int = 120, seed: int = 0) -> Dataset:
    """Labels are a noisy function of the features; some are missing, some are bounds."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.15, (rows, BITS))
    descriptors = rng.normal(size=(rows, DESCRIPTORS)).astype(np.float32)
    signal = np.log2(1 + counts) @ np.random.default_rng(99).normal(size=BITS) / 3 + descriptors[:, 0]
    labels = np.stack([signal, signal**2 / 3, signal > 0], axis=1).astype(np.float32)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    relations = np.zeros(labels.shape, np.int8)
    relations[:, 0] = np.where(rng.random(rows) < 0.1, 1, 0)
    order = rng.permutation(rows)
    return Dataset(
        ENDPOINTS,
        Inputs(CountMatrix.from_rows(list(counts), BITS), descriptors),
        labels,
        relations,
        np.sort(order[: rows // 2]),
        np.sort(order[rows // 2 : 3 * rows // 4]),
        np.sort(order[3 * rows // 4 :]),
    )
