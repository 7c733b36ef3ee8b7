"""New measurements for a trainer that runs: read, compared, and taken over whole or not at all.

A file that is broken, that somebody writes at this moment, that has not been approved or lacks much of what there was:
each leaves the measurements of before in use, and says what to do.
"""

from __future__ import annotations

import structlog

from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError
from kmel_p2p.chem.dataset.manifest import require_approved
from kmel_p2p.chem.dataset.refresh import KEPT, file_stamps, read_measured
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker.data_changes import changed_since
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.learn.worker.prepare import REJECTS, DataRead, Report, read
from kmel_p2p.learn.worker.session import DataChanges, Prepared, Reloaded

FOLDER = "data-reload"
"""In the state directory: what changed, and the refused rows of what was read last."""

MOST_REMOVED = 0.1
"""Of the measurements in use. Where more are gone, somebody has to say so: a file that is being copied looks alike."""

_STAY = "The measurements of before stay in use; kmel-peer data reload reads the files again"

log = structlog.get_logger()


def reload(
    plan: TrainerPlan, in_use: Prepared, report: Report, *, accept_removed: bool = False
) -> tuple[Reloaded, Dataset | None]:
    """Read the plan's files again. What the state directory says of the data in use is replaced only where they are.

    Args:
        in_use: the account of what is trained on now.
        accept_removed: take the new ones also where more than `MOST_REMOVED` of the former ones are gone.

    Returns:
        what to answer, and the new dataset; None: the former one stays.
    """
    changes: DataChanges | None = None
    try:
        measured = read(plan, report)
        _check_whole(plan, measured)
        measured.write_rejects(plan.state_dir / FOLDER / REJECTS)
        changes = _changes(plan, in_use, measured)
        if changes is not None and not accept_removed:
            _check_removed(changes)
        if plan.require_approval:
            require_approved(plan.state_dir, measured.own.dataset_hash())
        # The features are those of the start: neither this program nor the charter's rule changes while it runs.
        dataset, prepared = measured.prepared(plan, in_use.features_hash, plan.state_dir / FOLDER / REJECTS, report)
        measured.keep(plan)
    except KmelError as error:
        return Reloaded(in_use, f"{str(error).rstrip('.')}. {_STAY}", changes), None
    except Exception as error:
        log.exception("data not read")
        text = f"{plan.source.path}: cannot be read ({type(error).__name__}: {error!s:.300}); please report it"
        return Reloaded(in_use, f"{text}. {_STAY}", changes), None
    return Reloaded(prepared, "", changes), dataset


def _check_whole(plan: TrainerPlan, measured: DataRead) -> None:
    now = file_stamps((plan.source, plan.test_source))
    written = [path for path, stamp in measured.files.items() if now.get(path) != stamp]
    if written:
        raise DataError(f"{', '.join(written)}: was being written while it was read; wait until it is whole")


def _changes(plan: TrainerPlan, in_use: Prepared, measured: DataRead) -> DataChanges | None:
    try:
        dataset, before = read_measured(plan.state_dir / KEPT)
    except ConfigError as error:
        log.warning("what changed in the data is not known", reason=str(error))
        return None
    if dataset != in_use.dataset_hash:
        log.warning("what changed in the data is not known", reason=f"{KEPT} is of other data than those in use")
        return None
    return changed_since(before, measured.own, plan.retired, plan.state_dir, plan.state_dir / FOLDER)


def _check_removed(changes: DataChanges) -> None:
    removed = changes.count("removed")
    if removed > MOST_REMOVED * changes.before:
        raise DataError(
            f"{removed} of the {changes.before} measurements in use are gone ({changes.path} lists them): if a file is "
            "not whole yet, complete it; if they were withdrawn, run kmel-peer data reload --accept-removed"
        )
