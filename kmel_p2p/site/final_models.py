"""Writes the shared trunk and the site's models once the run is complete, once per final trunk.

After a restart, files that still match the trunk and the data are left alone. If the trunk changes after all (late
entries, a retraction), both are written again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError, KmelError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.privacy import OUTSIDE
from kmel_p2p.core.rounds import Averaging, RoundAllowance
from kmel_p2p.learn.predict.model_directory import read_card
from kmel_p2p.learn.predict.versions import NEWEST_FOLDER
from kmel_p2p.learn.tensor_file import write_vector
from kmel_p2p.learn.worker import session
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.tasks import end_task
from kmel_p2p.site.trainer.campaigns import usual_steps
from kmel_p2p.site.trainer.supervisor import TrainerState, TrainerSupervisor

log = structlog.get_logger()

TRUNK_DIRECTORY = "trunk"
OTHERS_NAME = "others-trunk.f32"
"""The final trunk without this site's own entries, float32[d]; the trainer reads it."""
BLOB_NAME = "final models"
"""Under this name the store keeps what the models were last made from, and the result of their comparison."""


class TrunkDigest:
    """Digest of what the present trunk comes from: equal at two sites exactly when their trunks are equal.

    Computed off the event loop and remembered until the trunk changes.
    """

    def __init__(self, averaging: Averaging) -> None:
        self._averaging = averaging
        self._computed: tuple[object, str] = (None, "")
        self._computing = asyncio.Lock()

    @property
    def text(self) -> str:
        """Hex; empty while `refresh` has not computed it for the present trunk."""
        revision, text = self._computed
        return text if revision == self._averaging.revision else ""

    async def refresh(self) -> None:
        """Compute the digest of the present trunk on a copy, in a thread: a large trunk takes a while."""
        async with self._computing:
            revision = self._averaging.revision
            work = self._averaging.digest_work() if revision != self._computed[0] else None
            if work is not None:
                self._computed = (revision, (await asyncio.to_thread(work)).hex())


class FinalModels:
    """See the module docstring.

    Args:
        site: the site as amended so far.
        averaging: gives the trunk.
        trainer: compares the models and writes them.
        digest: of the trunk.
        note: stores something that nobody waits for.
        written: called whenever trunk and models are complete.
        fail: called when the disk does not take the trunk.
    """

    def __init__(
        self,
        *,
        site: Callable[[], Site],
        averaging: Averaging,
        trainer: TrainerSupervisor,
        digest: TrunkDigest,
        note: Callable[[Callable[[Store], None]], None],
        written: Callable[[], None],
        fail: Callable[[KmelError], None],
    ) -> None:
        self.result: Mapping[str, Any] | None = None
        """Of the comparison; None until it is there."""
        self._site = site
        self._averaging = averaging
        self._trainer = trainer
        self._digest = digest
        self._note = note
        self._written = written
        self._fail = fail
        self._wanted = False
        self._begun_for: object = None
        """Revision of the trunk that the trainer was last asked to compare."""
        self._again = False
        """Whether the run ended anew while the trainer compared."""
        self._dataset = ""
        self._before: Mapping[str, Any] = {}
        self._task: asyncio.Task[None] | None = None

    def recall(self, store: Store) -> None:
        """Read what an earlier life of the daemon completed."""
        kept = store.get_blob(BLOB_NAME)
        if kept is not None:
            self._before = json.loads(kept)

    @property
    def allowed_before(self) -> RoundAllowance:
        """What this site could train when the models were last written."""
        limit = int(self._before.get("entry_limit", self._averaging.entry_limit))
        return RoundAllowance(int(self._before.get("campaign", 1)), limit)

    @property
    def last_result(self) -> Mapping[str, Any] | None:
        """Of the newest comparison, also of an earlier end of the run; None: there was none yet."""
        return self.result or self._before.get("result")

    @property
    def were_written(self) -> bool:
        """Whether the models were written once: then the run is over, and this site publishes nothing more."""
        return bool(self._before)

    async def close(self) -> None:
        """Give up work in progress; it is repeated after a restart."""
        await end_task(self._task)

    def prepared(self, dataset: str) -> None:
        """The trainer is ready. `dataset`: hash of what it trains on; with other data, models are made anew."""
        others = bool(self._dataset) and dataset != self._dataset
        self._dataset = dataset
        if self._wanted or (others and self._averaging.complete):
            # Also when the trainer before this one died during the comparison.
            self._begun_for = None
            self.begin()

    def begin(self) -> None:
        """The run is complete: write and compare, unless that was done for this trunk."""
        if self._begun_for == self._averaging.revision:
            return
        self._again = self._trainer.state is TrainerState.FINISHING
        self._wanted = True
        self.result = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write(), name="final models")

    def finished(self, answer: session.Finished) -> None:
        """The trainer has written the models. Asked again if the run ended anew meanwhile, with another trunk."""
        self._wanted = False
        if self._begun_for != self._averaging.revision:
            if self._averaging.complete and self._again:
                self.begin()
            return
        log.info("models written", model_dir=str(answer.model_dir))
        if answer.not_kept:
            log.warning("models not kept as a version", reason=answer.not_kept)
        self.result = dict(answer.result)
        self._before = {
            "state_digest": self._digest.text,
            "dataset": self._dataset,
            "result": self.result,
            "entry_limit": self._averaging.entry_limit,
            "campaign": self._averaging.allowance.campaign,
        }
        self._note(partial(Store.put_blob, name=BLOB_NAME, value=json.dumps(self._before).encode()))
        self._written()

    # ---- inner --------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        averaging = self._averaging
        folder = self._site().config.site.state_dir / TRUNK_DIRECTORY
        try:
            while True:
                revision = averaging.revision
                site = self._site()
                work = mode_of(site.charter).trunk_writer(site, averaging, folder)
                if work is not None and await asyncio.to_thread(work):
                    log.info("trunk written", trunk_dir=str(folder))
                await self._digest.refresh()
                others = None if self._still_valid() else await self._write_others(site)
                if self._digest.text and averaging.revision == revision:
                    break
        except ConfigError as error:
            self._fail(error)
            return
        if self._trainer.state is not TrainerState.IDLE:
            return  # `prepared` or `finished` asks again
        self._begun_for = averaging.revision
        if self._still_valid():
            self._wanted = False
            self.result = self._before["result"]
            log.info("models are written already", digest=self._digest.text)
            self._written()
            return
        site = self._site()
        entries = mode_of(site.charter).own_rounds(averaging, site.identity.key)
        steps = usual_steps(site.constitution, site.identity.key, entries)
        training = site.constitution.campaign.training
        self._trainer.finish(steps, entries, self._labels(site, averaging.vector), averaging.trunk, others, training)

    async def _write_others(self, site: Site) -> Path | None:
        """The trunk without this site's own entries, for the trainer; None where it is not known."""
        folder = site.config.site.state_dir
        work = mode_of(site.charter).others_trunk(site, self._averaging, folder / STORE_NAME)
        if work is None:
            log.info("the others' trunk is not known", mode=site.charter.averaging.mode)
        return await asyncio.to_thread(_write_others, folder / OTHERS_NAME, work)

    def _still_valid(self) -> bool:
        """Whether the models of an earlier life were made from this trunk and these data, and are still there."""
        before = self._before
        if (before.get("state_digest"), before.get("dataset")) != (self._digest.text, self._dataset):
            return False
        try:
            card = read_card(self._site().config.site.state_dir / NEWEST_FOLDER)
        except ConfigError:
            return False
        return bool(card.digest == before["result"].get("digest"))

    def _labels(self, site: Site, vector: Mapping[SiteKey, int]) -> dict[str, str]:
        names, rule = site.names, site.charter.privacy
        private = {"shared_trunk": f"trained with epsilon {rule.epsilon:g}, delta {rule.delta:g}; {OUTSIDE}"}
        return {
            **(private if rule.on else {}),
            "campaign": str(self._averaging.allowance.campaign),
            "state_digest": self._digest.text,
            "vector": " ".join(f"{names.get(key, key.hex())}:{number}" for key, number in vector.items()),
        }


def _write_others(path: Path, work: Callable[[], NDArray[np.float32] | None] | None) -> Path | None:
    """Runs in a thread. A file of an earlier trunk does not stay."""
    values = work() if work is not None else None
    if values is None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be removed: {error.strerror}") from error
        return None
    write_vector(path, values)
    return path
