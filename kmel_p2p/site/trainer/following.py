"""Has the trainer follow the assay endpoints in force, and what the settings say about the data.

An assay endpoint that comes or goes, or another `[data]` section, is another plan for the trainer: a new one takes its
place between two rounds, while the peer goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.core.rounds import Unready
from kmel_p2p.site.loaded_site import own_seed, trainer_plan
from kmel_p2p.site.reload import reloaded
from kmel_p2p.site.site import Site
from kmel_p2p.site.trainer.supervisor import TrainerState, TrainerSupervisor

log = structlog.get_logger()

MAP_THEM = (
    "this site goes on without them; where it measures them, name their columns under [data.columns] in site.toml, and "
    "have the peer read it (SIGHUP)"
)

NOT_YET = "they are not read; if no campaign is to add these assay endpoints, correct [data.columns] in site.toml"


class DataFollowed:
    """See the module docstring.

    Args:
        path: the settings file.
        trainer: told of another plan.
        command: feeds a command to the protocol.
    """

    def __init__(self, path: Path, trainer: TrainerSupervisor, command: Callable[[Any], None]) -> None:
        self._path = path
        self._trainer = trainer
        self._command = command

    def amended(self, site: Site, constitution: Constitution) -> Site:
        """An amendment is in force; returns the site under it."""
        found = site.amended(constitution)
        if found.assay_endpoints == site.assay_endpoints:
            return found
        # Who measures what is new may have named its column before, or may do so later.
        found = replace(found, config=reloaded(found.config, self._path, found.assay_endpoints))
        self._follow(found, f"campaign {constitution.campaign.number} has other assay endpoints")
        self.tell(found)
        return found

    def reread(self, site: Site) -> Site:
        """Read the settings again; returns the site with what can be taken over of them."""
        found = replace(site, config=reloaded(site.config, self._path, site.assay_endpoints))
        if found.config.data != site.config.data or self._trainer.state is TrainerState.FAILED:
            self._follow(found, "the settings of the data were read again")
            self.tell(found)
        return found

    def tell(self, site: Site) -> None:
        """Name what later campaigns added and this site does not map, and what it maps and nobody added."""
        if left := site.assay_endpoints.unmapped(site.config.data.columns):
            log.warning("assay endpoints not mapped", names=left, remedy=MAP_THEM)
        if unknown := site.assay_endpoints.unknown(site.config.data.columns):
            log.warning("columns of no assay endpoint", names=unknown, remedy=NOT_YET)

    def _follow(self, site: Site, reason: str) -> None:
        # A round that is open goes on; the next one waits until the data are ready.
        self._command(Unready(f"{reason}: the data are read anew"))
        self._trainer.replan(trainer_plan(site, own_seed(site)))
