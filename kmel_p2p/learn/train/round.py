"""Rounds: train from the trunk, add the drift to the residual, encode the part most worth sending.

Without a codec, the whole drift goes to the daemon, and there is no residual. Under differential privacy, a noised sum
of gradients goes there instead.

With trunk φ, trained parameters θ and residual e: e <- e + (θ - φ); payload = encode(e), which subtracts
decode(payload) from e. This is error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847): at any
time, everything published plus e equals the sum of all drifts. Training always starts from φ alone; starting from φ + e
was measured to diverge.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug, ConfigError, LocalError
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.evaluate.scores import FoldScores, fold_outputs, sampled, scores_by_fold
from kmel_p2p.learn.models.carried_heads import carried, heads_of, private_heads, private_size
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.noised_sum import NoisedSum
from kmel_p2p.learn.tensor_file import read_state, write_state
from kmel_p2p.learn.train.balance import BINS, Sums, sums
from kmel_p2p.learn.train.campaign import CampaignTraining
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import LocalOptimiser, OptimiserState, cosine_rate
from kmel_p2p.learn.train.prefix import BestPrefix
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.learn.worker.session import Progress

PATTERN = "round-*.safetensors*"
NUMBER = re.compile(r"^round-(\d+)\.safetensors$")

log = structlog.get_logger()

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round produced; see `session.Trained`."""

    payload: bytes
    norm: float
    state_file: str
    train_loss: float
    scores: FoldScores
    training_us: int


@dataclass(slots=True)
class _Before:
    """State to return to when a round is abandoned."""

    round: int
    residual: NDArray[np.float32]
    drift: Sums
    private: NDArray[np.float32]
    optimiser: OptimiserState
    payload: bytes = b""
    """What the round made of it."""


class Rounds:
    """The residual, private heads and optimiser of one site, from round to round.

    Attributes:
        committed: last round whose entry is stored. None if none is known; then the first round may have any number (a
            site that lost its trainer files continues its log with an empty residual).
        history: (round, scores of the trunk it started from, see `scores.sampled`) of every round so far.
        prefix: the best of those trunks.
    """

    def __init__(
        self,
        network: Network,
        dataset: Dataset,
        layout: Layout,
        codec: DeltaCodec | None,
        settings: TrainingSettings,
        folder: Path,
        noised: NoisedSum | None = None,
    ) -> None:
        self.committed: int | None = None
        self.history: list[tuple[int, FoldScores]] = []
        self._network, self._dataset, self._codec = network, dataset, codec
        self._scored = sampled(dataset, settings.seed, test=settings.test_in_rounds)
        self.prefix = BestPrefix(folder, self._scored)
        self._size = layout.size
        self._settings, self._folder = settings, folder
        # Under differential privacy no optimiser runs here, but at every site alike, on the sums.
        self._noised = noised
        self._optimiser = LocalOptimiser(network, dataset, settings)
        # Without a codec nothing is left out, so there is no residual.
        self._residual = np.zeros(layout.size if codec is not None else 0, np.float32)
        self._drift: Sums = np.zeros(BINS)
        self._first: int | None = None
        self._campaign = 1
        """Of the state."""
        self._before: _Before | None = None
        learning = dataset.trained_heads()
        heads = sum(endpoint.head == "shared" for endpoint in dataset.endpoints)
        self._idle = [place for head in range(heads) if head not in learning for place in layout.places_of_head(head)]

    @property
    def residual(self) -> NDArray[np.float32]:
        """What is not published yet, float32[d]; float32[0] without a codec. Do not write to it."""
        return self._residual

    @property
    def steps(self) -> int:
        """Optimiser steps over all rounds."""
        return self._optimiser.steps

    def private(self) -> NDArray[np.float32]:
        """A copy of the private heads, float32[p]."""
        return self._network.private_values()

    def resume(self, resume_file: str | None, heads: Sequence[str] | None = None) -> None:
        """Restore the state stored with the last published entry, and delete all other round files.

        Where that file is missing and another is there, as after a backup, the newest is taken.

        Args:
            heads: what the private heads of a file predict that does not say so (`private_heads`); None: what this
                network's do.

        Raises:
            ConfigError: the file is missing or damaged.
        """
        if resume_file is not None:
            resume_file = self._newest_like(resume_file)
        elif (self._folder / self._name(0)).exists():
            resume_file = self._name(0)
        if resume_file is not None:
            self._load(self._folder / resume_file, heads)
            self.prefix.resume(self._size, self._network.private.numel())
        else:
            self.prefix.forget()
        self._remove_all_but(resume_file)

    def train(
        self,
        number: int,
        steps: int,
        norm_bound: float | None,
        trunk: NDArray[np.float32],
        report: Report,
        interrupted: Callable[[], None] | None = None,
        entry_limit: int | None = None,
        campaign: CampaignTraining | None = None,
    ) -> RoundResult:
        """Train `steps` steps from `trunk`, encode, and write the round file.

        The learning rate falls over `entry_limit` rounds (None: as the settings say); where a run is extended, it goes
        on in the middle of its course. In a later `campaign` it falls anew, and the first round meets its boundary.

        Raises:
            LocalError: a round is open.
            ConfigError: training diverged, or the file cannot be written. The state is as before the round.
        """
        if self._before is not None:
            raise LocalError(f"round {self._before.round} is neither committed nor abandoned")
        if self.committed is not None and number != self.committed + 1:
            self._begin_books(number)
        limit = entry_limit or self._settings.entry_limit
        progress = (number - 1) / limit
        if campaign is not None:
            self._take_part(campaign)
            progress = campaign.progress(number, limit)
        elif self._campaign > 1:
            # A rival amendment took the campaigns since the first one back.
            self._optimiser.use(self._settings)
            self._campaign = 1
        self._before = _Before(
            number, self._residual.copy(), self._drift.copy(), self.private(), self._optimiser.state()
        )
        try:
            return self._train(number, steps, cosine_rate(progress), norm_bound, trunk, report, interrupted)
        except BaseException:
            self.abandon(number)
            raise

    def _begin_books(self, number: int) -> None:
        """The log is another one than this state was stored with: after a lost store, a backup or a twin, others gave
        back entries that are unknown here. Residual, optimiser and private heads are still the best there is; only the
        sums that prove published plus residual to be all that was trained begin anew."""
        log.warning("the trainer's state is not that of the newest entry", state=self.committed, next_entry=number)
        self.committed, self._first, self._drift = None, None, sums(self._residual)

    def _take_part(self, campaign: CampaignTraining) -> None:
        """Train as a campaign says; what is stored tells whether its boundary was met, so that a crash meets it once.

        That takes force before the round is opened: a round that is abandoned goes back to here. Where a rival
        amendment took a later campaign back, the boundary of this one was met before.
        """
        self._optimiser.use(self._settings.changed(**dict(campaign.training)))
        if self._campaign >= campaign.number:
            self._campaign = campaign.number
            return
        if not campaign.keeps_optimiser:
            self._optimiser.forget()
        if campaign.drops_residual(self._campaign):
            norm = float(np.linalg.norm(self._residual))
            log.info("the residual ends with its campaign", stored_in=self._campaign, now=campaign.number, norm=norm)
            # The books prove published plus residual to be all that was trained: they begin anew.
            self._residual[:] = 0.0
            self._first, self._drift = None, np.zeros(BINS)
        self._campaign = campaign.number

    def commit(self, number: int) -> None:
        """The entry of round `number` is stored: delete the files of earlier rounds."""
        if self._before is None or self._before.round != number:
            raise LocalError(f"round {number} is not open; nothing to commit")
        self.committed, self._before = number, None
        self._remove_all_but(self._name(number))

    def abandon(self, number: int, *, rejected: bool = False, deferred: bool = False) -> None:
        """Return to the state before round `number`, and delete its file.

        Args:
            rejected: the operator kept the entry back. The round is then trained on other batches, also after a
                restart: the same ones would give the same bytes.
            deferred: it was kept back for now: what was trained stays, and what would have left is in the residual.

        Raises:
            LocalError: that round is not open.
            ConfigError: the state cannot be written; it is kept in memory.
        """
        before = self._before
        if before is None or before.round != number:
            raise LocalError(f"round {number} is not open; nothing to abandon")
        self._before = None
        steps = self._optimiser.steps
        if deferred and self._codec is not None:
            self._residual += self._codec.decode(before.payload).dense(self._size)
        else:
            self._residual, self._drift = before.residual, before.drift
            if self.committed is None:
                self._first = None
            self._network.load_private(before.private)
            self._optimiser.restore(before.optimiser)
        self.history = [entry for entry in self.history if entry[0] < number]
        with contextlib.suppress(OSError):
            (self._folder / self._name(number)).unlink(missing_ok=True)
        if rejected:
            # Batches and dropout follow from the count of steps.
            state = self._optimiser.state()
            self._optimiser.restore(OptimiserState(state.first, state.second, steps, min(state.fresh_at, steps)))
            write_state(self._folder / self._name(number - 1), self._tensors(), self._facts(number - 1))

    def _train(
        self,
        number: int,
        steps: int,
        rate: float,
        norm_bound: float | None,
        trunk: NDArray[np.float32],
        report: Report,
        interrupted: Callable[[], None] | None,
    ) -> RoundResult:
        self._network.load(trunk)
        outputs = fold_outputs(self._scored, self._network.predict)
        scores = scores_by_fold(self._scored, outputs)
        self.history.append((number, scores))
        if "valid" in outputs:
            self.prefix.offer(number, outputs["valid"], trunk, self.private())
        losses = []
        began_ns = time.monotonic_ns()
        drift = None
        for done in range(steps):
            if interrupted is not None:
                interrupted()
            if self._noised is None:
                losses.append(self._optimiser.train(1, rate))
            else:
                levels, loss = self._noised.draw()
                drift = levels.astype(np.float32)
                losses.append(loss)
            report(Progress("training", done + 1, steps))
        training_us = (time.monotonic_ns() - began_ns) // 1000
        if drift is None:
            drift = self._drifted(trunk)
        self._drift += sums(drift)
        if self._first is None:
            self._first = number
        payload, norm = self._encode(drift, norm_bound)
        if self._before is not None:
            self._before.payload = payload
        name = self._name(number)
        write_state(self._folder / name, self._tensors(), self._facts(number))
        return RoundResult(payload, norm, name, float(np.mean(losses)) if losses else 0.0, scores, training_us)

    def _drifted(self, trunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far training moved the trunk, float32[d]."""
        drift = self._network.trunk_values() - trunk
        for place in self._idle:
            # Only weight decay moved these heads, and they carry no weight in this site's entries.
            drift[place] = 0.0
        if not np.isfinite(drift).all():
            raise ConfigError(
                "training diverged: parameters are no longer finite. The charter's training.learning_rate "
                f"({self._settings.learning_rate:g}) is too high for this site's data"
            )
        return drift

    def _encode(self, drift: NDArray[np.float32], norm_bound: float | None) -> tuple[bytes, float]:
        """The payload of this round, and its L2 norm."""
        if self._codec is None:
            return drift.astype("<f4", copy=False).tobytes(), float(np.linalg.norm(drift))
        self._residual += drift
        payload = self._codec.encode(self._residual, norm_bound)
        return payload, self._codec.decode(payload).norm

    @staticmethod
    def _name(number: int) -> str:
        return f"round-{number}.safetensors"

    def _tensors(self) -> dict[str, NDArray[np.float32]]:
        optimiser = self._optimiser.state()
        return {
            "residual": self._residual,
            "private": self.private(),
            "first_moment": optimiser.first,
            "second_moment": optimiser.second,
        }

    def _facts(self, number: int) -> dict[str, Any]:
        # Batches and dropout are functions of seed and step count, so these two restore the random state as well.
        return {
            "round": number,
            "steps": self._optimiser.steps,
            "fresh_at": self._optimiser.state().fresh_at,
            "campaign": self._campaign,
            "seed": self._settings.seed,
            "history": self.history,
            "first": number + 1 if self._first is None else self._first,
            "drift": self._drift.tolist(),
            "private_heads": private_heads(self._network.architecture),
        }

    def _load(self, path: Path, heads: Sequence[str] | None) -> None:
        shape = self._network.architecture
        then = heads_of(path, private_heads(shape) if heads is None else heads)
        private = private_size(shape, len(then))
        moments = (self._size + private,)
        tensors, facts = read_state(
            path,
            {
                "residual": (len(self._residual),),
                "private": (private,),
                "first_moment": moments,
                "second_moment": moments,
            },
        )
        try:
            self.committed = int(facts["round"])
            self.history = [(int(number), scores) for number, scores in facts["history"]]
            steps, fresh_at = int(facts["steps"]), int(facts.get("fresh_at", 0))
            self._campaign = int(facts.get("campaign", 1))
            self._first = int(facts["first"])
            self._drift = np.array(facts["drift"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: is not a round file: {error}") from error
        self._residual = tensors["residual"].copy()
        # Heads of assay endpoints that came since are as at the start, and have no moments yet.
        fresh = self.private()
        self._network.load_private(carried(tensors["private"], then, shape, fresh))
        first, second = (
            np.concatenate([each[: self._size], carried(each[self._size :], then, shape, np.zeros_like(fresh))])
            for each in (tensors["first_moment"], tensors["second_moment"])
        )
        self._optimiser.restore(OptimiserState(first, second, steps, fresh_at))

    def _newest_like(self, wanted: str) -> str:
        """That file; where a backup left another one beside the store, the newest there is."""
        if (self._folder / wanted).exists():
            return wanted
        found = {int(match[1]): path.name for path in self._folder.glob(PATTERN) if (match := NUMBER.search(path.name))}
        if found:
            log.warning("the trainer's state of the newest entry is missing", wanted=wanted, found=found[max(found)])
        return found[max(found)] if found else wanted

    def _remove_all_but(self, name: str | None) -> None:
        for path in self._folder.glob(PATTERN):
            if path.name != name:
                with contextlib.suppress(OSError):
                    path.unlink()


def check_layout(layout: Layout, expected: bytes) -> None:
    """Raises:
    Bug: daemon and trainer build different trunks.
    """
    if layout.hash != expected:
        raise Bug(f"layout is {layout.hash.hex()[:16]}, the daemon says {expected.hex()[:16]}")
