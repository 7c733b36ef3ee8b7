"""One site's rounds, in any averaging mode: open, train, hold for approval, store, commit; and the end of the run.

What the modes share is here, its transitions as one table. A mode derives from `RoundMachine` and adds what stands in
the way of a round, how a round is begun and stored, and all exchange with the other peers.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message
from kmel_p2p.core.rounds.completion import Completion
from kmel_p2p.core.rounds.contract import (
    Approve,
    ApproveUntil,
    Begin,
    Blocked,
    Conclude,
    CurrentWait,
    EntryHeld,
    Listen,
    Members,
    Pause,
    Phase,
    PhaseChanged,
    Ready,
    Reject,
    Resume,
    RoundAbandoned,
    RoundAllowance,
    RoundCommitted,
    RoundFailed,
    RoundOpened,
    RoundTrained,
    RunComplete,
    Unready,
)
from kmel_p2p.core.rounds.ending import Ending
from kmel_p2p.core.rounds.obstacles import Obstacles
from kmel_p2p.core.rounds.pacing import Pacing
from kmel_p2p.core.rounds.settings import RoundSettings
from kmel_p2p.core.rounds.states import TRANSITIONS, End, Move, RoundState, Wait
from kmel_p2p.core.rounds.twin_pause import TwinPause
from kmel_p2p.core.types import Micros

HELD = "kmel-peer held show says what would leave; kmel-peer held approve or reject decides"
HEARING = "hearing from every reachable site before the first round"


class RoundMachine(Obstacles, ABC):
    """The part of an averaging mode that does not depend on the mode. A derived class is a `contract.Averaging`."""

    messages: tuple[type[Message], ...]
    has_residual = True
    """Whether the trainer keeps what it has not published yet."""

    def __init__(self, own: SiteKey, members: Members, settings: RoundSettings, now: Micros) -> None:
        self._key = own
        self._members = members
        self._round_settings = settings
        self._outbox: deque[Effect] = deque()
        self._pacing = Pacing(settings.max_lead, settings.patience, settings.settle_us, settings.stuck_after_us, now)
        self._ending = Ending(settings.concludes_after_us, settings.away_us)
        self._phase = Phase.PREPARING
        self._blocked: frozenset[SiteKey] = frozenset()
        self._waiting = ""
        self._wait: tuple[Wait, Micros] | None = None
        """What the next round waits for, and since when."""
        self._ready = False
        self._paused = ""  # or why operator or hours let no round open
        self._pause = TwinPause(own)
        self._begun = False
        """The operator waits for no more sites before the first round."""
        self._state = RoundState.IDLE
        self._number: int | None = None
        """Of the round that is not committed yet."""
        self._result: RoundTrained | None = None
        self._approved_until = 0
        """Rounds up to this number are not held."""
        self._ended_at: RoundAllowance | None = None
        """What was allowed when this site's rounds ended; None: they did not, or for good."""
        self._completion = Completion(settings.again_us)

    @property
    def phase(self) -> Phase:
        """What this site does about its own contribution."""
        return self._phase

    @property
    def waiting(self) -> str:
        """Why no round is open, for the operator; empty when one is."""
        return self._waiting

    @property
    def waits(self) -> tuple[CurrentWait, ...]:
        """What this site waits for: before its next round, or at the end of the run."""
        if self._wait is None:
            return self._ending.waits()
        wait, since_us = self._wait
        return CurrentWait(wait.reason, wait.sites, since_us, wait.until_us, wait.until_begin), *self._ending.waits()

    @property
    def complete(self) -> bool:
        """Whether all alive sites listen and have nothing left to exchange."""
        return self._completion.is_complete

    # ---- what a mode adds ---------------------------------------------------------------------------------------

    @abstractmethod
    def _obstacle(self, now: Micros) -> Wait | End | None:
        """What stands in the way of the next round; None: it may open."""

    @abstractmethod
    def _begin_round(self) -> tuple[int, float]:
        """Fix what the next round starts from. Returns its number and the largest norm its delta may have."""

    @abstractmethod
    def _step_times_us(self) -> Iterable[Micros]:
        """Time per step of the other training sites."""

    @abstractmethod
    def _check_trained(self, result: RoundTrained) -> int:
        """Look at what the trainer hands over; returns the bytes that are to leave the site.

        Raises:
            LocalError: it cannot be used; the round stays open.
        """

    @abstractmethod
    def _store_round(self, result: RoundTrained) -> None:
        """Have the round stored; `_refuse` or, once it is durable, `_commit` follows."""

    @abstractmethod
    def _phase_changed(self) -> None:
        """Tell the other peers."""

    @abstractmethod
    def _on_message(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Take one of `messages` from an authenticated sender."""

    @abstractmethod
    def _on_command(self, cmd: Any, now: Micros) -> None:
        """Take a command that is not about the open round."""

    @abstractmethod
    def _on_time(self, now: Micros) -> None:
        """Time passed."""

    @abstractmethod
    def _deadlines_us(self) -> Iterable[Micros | None]:
        """When `_on_time` is due."""

    @abstractmethod
    def _before_round(self, now: Micros) -> None:
        """After every input, before the look at whether a round may open."""

    @abstractmethod
    def _after_round(self, now: Micros) -> None:
        """After every input and after that look."""

    @abstractmethod
    def _rounds_published(self) -> Mapping[SiteKey, int]:
        """Rounds that each site has published, as far as known here."""

    @abstractmethod
    def _behind(self) -> dict[SiteKey, int]:
        """Alive sites that keep the run from ending, with their rounds."""

    def _spent(self, sites: Iterable[SiteKey]) -> frozenset[SiteKey]:
        """Those of `sites` that have published all that they may."""
        return frozenset()

    @abstractmethod
    def _final_state(self) -> object:
        """Names what the run ended with, as soon as it has ended; until then None."""

    @abstractmethod
    def _run_completed(self) -> None:
        """Called when `RunComplete` is told."""

    # ---- contract of `effects.Machine` --------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed one of `messages` from an authenticated sender."""
        self._on_message(sender, message, now)
        self._turn(now)

    def command(self, cmd: Any, now: Micros) -> None:
        """Feed one of `contract.COMMANDS`."""
        match cmd:
            case Ready():
                self._pacing.ready(now)
                self._ready = True
                if not self._paused:
                    self._enter(Phase.TRAINING, "data prepared")
            case Pause(reason):
                self._paused = reason
            case Resume():
                self._paused = ""
                if self._ready:
                    self._enter(Phase.TRAINING, "the pause is over")
            case Unready(reason):
                self._unready(reason)
            case Begin():
                self._begun = True
            case Listen(reason, allowed):
                self._enter(Phase.LISTENING, reason)
                self._ended_at = allowed
            case Conclude(reason, campaign) if campaign in (None, self.campaign):
                self._ending.concluded = True
                self._ended_at = RoundAllowance(self.campaign, sys.maxsize)
                self._enter(Phase.LISTENING, reason)
            case Conclude():
                pass  # of a campaign that is over
            case Blocked(sites):
                self._blocked = sites
                for site in sites:
                    self._ending.came_back(site)
            case RoundTrained():
                self._trained(cmd, now)
            case Approve() if self._pause.wait is not None:
                raise LocalError(self._pause.wait.reason)
            case Approve(number):
                self._approve(number)
            case ApproveUntil(number):
                self._approved_until = number
            case Reject():
                self._reject(cmd)
            case RoundFailed(number, reason):
                self._abandon(Move.FAIL, number, reason)
                self._unready(reason)
            case _:
                self._on_command(cmd, now)
        self._turn(now)

    def advance(self, now: Micros) -> None:
        """Time passed."""
        self._on_time(now)
        self._turn(now)

    def deadline(self) -> Micros | None:
        """When `advance` is due next."""
        moments_us = (
            *self._deadlines_us(), *self._pacing.deadlines_us, self._ending.deadline(), self._completion.deadline
        )  # fmt: skip
        return min((moment for moment in moments_us if moment is not None), default=None)

    def poll(self) -> Effect | None:
        """The next effect, or None."""
        return self._outbox.popleft() if self._outbox else None

    # ---- a round ------------------------------------------------------------------------------------------------

    def _turn(self, now: Micros) -> None:
        """After every input: see whether a round may open or the run is over."""
        self._pacing.turn(now)
        self._maybe_let_go()
        self._before_round(now)
        self._maybe_go_on()
        if self._paused and self._state is RoundState.IDLE:
            # As without a trainer: nobody's pace may depend on this site.
            self._enter(Phase.PREPARING, self._paused)
        self._maybe_open(now)
        self._after_round(now)
        self._look_to_the_end(now)
        self._look_whether_complete(now)

    def _look_whether_complete(self, now: Micros) -> None:
        if self._completion.look(self._final_state(), now):
            self._outbox.append(Emit(RunComplete(1 + len(self._members.alive()))))
            self._run_completed()

    def _maybe_go_on(self) -> None:
        """Train again when more is allowed than when this site's rounds ended, or in another campaign.

        Also in an earlier one: that in which they ended may have been overruled.
        """
        before, now = self._ended_at, self.allowance
        if before is not None and (before.campaign != now.campaign or before.rounds < now.rounds):
            self._ended_at = None
            self._ending.concluded = False
            self._completion.forget()
            self._pacing.go_on()
            what = f"campaign {now.campaign} is open" if before.campaign != now.campaign else "the run goes on"
            phase = Phase.TRAINING if self._ready else Phase.PREPARING
            self._change(phase, f"{what}: this site may publish entries up to {now.rounds} now")

    def _look_to_the_end(self, now: Micros) -> None:
        """See whom the end of the run waits for, and tell when that lasts."""
        self._ending.note(self._rounds_published(), now)
        behind: dict[SiteKey, int] = {}
        if self._phase is Phase.LISTENING and self._state is RoundState.IDLE:
            rounds = self._rounds_published()
            behind = {site: rounds.get(site, 0) for site in self._ending.away(now)} | self._behind()
        self._outbox.extend(Emit(event) for event in self._ending.look(behind, now, self._spent(behind)))

    def _maybe_open(self, now: Micros) -> None:
        if not self._ready or self._state is not RoundState.IDLE or self._phase is not Phase.TRAINING:
            held = self._state is RoundState.HELD
            paused = Wait(self._paused) if self._paused and self._phase is Phase.PREPARING else None
            self._say(Wait(f"round {self._number} is held: {HELD}") if held else paused, now)
            return
        obstacle = self._pause.wait or self._obstacle(now)
        self._say(obstacle if isinstance(obstacle, Wait) else None, now)
        if isinstance(obstacle, End):
            self._enter(Phase.LISTENING, obstacle.reason)
            self._ended_at = self.allowance if obstacle.may_go_on else None
        elif obstacle is None:
            self._pacing.opened(now)
            steps = self._pacing.steps(self._round_settings.steps_per_entry, self._step_times_us())
            number, norm_bound = self._begin_round()
            self._move(Move.OPEN, number)
            now_in, before = self.allowance, self.before_campaign
            self._outbox.append(Emit(RoundOpened(number, steps, norm_bound, now_in.rounds, now_in.campaign, before)))

    def _trained(self, result: RoundTrained, now: Micros) -> None:
        self._require(Move.STORE, result.number)
        leaving = self._check_trained(result)
        self._pacing.trained(result, now)
        if self._pause.wait is not None:
            self._abandon(Move.FAIL, result.number, self._pause.wait.reason)
            return
        self._result = result
        if self._round_settings.hold and result.number > self._approved_until:
            self._move(Move.HOLD, result.number)
            self._outbox.append(Emit(EntryHeld(result.number, leaving)))
        else:
            self._move(Move.STORE, result.number)
            self._store()

    def _maybe_let_go(self) -> None:
        """What is held goes when its number is among those approved beforehand."""
        if self._state is RoundState.HELD and self._pause.wait is None:
            assert self._number is not None, "a round is held"
            if self._number <= self._approved_until:
                self._approve(self._number)

    def _approve(self, number: int) -> None:
        self._move(Move.APPROVE, number)
        self._store()

    def _reject(self, cmd: Reject) -> None:
        if cmd.deferred and not self.has_residual:
            raise LocalError("this averaging mode keeps no residual: what is not sent now is lost; reject it for good")
        self._abandon(Move.REJECT, cmd.number, cmd.reason, rejected=True, deferred=cmd.deferred)

    def _store(self) -> None:
        assert self._result is not None, "what is stored was trained"
        self._store_round(self._result)

    def _refuse(self, reason: str) -> None:
        """What was trained cannot be stored."""
        assert self._number is not None, "a round is open"
        self._abandon(Move.REFUSE, self._number, reason)

    def _commit(self) -> None:
        """The round is durable."""
        number = self._number
        assert number is not None, "a round is open"
        self._move(Move.COMMIT, number)
        self._outbox.append(Emit(RoundCommitted(number)))

    def _abandon(self, move: Move, number: int, reason: str, *, rejected: bool = False, deferred: bool = False) -> None:
        self._move(move, number)
        self._outbox.append(Emit(RoundAbandoned(number, reason, rejected, deferred)))

    def _move(self, move: Move, number: int) -> None:
        """Raises LocalError where that is not possible for that round now."""
        if move is Move.OPEN:
            self._number = number
        self._require(move, number)
        self._state = TRANSITIONS[move][1]
        if self._state is RoundState.IDLE:
            self._number = self._result = None

    def _require(self, move: Move, number: int) -> None:
        needed = TRANSITIONS[move][0]
        if self._state is not needed or number != self._number:
            present = "none is open" if self._number is None else f"round {self._number} is {self._state.value}"
            raise LocalError(f"round {number} is not {needed.value}: {present}")

    # ---- phase and pace -----------------------------------------------------------------------------------------

    def _enter(self, phase: Phase, reason: str) -> None:
        """Go to another phase; the only way back from listening is `_maybe_go_on`."""
        if self._phase not in (Phase.LISTENING, phase):
            self._change(phase, reason)

    def _change(self, phase: Phase, reason: str) -> None:
        self._phase = phase
        self._outbox.append(Emit(PhaseChanged(phase, reason)))
        self._phase_changed()

    def _unready(self, reason: str) -> None:
        """Nobody's pace may depend on a site that cannot train."""
        self._ready = False
        self._enter(Phase.PREPARING, reason)
