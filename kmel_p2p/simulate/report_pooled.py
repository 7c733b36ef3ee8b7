"""The model that nobody is allowed to train, for the report: all partitions in one place, the same total budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.learn.evaluate.pooled import Pooled, train_pooled
from kmel_p2p.learn.worker.session import TrainingSettings
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
    """Train it with as many optimiser steps as all sites took together.

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
        cache_dir=out / "data" / "cache",
        threads=simulation.sites.threads,
    )
