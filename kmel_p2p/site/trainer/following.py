"""Has the trainer follow the assay endpoints in force, the settings of the data, and the data themselves.

An assay endpoint that comes or goes is another plan: a new trainer takes the place of the former one between two
rounds. Other measurements, or another `[data]` section, are read by the trainer that is there, between two rounds as
well, and what it cannot use leaves those in use that it has. The files are looked at when a campaign begins, and read
whenever the operator says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import structlog

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.chem.dataset.refresh import file_stamps
from kmel_p2p.core.rounds import Unready
from kmel_p2p.learn.worker import session
from kmel_p2p.site.loaded_site import own_seed, trainer_plan
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.reload import reloaded
from kmel_p2p.site.site import Site
from kmel_p2p.site.tasks import end_task
from kmel_p2p.site.trainer.supervisor import TrainerState, TrainerSupervisor

log = structlog.get_logger()

MAP_THEM = (
    "this site goes on without them; where it measures them, name their columns under [data.columns] in site.toml, and "
    "run kmel-peer data reload"
)

NOT_YET = "they are not read; if no campaign is to add these assay endpoints, correct [data.columns] in site.toml"

NOT_TAKEN_OVER = "data not taken over"
"""An alarm."""


@dataclass(frozen=True, slots=True)
class DataReload:
    """How far the newest reading of the data is.

    Attributes:
        number: of the readings since the peer started; 0: none.
        refused: why the measurements of before are still in use.
        changes: what was added, changed and removed; empty where that is not known.
    """

    number: int = 0
    stage: Literal["none", "waiting", "done", "refused"] = "none"
    refused: str = ""
    changes: Mapping[str, Any] | None = None


class DataFollowed:
    """See the module docstring.

    Args:
        path: the settings file.
        trainer: told of another plan, or to read the data.
        command: feeds a command to the protocol.
        activity: what status and metrics show.
    """

    def __init__(
        self, path: Path, trainer: TrainerSupervisor, command: Callable[[Any], None], activity: Activity
    ) -> None:
        self._path = path
        self._trainer = trainer
        self._command = command
        self._activity = activity
        self._files: session.FileStamps = {}
        """As they were before what is in use was read from them."""
        self._by_new_trainer = False
        """Whether the newest reading is that of a trainer that starts."""
        self._look: asyncio.Task[None] | None = None
        self.newest = DataReload()

    def amended(self, site: Site, constitution: Constitution) -> Site:
        """An amendment is in force; returns the site under it."""
        found = site.amended(constitution)
        if found.assay_endpoints != site.assay_endpoints:
            # Who measures what is new may have named its column before, or may do so later.
            with contextlib.suppress(ConfigError):
                found = replace(found, config=reloaded(found.config, self._path, found.assay_endpoints))
            reason = f"campaign {constitution.campaign.number} has other assay endpoints"
            self._command(Unready(f"{reason}: the data are read anew"))
            self._by_new_trainer = True
            self._trainer.replan(trainer_plan(found, own_seed(found)))
            self.tell(found)
        elif constitution.campaign.number != site.constitution.campaign.number and self._trainer.started:
            self._look = asyncio.get_running_loop().create_task(self._look_at_files(found), name="data files")
        return found

    def reread(self, site: Site, *, accept_removed: bool = False) -> Site:
        """Read settings and data again; returns the site with what can be taken over of the settings.

        Args:
            accept_removed: take the data over also where many of the measurements in use are gone.

        Raises:
            ConfigError: the settings are wrong; nothing changes.
            LocalError: this peer does not train.
        """
        found = replace(site, config=reloaded(site.config, self._path, site.assay_endpoints))
        if not self._trainer.started:
            raise LocalError("this peer reads no measurements (kmel-peer run --no-training)")
        if found.config.data != site.config.data or self._trainer.state is TrainerState.FAILED:
            self.tell(found)
        self._read(found, "the data may have changed", accept_removed=accept_removed)
        return found

    def tell(self, site: Site) -> None:
        """Name what later campaigns added and this site does not map, and what it maps and nobody added."""
        if left := site.assay_endpoints.unmapped(site.config.data.columns):
            log.warning("assay endpoints not mapped", names=left, remedy=MAP_THEM)
        if unknown := site.assay_endpoints.unknown(site.config.data.columns):
            log.warning("columns of no assay endpoint", names=unknown, remedy=NOT_YET)

    # ---- what the trainer says ----------------------------------------------------------------------------------

    def prepared(self, answer: session.Prepared) -> None:
        """A trainer has read the data at its start."""
        self._files = answer.files
        self._activity.clear(NOT_TAKEN_OVER)
        if self._by_new_trainer:
            self._ended("done")

    def reloaded(self, answer: session.Reloaded) -> None:
        """The trainer has read the data again."""
        changes = None if answer.changes is None else _plain(answer.changes)
        if answer.refused:
            self._activity.last_error = answer.refused
            self._activity.alarm(NOT_TAKEN_OVER, answer.refused)
            log.error("data not taken over", reason=answer.refused, changes=changes)
            self._ended("refused", answer.refused, changes)
            return
        self._files = answer.prepared.files
        self._activity.clear(NOT_TAKEN_OVER)
        log.info("data taken over", changes=changes)
        self._ended("done", changes=changes)

    def lost(self) -> None:
        """The trainer has died. The next one reads the data when it starts."""
        self._by_new_trainer = True

    def unusable(self, reason: str) -> None:
        """The data cannot be read by a trainer that starts."""
        self._ended("refused", reason)

    async def close(self) -> None:
        """Look at no more files."""
        await end_task(self._look)

    # ---- inner --------------------------------------------------------------------------------------------------

    async def _look_at_files(self, site: Site) -> None:
        """Read the data again if a file has changed since what is in use was read from it."""
        data = site.config.data
        # In a thread, because a file server may take its time.
        now = await asyncio.to_thread(file_stamps, (data, data.test_source))
        if any(self._files.get(path) != stamp for path, stamp in now.items()):
            self._read(site, f"campaign {site.constitution.campaign.number} begins with other data files")

    def _read(self, site: Site, reason: str, *, accept_removed: bool = False) -> None:
        self.newest = DataReload(self.newest.number + 1, "waiting")
        plan = trainer_plan(site, own_seed(site))
        # A round that is open goes on; the next one waits until the data are ready.
        self._command(Unready(f"{reason}: they are read anew"))
        self._by_new_trainer = self._trainer.state is TrainerState.FAILED
        if self._by_new_trainer:
            self._trainer.replan(plan)
            return
        data = site.config.data
        command = session.Reload(
            plan.source, plan.test_source, data.test_in_rounds, data.require_approval, accept_removed
        )
        self._trainer.reload(plan, command)

    def _ended(
        self, stage: Literal["done", "refused"], refused: str = "", changes: Mapping[str, Any] | None = None
    ) -> None:
        if self.newest.stage == "waiting":
            self.newest = DataReload(self.newest.number, stage, refused, changes)


def _plain(changes: session.DataChanges) -> dict[str, Any]:
    """Plain data, as log and control socket carry them."""
    return {**asdict(changes), "path": str(changes.path)}
