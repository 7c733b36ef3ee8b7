"""A federation of real daemons in which one site trains on labels of the opposite sign, or takes no part.

Measurements go into CSV files as a partner would have them; looks, votes and suspension are the daemons' own, under a
charter that asks for them (`suspension_quorum = "majority"`).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.parts.daemons import FederationFailedError, until
from benchmarks.parts.silos_peers import simulation_of, write_table
from kmel_p2p.learn.evaluate.scores import scorable
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.learn.predict.predict import Model, load_model
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.simulate.sites import SiteProcess, create_federation
from kmel_p2p.site.observe.status import SitePhase

DEADLINE_S = 1800.0


@dataclass
class PeersRun:
    """What became of it.

    Attributes:
        models: honest site -> its models, as it wrote them.
        alarms: bad site -> entries of it that the first honest site held when it was told of harm.
        suspended: site -> entries of it that an honest site held when it was suspended there; honest ones included.
    """

    models: dict[int, Model] = field(default_factory=dict)
    alarms: dict[int, int] = field(default_factory=dict)
    suspended: dict[int, int] = field(default_factory=dict)


def federate_poisoned(
    shape: Architecture, data: Sequence[Dataset], bad: Sequence[int], settings: TrainingSettings, seed: int, out: Path
) -> PeersRun:
    """Run the federation below `out`, which is replaced.

    Args:
        bad: sites whose data are spoilt already; nobody waits for their models.

    Raises:
        FederationFailedError: the honest sites were not done in time, or one of them ended.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    names = tuple(f"site{at}" for at in range(len(data)))
    parts = [write_table(out / f"{name}.csv", part) for name, part in zip(names, data, strict=True)]
    simulation = simulation_of(shape, names, settings, seed, parts[0], suspension_quorum="majority")
    reference = trunk_reference_hash(simulation.charter.features, simulation.model)
    with create_federation(simulation, out, parts, None, reference) as federation:
        federation.start()
        run = PeersRun()
        honest = {at: federation[name] for at, name in enumerate(names) if at not in bad}
        until("honest sites are complete", lambda: _look(run, honest, names), DEADLINE_S, federation)
        run.models = {at: load_model(site.state_dir / "model") for at, site in honest.items()}
    return run


def errors_of(model: Model, data: Dataset) -> tuple[float, float]:
    """MAE of the federated network and of what the site predicts with, on the test fold of the first assay endpoint."""
    endpoint = data.endpoints[0]
    rows = data.test[scorable(data, data.test, 0)]
    wanted = data.labels[rows, 0] * endpoint.scale + endpoint.center
    smiles = [data.smiles[row] for row in rows]
    errors = []
    for name in ("federated", None):
        found = [one.assays[endpoint.name].value for one in model.predictions(smiles, model=name)]
        errors.append(float(np.abs(np.array(found) - wanted).mean()))
    federated, predicted = errors
    return federated, predicted


def _look(run: PeersRun, honest: Mapping[int, SiteProcess], names: Sequence[str]) -> bool:
    """Note what honest sites say of others; whether all of them are done."""
    complete = True
    for site in honest.values():
        if not site.running:
            raise FederationFailedError(f"{site.name} ended with {site.exit_code}\n{site.last_lines()}")
        document = site.status()
        if document is None:
            complete = False
            continue
        complete = complete and document.phase is SitePhase.COMPLETE
        told = {alarm.what for alarm in document.alarms}
        for at, name in enumerate(names):
            held = document.averaging.vector.get(name, 0)
            if f"harm of {name}" in told:
                run.alarms.setdefault(at, held)
            if f"suspended {name}" in told:
                run.suspended.setdefault(at, held)
    return complete
