"""What a site does once the run is complete: the shared trunk and the site's models are written, once per final trunk.

A restart after that finds what it would write and leaves it alone; should the ledger grow or an amendment take entries
back, both are made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.layout import unlearned
from kmel_p2p.learn.predict.model_directory import read_card
from kmel_p2p.learn.predict.trunk_file import TrunkCard, write_trunk
from kmel_p2p.learn.worker import session
from kmel_p2p.site.site import Site, features_of
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.trainer.supervisor import TrainerState

if TYPE_CHECKING:
    from kmel_p2p.site.daemon import Daemon

log = structlog.get_logger()

TRUNK_DIRECTORY, MODEL_DIRECTORY = "trunk", "model"
CONCLUDED = "concluded"
"""Name in the store of what the last comparison was made from, and its result."""


def trunk_card(site: Site, snapshot: Snapshot, trunk: NDArray[np.float32]) -> TrunkCard:
    """What the trunk of a ledger is. Takes a while for a large one: the exact sum is hashed."""
    everyone = site.constitution.everyone
    vector = snapshot.vector
    return TrunkCard(
        federation=site.charter.federation,
        charter_id=site.charter.id.hex(),
        amendments=len(snapshot.amendments),
        amendment_hash=snapshot.amendment_hash.hex(),
        vector={key.hex(): number for key, number in vector.items()},
        authors=[
            {
                "name": everyone[key].name if key in everyone else "",
                "key": key.hex(),
                "entries": number,
                **({"retracted_from": snapshot.withdrawn[key]} if key in snapshot.withdrawn else {}),
            }
            for key, number in vector.items()
        ],
        ledger_digest=snapshot.digest().hex(),
        architecture=site.architecture,
        features=features_of(site.charter),
        reference_hash=site.charter.features.reference_hash,
        unlearned=unlearned(site.architecture, trunk, initial_trunk(site.layout, site.charter.model.seed)),
    )


class Conclusion:
    """See the module docstring. `result` is that of the comparison; None until it is there."""

    def __init__(self, daemon: Daemon) -> None:
        self.result: Mapping[str, Any] | None = None
        self._daemon = daemon
        self._wanted = False
        self._concluded: object = None
        self._dataset = ""
        self._before: Mapping[str, Any] = {}
        self._task: asyncio.Task[None] | None = None

    def recall(self, store: Store) -> None:
        """Read what an earlier life concluded."""
        kept = store.get_blob(CONCLUDED)
        if kept is not None:
            self._before = json.loads(kept)

    @property
    def was_reached(self) -> bool:
        """Whether an earlier life concluded the run: then this one publishes nothing more either."""
        return bool(self._before)

    async def close(self) -> None:
        """Give up what is under way; it is begun again after a restart."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def prepared(self, dataset: str) -> None:
        """The trainer is there. `dataset`: hash of what it trains on."""
        self._dataset = dataset
        if self._wanted:
            # Also when the trainer before this one was lost over the comparison.
            self._concluded = None
            self.begin()

    def begin(self) -> None:
        """The run is complete: write and compare, unless that was done for this trunk."""
        if self._concluded == self._daemon.peer.averaging.revision:
            return
        self._wanted = True
        self.result = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._conclude(), name="conclude")

    def finished(self, answer: session.Finished) -> bool:
        """The trainer has written the models; whether that was the end of it."""
        self._wanted = False
        averaging = self._daemon.peer.averaging
        if self._concluded != averaging.revision:
            if averaging.complete:
                self.begin()
            return False
        log.info("models written", model_dir=str(answer.model_dir))
        self.result = dict(answer.result)
        kept = {"state_digest": self._daemon.digest(), "dataset": self._dataset, "result": self.result}
        self._before = kept
        self._daemon.note(partial(Store.put_blob, name=CONCLUDED, value=json.dumps(kept).encode()))
        return True

    # ---- inner --------------------------------------------------------------------------------------------------

    async def _conclude(self) -> None:
        daemon = self._daemon
        averaging = daemon.peer.averaging
        try:
            while True:
                revision = averaging.revision
                if isinstance(averaging, LedgerAveraging):
                    await self._write_trunk(averaging)
                await daemon.refresh_digest()
                if daemon.digest() and averaging.revision == revision:
                    break
        except ConfigError as error:
            daemon.fail(error)
            return
        if daemon.trainer.state is not TrainerState.IDLE:
            return  # asked again when it is prepared
        self._concluded = averaging.revision
        if self._stands():
            self._wanted = False
            self.result = self._before["result"]
            log.info("models are written already", digest=daemon.digest())
            daemon.concluded()
            return
        entries = averaging.vector.get(daemon.site.identity.key, 0)
        total_steps = entries * daemon.site.charter.averaging.steps_per_entry
        daemon.trainer.finish(total_steps, entries, self._labels(averaging.vector), averaging.trunk)

    async def _write_trunk(self, averaging: LedgerAveraging) -> None:
        """Raises ConfigError when the disk does not take it."""
        site, snapshot = self._daemon.site, averaging.ledger.snapshot()
        folder = self._daemon.config.site.state_dir / TRUNK_DIRECTORY

        def work() -> bool:
            trunk = snapshot.accumulator.trunk()
            return write_trunk(folder, trunk_card(site, snapshot, trunk), trunk)

        if await asyncio.to_thread(work):
            log.info("trunk written", trunk_dir=str(folder))

    def _stands(self) -> bool:
        """Whether the models of an earlier life were made from this trunk and these data, and are still there."""
        before, daemon = self._before, self._daemon
        if (before.get("state_digest"), before.get("dataset")) != (daemon.digest(), self._dataset):
            return False
        try:
            card = read_card(daemon.config.site.state_dir / MODEL_DIRECTORY)
        except ConfigError:
            return False
        return bool(card.digest == before["result"].get("digest"))

    def _labels(self, vector: Mapping[SiteKey, int]) -> dict[str, str]:
        names = self._daemon.site.names
        return {
            "state_digest": self._daemon.digest(),
            "vector": " ".join(f"{names.get(key, key.hex())}:{number}" for key, number in vector.items()),
        }
