"""Keeps one trainer alive and carries rounds to it and back.

A trainer that dies costs the open round and nothing else: the peer stays a member, and a new trainer starts from the
state stored with the last published entry, after a capped back-off. Where another plan holds, as after assay endpoints
came and went, a new trainer takes the place of the one that is there, between two rounds. Where only the measurements
are others, the trainer that is there reads them between two rounds.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.training import TrainingRule
from kmel_p2p.core.rounds import RoundAbandoned, RoundOpened
from kmel_p2p.learn.train.campaign import CampaignTraining
from kmel_p2p.learn.worker import session
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.site.trainer.limits import TrainerLimits
from kmel_p2p.site.trainer.process import SharedTrunk, TrainerProcess

log = structlog.get_logger()

RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0
STOP_GRACE_S = 3.0


class TrainerState(enum.Enum):
    """What the trainer is doing; the values are those of the status document."""

    STARTING = "starting"
    PREPARING = "preparing"
    IDLE = "idle"
    TRAINING = "training"
    FINISHING = "finishing"
    STOPPED = "stopped"
    FAILED = "failed"


class Listener(Protocol):
    """Told of the trainer's answers and of its death."""

    def trainer_prepared(self, answer: session.Prepared) -> None: ...
    def trainer_trained(self, answer: session.Trained) -> None: ...
    def trainer_lost(self, number: int | None, reason: str, restarts: int) -> None: ...
    def trainer_finished(self, answer: session.Finished) -> None: ...
    def trainer_examined(self, answer: session.Examined) -> None: ...
    def trainer_appraised(self, answer: session.Appraised) -> None: ...
    def trainer_reloaded(self, answer: session.Reloaded) -> None: ...
    def trainer_unusable(self, kind: str, text: str, *, ended: bool) -> None: ...


class TrainerSupervisor:
    """See the module docstring.

    Args:
        target: entry function of the child process.
        plan: what every life of the trainer is told; `resume_file` is filled in at each start.
        size: values in the trunk.
        resume_file: asks the store for the state file of the newest own entry.
        clock: monotonic seconds.
        limits: of the trainer's processes; None: none.
    """

    def __init__(
        self,
        target: Callable[..., None],
        plan: TrainerPlan,
        size: int,
        resume_file: Callable[[], Awaitable[str | None]],
        clock: Callable[[], float],
        limits: TrainerLimits | None = None,
    ) -> None:
        self.state = TrainerState.STARTING
        self.progress: tuple[str, int, int] | None = None
        self.restarts = 0
        self.heard_at: float | None = None
        self._target = target
        self._listener: Listener
        self._trunk = SharedTrunk(size)
        self._plan = dataclasses.replace(plan, trunk_memory=self._trunk.name)
        self._resume_file = resume_file
        self._clock = clock
        self._limits = limits
        self._process: TrainerProcess | None = None
        self._round: int | None = None
        self._answered: int | None = None
        self._deferred: Callable[[], None] | None = None
        """Opens the round that waits for a comparison."""
        self._backoff_s = RESTART_FIRST_S
        self._lack = ""
        """Why it ends although it would go on with more room."""
        self._outdated = False
        """Whether a newer plan waits for the trainer to have its hands free."""
        self._planned_anew = False
        """Whether no trainer has prepared the data by the present plan yet, and one had by an earlier one."""
        self._prepared = False
        """Whether a trainer has prepared the data in this life of the daemon."""
        self._reload: session.Reload | None = None
        """Waits for the trainer to have its hands free."""
        self._renewal: asyncio.Task[None] | None = None
        self._restart: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether there is a trainer at all, or none was wanted."""
        return hasattr(self, "_listener")

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    @property
    def limits(self) -> str:
        """What its processes are held to, in words; empty without limits."""
        return self._limits.text if self._limits is not None else ""

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the trainer; 0 while there is none."""
        return self._process.resident_bytes if self._process and self._process.pid else 0

    async def start(self, listener: Listener) -> None:
        """Start a trainer and have it prepare the data. `listener` is told of answers, from the event loop."""
        self._listener = listener
        await self._launch()

    def leave_out(self) -> None:
        """Start no trainer in this life of the daemon."""
        self.state = TrainerState.STOPPED

    def train(
        self,
        opened: RoundOpened,
        write_trunk: Callable[[NDArray[np.float32]], Any],
        campaign: CampaignTraining | None = None,
    ) -> None:
        """Open a round: fill the shared trunk, then command. A run that goes on waits for a comparison under way."""
        self._round = opened.number
        if self.state is TrainerState.FINISHING:
            self._deferred = partial(self.train, opened, write_trunk, campaign)
            return
        write_trunk(self._trunk.values)
        self.state = TrainerState.TRAINING
        self._send(session.Train(opened.number, opened.steps, opened.norm_bound, opened.entry_limit, campaign))

    def replan(self, plan: TrainerPlan) -> None:
        """Go on with another plan: a new trainer starts once no round is open and no models are being made.

        Nobody may ask for a round until it has prepared its data (`Unready`).
        """
        self._plan = dataclasses.replace(plan, trunk_memory=self._trunk.name)
        self._outdated = True
        self._reload = None
        # A round that opens in the same turn is still this trainer's.
        asyncio.get_running_loop().call_soon(self._maybe_renew)

    def reload(self, plan: TrainerPlan, command: session.Reload) -> None:
        """Have the measurements read again once no round is open and no models are being made.

        Args:
            plan: of the trainers to come; the same but for the data.
        """
        self._plan = dataclasses.replace(plan, trunk_memory=self._trunk.name)
        self._reload = command
        asyncio.get_running_loop().call_soon(self._maybe_renew)

    def commit(self, number: int) -> None:
        """The round's entry is durable. Only the life that trained it has anything to forget."""
        if self._answered == number:
            self._answered = None
            self._send(session.Commit(number))
            self._maybe_renew()

    def abandon(self, abandoned: RoundAbandoned) -> None:
        """The round's entry will not be published."""
        if self._answered == abandoned.number:
            self._answered = None
            self._send(session.Abandon(abandoned.number, abandoned.rejected, abandoned.deferred))
            self._maybe_renew()

    def finish(
        self,
        total_steps: int,
        entries: int,
        labels: Mapping[str, str],
        write_trunk: Callable[[NDArray[np.float32]], Any],
        others_file: Path | None = None,
        training: TrainingRule | None = None,
    ) -> None:
        """Have the models compared and written; the arguments but `write_trunk` are those of `session.Finish`."""
        write_trunk(self._trunk.values)
        self.state = TrainerState.FINISHING
        self._send(session.Finish(total_steps, entries, labels, others_file, training))

    def examine(self, command: session.Examine | session.Appraise) -> None:
        """Have parts of the trunk examined or appraised, whatever else the trainer does; nobody waits for it."""
        if self.state in (TrainerState.IDLE, TrainerState.TRAINING, TrainerState.FINISHING):
            self._send(command)

    async def stop(self) -> None:
        """End the trainer and release the shared memory."""
        self.state = TrainerState.STOPPED
        for task in (self._restart, self._renewal):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._process is not None and self._process.pid is not None:
            await self._process.stop(STOP_GRACE_S)
        self._trunk.close()
        if self._limits is not None:
            self._limits.close()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _maybe_renew(self) -> None:
        """Put the newer plan in force, or have the data read again, where the trainer has nothing in hand."""
        if self._round is not None or self._answered is not None:
            return
        if self._reload is not None and self.state is TrainerState.IDLE:
            command, self._reload = self._reload, None
            self.state = TrainerState.PREPARING
            self._send(command)
        free = self.state in (TrainerState.IDLE, TrainerState.PREPARING, TrainerState.FAILED)
        if not self._outdated or not free:
            return
        self.state = TrainerState.STARTING
        self._renewal = asyncio.get_running_loop().create_task(self._renew(), name="trainer-renewal")

    async def _renew(self) -> None:
        process = self._process
        if process is not None and process.pid is not None:
            await process.stop(STOP_GRACE_S)
        try:
            await self._launch()
        except OSError as error:
            log.error("trainer not started", reason=str(error), restart_in_s=self._backoff_s)
            self._restart = asyncio.get_running_loop().create_task(self._start_later(), name="trainer-restart")

    async def _launch(self) -> None:
        resume = await self._resume_file()
        plan = dataclasses.replace(self._plan, resume_file=resume)
        self._planned_anew, self._outdated = self._planned_anew or self._outdated, False
        self.state = TrainerState.PREPARING
        self._process = TrainerProcess(self._target, plan, self._on_answer, self._on_exit, several=plan.processes > 1)
        if self._limits is not None and self._process.pid is not None:
            self._limits.hold(self._process.pid)
        self._process.send(session.Prepare())
        log.info("trainer started", pid=self._process.pid, resume=resume)

    def _send(self, command: session.Command) -> None:
        try:
            if self._process is not None:
                self._process.send(command)
        except LocalError:
            # Its death is reported by `_on_exit`, which also closes the round.
            log.warning("trainer is gone", command=type(command).__name__)

    @property
    def _renewing(self) -> bool:
        """Whether a trainer is being ended for another plan: what it still says concerns nobody."""
        return self._renewal is not None and not self._renewal.done()

    def _on_answer(self, answer: session.Answer) -> None:
        if self._renewing:
            return
        self.heard_at = self._clock()
        match answer:
            case session.Progress():
                self.progress = (answer.stage, answer.done, answer.total)
            case session.Prepared():
                self.state, self.progress = TrainerState.IDLE, None
                self._planned_anew, self._prepared = False, True
                self._listener.trainer_prepared(answer)
                self._maybe_renew()
            case session.Trained():
                self.state, self.progress = TrainerState.IDLE, None
                self._round, self._answered = None, answer.round
                # Only finished work shows that a next trainer is worth starting at once.
                self._backoff_s = RESTART_FIRST_S
                self._listener.trainer_trained(answer)
            case session.Finished():
                self.state, self.progress = TrainerState.IDLE, None
                self._listener.trainer_finished(answer)
                deferred, self._deferred = self._deferred, None
                if deferred is not None:
                    deferred()
                self._maybe_renew()
            case session.Reloaded():
                self.state, self.progress = TrainerState.IDLE, None
                self._listener.trainer_reloaded(answer)
                self._maybe_renew()
            case session.Examined():
                self._listener.trainer_examined(answer)
            case session.Appraised():
                self._listener.trainer_appraised(answer)
            case session.Failed():
                self._failed(answer)

    def _failed(self, answer: session.Failed) -> None:
        log.error("trainer failed", kind=answer.kind, text=answer.text)
        if answer.kind in ("data", "config"):
            # Another try would find the same files and settings.
            changed = answer.kind == "data" and self._prepared and self.state is TrainerState.PREPARING
            self.state = TrainerState.FAILED
            self._listener.trainer_unusable(answer.kind, answer.text, ended=not (self._planned_anew or changed))
        elif answer.kind == "room":
            # There may be room again: the next trainer goes on from what was stored before.
            self._lack = answer.text

    def _on_exit(self, code: int | None) -> None:
        process_wanted = self.state not in (TrainerState.STOPPED, TrainerState.FAILED) and not self._renewing
        failed, self._round, self._answered, self._deferred = self._round, None, None, None
        if not process_wanted:
            return
        self._reload = None  # the next one reads the data when it starts
        limit = self._limits.why_ended() if self._limits is not None else ""
        reason, self._lack = self._lack or limit or f"the trainer ended with {_exit_text(code)}", ""
        log.error("trainer lost", reason=reason, restart_in_s=self._backoff_s)
        self.state = TrainerState.STARTING
        self.restarts += 1
        self._listener.trainer_lost(failed, reason, self.restarts)
        self._restart = asyncio.get_running_loop().create_task(self._start_later(), name="trainer-restart")

    async def _start_later(self) -> None:
        while True:
            await asyncio.sleep(self._backoff_s)
            self._backoff_s = min(RESTART_MAX_S, 2 * self._backoff_s)
            try:
                await self._launch()
            except OSError as error:
                log.error("trainer not started", reason=str(error), restart_in_s=self._backoff_s)
            else:
                return


def _exit_text(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
