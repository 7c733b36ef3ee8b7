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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.evaluate.scores import FoldScores, fold_outputs, sampled, scores_by_fold
from kmel_p2p.learn.models.carried_heads import carried, heads_of, private_heads, private_size
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.noised_sum import NoisedSum
from kmel_p2p.learn.tensor_file import Stream, read_into, read_piece, state_facts, write_state
from kmel_p2p.learn.train.balance import BINS, Sums, sums
from kmel_p2p.learn.train.before_round import MOMENTS, BeforeRound, read_moments
from kmel_p2p.learn.train.campaign import CampaignTraining
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.optimise import LocalOptimiser, cosine_rate
from kmel_p2p.learn.train.prefix import BestPrefix
from kmel_p2p.learn.train.round_files import name_of, newest_like, remove_all_but
from kmel_p2p.learn.worker.plan import TrainingSettings
from kmel_p2p.learn.worker.session import Progress

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
        self._network, self._layout, self._codec = network, layout, codec
        self._size = layout.size
        self._settings, self._folder = settings, folder
        self._optimiser = LocalOptimiser(network, dataset, settings)
        self._look_at(dataset, noised, test=settings.test_in_rounds)
        # Without a codec nothing is left out, so there is no residual.
        self._residual = np.zeros(layout.size if codec is not None else 0, np.float32)
        self._drift: Sums = np.zeros(BINS)
        self._first: int | None = None
        self._campaign = 1
        """Of the state."""
        self._before: BeforeRound | None = None
        self._file: Path | None = None
        """The round file that has residual and moments as they are now."""

    def _look_at(self, dataset: Dataset, noised: NoisedSum | None, *, test: bool) -> None:
        """Score on these measurements, and know which shared heads learn nothing from them."""
        # Under differential privacy no optimiser runs here, but at every site alike, on the sums.
        self._noised = noised
        self._scored = sampled(dataset, self._settings.seed, test=test)
        self.prefix = BestPrefix(self._folder, self._scored)
        learning = dataset.trained_heads()
        heads = sum(endpoint.head == "shared" for endpoint in dataset.endpoints)
        idle = [head for head in range(heads) if head not in learning]
        self._idle = [place for head in idle for place in self._layout.places_of_head(head)]

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
            resume_file = newest_like(self._folder, resume_file)
        elif (self._folder / name_of(0)).exists():
            resume_file = name_of(0)
        if resume_file is not None:
            self._load(self._folder / resume_file, heads)
            self.prefix.resume(self._size, self._network.private.numel())
        else:
            self.prefix.forget()
        remove_all_but(self._folder, resume_file)

    def learn_from(self, dataset: Dataset, noised: NoisedSum | None = None, *, test: bool = False) -> None:
        """Go on with other measurements of the same assay endpoints. All else stays, as after a restart with them.

        Args:
            test: whether rounds are scored on the test fold, too.

        Raises:
            LocalError: a round is open.
            ConfigError: the file of the best prefix is damaged; nothing has changed then.
        """
        if self._before is not None:
            raise LocalError(f"round {self._before.round} is open: its measurements stay until it is stored")
        former = self._noised, self._scored, self.prefix, self._idle
        self._look_at(dataset, noised, test=test)
        try:
            self.prefix.resume(self._size, self._network.private.numel())
        except BaseException:
            self._noised, self._scored, self.prefix, self._idle = former
            raise
        self._optimiser.learn_from(dataset)

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
        self._before = BeforeRound.of(number, self._file, self._residual, self._drift, self.private(), self._optimiser)
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
        self._file = None
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
        self.committed, self._before, self._file = number, None, self._folder / name_of(number)
        remove_all_but(self._folder, name_of(number))

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
        self._before, self._file = None, before.file
        steps = self._optimiser.steps
        if deferred and self._codec is not None:
            delta = self._codec.decode(before.payload)
            self._residual[delta.positions] += delta.values().astype(np.float32)
        else:
            self._drift = before.drift
            if self.committed is None:
                self._first = None
            self._network.load_private(before.private)
            before.put_back(self._residual, self._optimiser)
        self.history = [entry for entry in self.history if entry[0] < number]
        with contextlib.suppress(OSError):
            (self._folder / name_of(number)).unlink(missing_ok=True)
        if rejected:
            # Batches and dropout follow from the count of steps.
            self._optimiser.skip_to(steps)
            self._file = None
            self._write(number - 1)
            self._file = self._folder / name_of(number - 1)

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
        noised: NDArray[np.float32] | None = None
        for done in range(steps):
            if interrupted is not None:
                interrupted()
            if self._noised is None:
                losses.append(self._optimiser.train(1, rate))
            else:
                levels, loss = self._noised.draw()
                noised = levels.astype(np.float32)
                losses.append(loss)
            report(Progress("training", done + 1, steps))
        training_us = (time.monotonic_ns() - began_ns) // 1000
        whole = self._add_drift(trunk) if noised is None else self._add_up(noised)
        if self._first is None:
            self._first = number
        payload, norm = self._encode(whole, norm_bound)
        if self._before is not None:
            self._before.payload = payload
        self._write(number)
        mean = float(np.mean(losses)) if losses else 0.0
        return RoundResult(payload, norm, name_of(number), mean, scores, training_us)

    def _add_up(self, drift: NDArray[np.float32]) -> NDArray[np.float32]:
        self._drift += sums(drift)
        return drift

    def _add_drift(self, trunk: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Add how far training moved the trunk to the residual, piece by piece; without one, return it, float32[d]."""
        network = self._network
        whole = np.empty(self._size, np.float32) if self._codec is None else None
        for piece in network.order.pieces:
            drift = network.order.take(network.trunk, piece) - trunk[piece]
            for place in self._idle:
                # Only weight decay moved these heads, and they carry no weight in this site's entries.
                first, end = max(place.start, piece.start), min(place.stop, piece.stop)
                if first < end:
                    drift[first - piece.start : end - piece.start] = 0.0
            if not np.isfinite(drift).all():
                raise ConfigError(
                    "training diverged: parameters are no longer finite. The charter's training.learning_rate "
                    f"({self._settings.learning_rate:g}) is too high for this site's data"
                )
            self._drift += sums(drift, piece.start)
            if whole is None:
                self._residual[piece] += drift
            else:
                whole[piece] = drift
        return whole

    def _encode(self, drift: NDArray[np.float32] | None, norm_bound: float | None) -> tuple[bytes, float]:
        """The payload of this round, and its L2 norm. `drift`: without a codec, all that is sent."""
        if self._codec is None:
            assert drift is not None
            return drift.astype("<f4", copy=False).tobytes(), float(np.linalg.norm(drift))
        payload = self._codec.encode(self._residual, norm_bound)
        return payload, self._codec.decode(payload).norm

    def _write(self, number: int) -> None:
        tensors: dict[str, NDArray[Any] | Stream] = {"residual": self._residual, "private": self.private()}
        tensors |= dict(zip(MOMENTS, self._optimiser.moments(), strict=True))
        write_state(self._folder / name_of(number), tensors, self._facts(number))

    def _facts(self, number: int) -> dict[str, Any]:
        # Batches and dropout are functions of seed and step count, so these two restore the random state as well.
        return {
            "round": number,
            "steps": self._optimiser.steps,
            "fresh_at": self._optimiser.fresh_at,
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
        shapes = {"residual": (len(self._residual),), "private": (private,)}
        facts = state_facts(path, shapes | dict.fromkeys(MOMENTS, (self._size + private,)))
        try:
            self.committed = int(facts["round"])
            self.history = [(int(number), scores) for number, scores in facts["history"]]
            steps, fresh_at = int(facts["steps"]), int(facts.get("fresh_at", 0))
            self._campaign = int(facts.get("campaign", 1))
            self._first = int(facts["first"])
            self._drift = np.array(facts["drift"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: is not a round file: {error}") from error
        # Heads of assay endpoints that came since are as at the start, and have no moments yet.
        fresh = self.private()
        self._network.load_private(carried(read_piece(path, "private", slice(0, private)), then, shape, fresh))
        first, second = (
            carried(moment, then, shape, np.zeros_like(fresh))
            for moment in read_moments(path, slice(self._size, self._size + private))
        )

        def read(piece: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            return (first, second) if piece.start >= self._size else read_moments(path, piece)

        read_into(path, "residual", self._residual)
        self._optimiser.go_on(read, steps, fresh_at)
        self._file = path if then == private_heads(shape) else None
