"""From the plan's files to a dataset, with the counts the daemon shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.manifest import MANIFEST, manifest, require_approved, write_json
from kmel_p2p.chem.dataset.measurements import Measurements, write_rejects
from kmel_p2p.chem.dataset.refresh import KEPT, file_stamps, write_measured
from kmel_p2p.chem.structures.cache import FOLDER, StructureCache
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.learn.models.reference import installation, trunk_reference_hash
from kmel_p2p.learn.models.registry import kind_of
from kmel_p2p.learn.stack.graph_networks import graphs_reference
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.learn.worker.session import EndpointCounts, FileStamps, Prepared, Progress

Report = Callable[[Progress], None]

REJECTS = "rejects.csv"
"""Every refused row, and why."""


def prepare(plan: TrainerPlan, report: Report) -> tuple[Dataset, Prepared]:
    """Read the plan's files, standardise and featurise the structures, split; write `rejects.csv`.

    Raises:
        ConfigError: settings and files do not match, or features here differ from the charter's.
        DataError: nothing to train on, or the dataset is not the approved one; `rejects.csv` is written first.
    """
    features_hash = check_reference(plan)
    if plan.graph_networks:
        check_graphs(plan.architecture)
    measured = read(plan, report)
    measured.keep(plan)
    if plan.require_approval:
        require_approved(plan.state_dir, measured.own.dataset_hash())
    return measured.prepared(plan, features_hash, plan.state_dir / REJECTS, report)


@dataclass(frozen=True, slots=True)
class DataRead:
    """What was read.

    Attributes:
        own: measurements of the data file.
        test: of the test file, where there is one.
        files: the files as they were before they were read.
    """

    own: Measurements
    test: Measurements | None
    files: FileStamps

    def write_rejects(self, path: Path) -> None:
        """List every refused row.

        Raises:
            ConfigError: the disk is full or not writable.
        """
        write_rejects(path, [*self.own.rejects, *(self.test.rejects if self.test else ())])

    def keep(self, plan: TrainerPlan) -> None:
        """Have the state directory say what is trained on: manifest, measurements, refused rows.

        Raises:
            ConfigError: the disk is full or not writable.
        """
        self.write_rejects(plan.state_dir / REJECTS)
        write_json(plan.state_dir / MANIFEST, manifest(plan.source, self.own))
        write_measured(plan.state_dir / KEPT, self.own)

    def prepared(
        self, plan: TrainerPlan, features_hash: str, rejects_path: Path, report: Report
    ) -> tuple[Dataset, Prepared]:
        """To train on, with the counts of it.

        Args:
            features_hash: of the reference molecules' features on this machine (`check_reference`).
            rejects_path: where errors say that the refused rows are listed.

        Raises:
            DataError: nothing to train on.
        """
        own = self.own
        dataset = Dataset.build(own, own.folds(plan.split), self.test, model=plan.architecture)
        dataset = dataset.with_calibration(plan.split.apart(own.structures.series))
        if not len(dataset.train):
            raise DataError(
                f"{plan.source.path}: no compound is left to train on (of {own.rows_in} rows); "
                f"{rejects_path} lists why each row was refused"
            )
        # Now rather than in the first rounds, whose duration per step sets the pace.
        dataset.inputs.prepare(lambda done, total: report(Progress("structures", done, total)))
        return dataset, _account(self, dataset, plan, features_hash)


def read(plan: TrainerPlan, report: Report) -> DataRead:
    """Read the plan's files, standardise and featurise the structures.

    Raises:
        ConfigError: settings and files do not match.
        DataError: a file is missing or cannot be read.
    """
    cache = StructureCache(plan.structure_cache or plan.state_dir / FOLDER)
    workers = plan.featurise_processes or usable_cores()
    files = file_stamps((plan.source, plan.test_source))

    def one(source: Source, excluded: frozenset[str]) -> Measurements:
        report(Progress("reading", 0, 1))
        return ingest(
            source,
            plan.endpoints,
            plan.features,
            cache=cache,
            workers=workers,
            progress=lambda done, total: report(Progress("structures", done, total)),
            excluded=excluded,
            added=plan.added_endpoints,
        )

    test = one(plan.test_source, frozenset()) if plan.test_source is not None else None
    own = one(plan.source, frozenset(test.structures.identities) if test else frozenset())
    return DataRead(own, test, files)


def check_reference(plan: TrainerPlan) -> str:
    """Hash of the reference molecules' features on this machine.

    Raises:
        ConfigError: it differs from the charter's.
    """
    own = trunk_reference_hash(plan.features, plan.architecture)
    if plan.reference_hash and plan.reference_hash != own:
        raise ConfigError(
            f"this installation ({installation(plan.architecture)}) computes different features than the charter "
            f"says: features.reference_hash is {plan.reference_hash[:16]}, but {own[:16]} here. "
            "Install the versions the federation agreed on"
        )
    return own


def check_graphs(model: ModelRule) -> None:
    """Find out now, not after days of training, whether graph networks can be trained here.

    Raises:
        ConfigError: chemprop is missing, or of another version; or the trunk reads descriptions of its own, which take
            the place of graphs.
    """
    if model.package is not None and kind_of(model).molecules(()) is not None:
        raise ConfigError(
            f"predictions.graph_networks: the trunk {model.trunk} reads its own descriptions of molecules, and graphs "
            "cannot stand beside them: set it to 0"
        )
    try:
        graphs_reference()
    except ConfigError as error:
        raise ConfigError(f"predictions.graph_networks: {error}; or set it to 0, which trains none") from None


def _account(read: DataRead, dataset: Dataset, plan: TrainerPlan, features_hash: str) -> Prepared:
    own = read.own

    def measured(rows: np.ndarray, place: int) -> int:
        return len(dataset.measured(rows, place))

    trained_on = sum(measured(dataset.train, place) for place in range(len(dataset.endpoints)))
    return Prepared(
        rows_in=own.rows_in,
        found=own.total.found,
        used=own.total.used,
        rejected=own.total.rejected,
        aggregated=own.total.aggregated,
        train_rows=len(dataset.train),
        valid_rows=len(dataset.valid),
        test_rows=len(dataset.test),
        size_class=math.floor(math.log2(trained_on)) + 1 if trained_on else 0,
        heads=dataset.trained_heads(),
        rejects_path=plan.state_dir / REJECTS,
        endpoints=tuple(
            EndpointCounts(
                endpoint.name,
                measured(dataset.train, place),
                measured(dataset.valid, place),
                measured(dataset.test, place),
                int(np.count_nonzero(dataset.relations[:, place])),
            )
            for place, endpoint in enumerate(dataset.endpoints)
        ),
        features_hash=features_hash,
        dataset_hash=own.dataset_hash(),
        files=read.files,
    )
