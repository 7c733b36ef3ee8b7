"""What the federation is compared with: one model on all data, and how far apart the sites' trunks are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.learn.evaluate.pooled import Pooled, train_pooled
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.start_file import started_trunk
from kmel_p2p.learn.predict.model_directory import read_card, read_parameters
from kmel_p2p.learn.predict.versions import NEWEST_FOLDER
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.data import DividedData
from kmel_p2p.simulate.follow import Final
from kmel_p2p.site.loaded_site import architecture_of


def pooled_model(
    simulation: Simulation,
    charter: Charter,
    divided: DividedData,
    finals: Mapping[str, Final],
    out: Path,
    progress: Callable[[int, int], None],
) -> Pooled:
    """Train one model on the data of all sites, with as many optimiser steps as they took together.

    Args:
        progress: called with (steps done, steps in all).
    """
    columns = {e.name: Column(column=e.column, unit=e.unit) for e in simulation.charter.assay_endpoints}

    def source(path: Path) -> Source:
        return Source(path=path, smiles_column=simulation.data.smiles_column, columns=columns)

    averaging = charter.averaging
    return train_pooled(
        source(divided.train),
        source(divided.test),
        architecture_of(charter),
        charter.features,
        charter.split,
        TrainingSettings(
            **dict(charter.training),
            seed=simulation.seed,
            entry_limit=averaging.entry_limit * len(finals),
            steps_per_entry=averaging.steps_per_entry,
        ),
        model_seed=charter.model.seed,
        steps=sum(final.steps for final in finals.values()),
        cache_dir=divided.cache,
        threads=simulation.sites.threads,
        start=started_trunk(charter.model, trunk_layout(architecture_of(charter)), simulation.sites.start_file),
    )


def final_trunks(state_dirs: Mapping[str, Path]) -> dict[str, NDArray[np.float32]]:
    """The trunk that each site wrote with its models, float32[d], by site.

    Raises:
        ConfigError: a site has no whole model.
    """
    folders = {name: folder / NEWEST_FOLDER for name, folder in state_dirs.items()}
    return {name: read_parameters(folder, read_card(folder))["federated"][0] for name, folder in folders.items()}


def spread(trunks: Mapping[str, NDArray[np.float32]], charter: Charter, start_file: Path | None = None) -> float:
    """Largest distance of a site's trunk from the sites' mean, relative to the distance that training moved that mean.

    0: all trunks are equal; 1: as far apart as one of them is from the initial trunk.
    """
    base = started_trunk(charter.model, trunk_layout(architecture_of(charter)), start_file).astype(np.float64)
    mean = np.mean([trunk.astype(np.float64) for trunk in trunks.values()], axis=0)
    moved = float(np.linalg.norm(mean - base))
    apart = max(float(np.linalg.norm(trunk - mean)) for trunk in trunks.values())
    return apart / moved if moved else 0.0
