"""The federation of `silos.py` by real peers: four daemons with their trainers on the loopback interface.

Each silo's measurements go into a CSV file as a partner would have it (`<` and `>` for bounds); ingest, split,
training, comparison and choice are the peers' own. The charter's fold key is the benchmark's, so the folds are equal.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.parts.silos_data import SILOS, TEST_FRACTION, VALID_FRACTION, fold_key
from kmel_p2p.agreement.averaging import LedgerRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.agreement.training import ModelRule, PaceRule, TrainingRule
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.learn.predict.predict import Model, load_model
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.simulate.config import DataSource, SimulatedCharter, SimulatedEndpoint, Simulation, SitesSection
from kmel_p2p.simulate.follow import View, collect, follow
from kmel_p2p.simulate.interrupts import Interrupts
from kmel_p2p.simulate.sites import create_federation

DEADLINE_S = 3600.0


def federate_peers(
    shape: Architecture, data: Sequence[Dataset], settings: TrainingSettings, seed: int, out: Path
) -> tuple[list[Model], int]:
    """Run the federation below `out`, which is replaced.

    Returns:
        the model directory of each silo, loaded, and the optimiser steps of every model compared.

    Raises:
        SiteFailedError: a peer ended early.
    """
    folder = out / f"seed-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parts = [write_table(folder / f"{silo}.csv", part) for silo, part in zip(SILOS, data, strict=True)]
    simulation = simulation_of(shape, SILOS, settings, seed, parts[0])
    reference = trunk_reference_hash(simulation.charter.features, simulation.model)
    with Interrupts() as interrupts, create_federation(simulation, folder, parts, None, reference) as federation:
        federation.start()
        follow(federation, View(Console(file=sys.stderr)), DEADLINE_S, interrupts)
        finals = collect(federation)
        models = [load_model(federation[silo].state_dir / "model") for silo in SILOS]
    budget = max(final.result["steps"] + final.result["tuning_steps"] for final in finals.values())
    return models, budget


def simulation_of(
    shape: Architecture, names: tuple[str, ...], settings: TrainingSettings, seed: int, data: Path, **averaging: Any
) -> Simulation:
    """Of sites with these names and folds as in `silos_data.datasets`.

    Args:
        data: a table as each of them has it.
        averaging: further keys of the section.
    """
    endpoints = tuple(
        SimulatedEndpoint(name=e.name, column=e.name, center=e.center, scale=e.scale, head=e.head)
        for e in shape.endpoints
    )
    return Simulation(
        task="a benchmark",
        seed=seed,
        data=DataSource(kind="csv", train=data, test=data),
        sites=SitesSection(names=names, deadline_s=DEADLINE_S),
        charter=SimulatedCharter(
            federation="benchmark",
            model=ModelRule(trunk=shape.trunk, hidden=shape.hidden, dropout=shape.dropout, calibrate=shape.calibrate),
            assay_endpoints=endpoints,
            training=TrainingRule(
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                weight_decay=settings.weight_decay,
            ),
            averaging=LedgerRule(
                steps_per_entry=settings.steps_per_entry, entry_limit=settings.entry_limit, **averaging
            ),
            pace=PaceRule(start_sites=len(names)),
            split=SplitRule(fold_key=fold_key(seed), valid_fraction=VALID_FRACTION, test_fraction=TEST_FRACTION),
        ),
    )


def write_table(path: Path, data: Dataset) -> Path:
    """A wide CSV file with one column per assay endpoint."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["smiles", *(endpoint.name for endpoint in data.endpoints)])
        for smiles, labels, relations in zip(data.smiles, data.labels, data.relations, strict=True):
            cells = []
            for endpoint, label, relation in zip(data.endpoints, labels, relations, strict=True):
                value = float(label) * endpoint.scale + endpoint.center
                cells.append("" if np.isnan(label) else f"{('', '>', '<')[relation]}{value:.7g}")
            writer.writerow([smiles, *cells])
    return path
