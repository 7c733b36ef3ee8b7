"""Averaging mode `pushsum`: every site holds its own trunk, a quotient of sum and mass, and moves shares of both.

A round trains from the site's trunk, adds the drift, and sends one share to one other site. Nothing waits for a named
site: a share whose receiver is out of reach waits for it aside, and the next one goes elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Computed, Emit, Event, Message, Persisted, Send, StoodStill
from kmel_p2p.core.membership.events import MemberBack, MemberJoined, MemberLeft, MemberRemoved, MemberUnreachable
from kmel_p2p.core.pushsum.coding import Coding
from kmel_p2p.core.pushsum.events import PushSumRefused, RoundCounted
from kmel_p2p.core.pushsum.journal import Journal
from kmel_p2p.core.pushsum.messages import Inquiry, MassTransfer, ProgressReport, Receipt, ShareRequest, Statements
from kmel_p2p.core.pushsum.mixing import Mixing
from kmel_p2p.core.pushsum.progress import ProgressTable, Told
from kmel_p2p.core.pushsum.rules import PushSumRules, PushSumSettings, credible_weight, size_weight
from kmel_p2p.core.pushsum.share import payload_bytes
from kmel_p2p.core.pushsum.state import Minted, Moved, PushSumState
from kmel_p2p.core.pushsum.statements import Statement, StatementExchange, StatementTable
from kmel_p2p.core.pushsum.transfers import Transfers
from kmel_p2p.core.rounds.contract import Amend, Members, Phase, RoundTrained, size_class
from kmel_p2p.core.rounds.machine import HEARING, RoundMachine
from kmel_p2p.core.rounds.settings import RoundSettings
from kmel_p2p.core.rounds.states import End, RoundState, Wait
from kmel_p2p.core.types import Micros, Randomness


class PushSumAveraging(RoundMachine):
    """See the module docstring. Implements `rounds.Averaging`.

    Args:
        state: fresh, or restored from the store; altered in place.
        generation: the site's persisted count of starts.
    """

    messages: tuple[type[Message], ...] = (Statements, ProgressReport, MassTransfer, Inquiry, Receipt, ShareRequest)
    has_residual = False

    def __init__(
        self,
        identity: Identity,
        rules: PushSumRules,
        members: Members,
        rng: Randomness,
        settings: PushSumSettings,
        state: PushSumState,
        generation: int,
        now: Micros,
    ) -> None:
        super().__init__(identity.key, members, _round_settings(rules, settings), now)
        self.state = state
        self._rules = rules
        self._resting = False
        self._stated = (self.phase, self._resting, state.offset, state.weight, state.life)
        self._journal = Journal(state, self._outbox)
        self._coding = Coding(self._outbox, len(state.holding), settings.at_once)
        self.table = StatementTable(self._key, rules.charter_id, rules.roster, rules.averaging.entry_limit)
        self.progress = ProgressTable(self._key, self.table, members.alive, rules.averaging.entry_limit)
        about = (identity, rules.charter_id, self.table, self._describe, generation)
        self._exchange = StatementExchange(*about, members.alive, self._outbox, rng, settings.interval_us, now)
        coded = (self._journal, self._coding, self.table, self._is_alive, self._outbox, rng)
        self._transfers = Transfers(*coded, settings.transfers, rules.averaging.age_limit, now)
        self._transfers.trains = lambda: self.phase is Phase.TRAINING
        self._transfers.on_work = self._on_work
        self._transfers.credible = self._credible
        self._generations: dict[SiteKey, int] = {}
        self._mixing = Mixing(
            state, rules, settings, members, self.table, self.progress, self._transfers, self._weight, rng
        )

    @property
    def vector(self) -> Mapping[SiteKey, int]:
        """Rounds trained, by site, as far as known. Says who worked, not what is mixed in here."""
        own = {self._key: self.state.rounds} if self.state.rounds else {}
        return {**self.progress.rounds(), **own}

    @property
    def revision(self) -> object:
        """Counts what happened to the trunk since the start."""
        return self.state.holding.revision

    def digest_work(self) -> Callable[[], bytes]:
        """Work for another thread: digest of this site's mass and sum. Other sites' differ: close is not equal."""
        return self.state.holding.digest_work(self._rules.charter_id)

    @property
    def reached(self) -> int:
        """The round the federation has reached, as far as reachable sites tell."""
        return self._mixing.reached()

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """This site's trunk, float32[d]."""
        return self.state.holding.trunk(out)

    # ---- inputs -------------------------------------------------------------------------------------------------

    def _on_message(self, sender: SiteKey, message: Message, now: Micros) -> None:
        try:
            match message:
                case Statements():
                    for statement in self._exchange.on_statements(sender, message):
                        self._note(statement, now)
                case ProgressReport():
                    self.progress.take(sender, Told(message.rounds, message.step_us))
                case MassTransfer():
                    self._transfers.on_transfer(sender, message, self._mixing.reached())
                case Inquiry():
                    self._transfers.on_inquiry(sender, message)
                case Receipt():
                    self._transfers.on_receipt(sender, message)
                case ShareRequest():
                    self._mixing.on_share_request(sender, now)
        except WireError as error:
            self._outbox.append(Emit(PushSumRefused(sender, str(error))))

    def _on_command(self, cmd: Any, now: Micros) -> None:
        match cmd:
            case Amend():
                raise LocalError(
                    "in pushsum mode amendments are not carried between sites: draft a new charter with the sites of "
                    "the next run and have it signed"
                )
            case Computed():
                self._coding.computed(cmd.ticket, cmd.result)
            case Persisted():
                self._journal.persisted(cmd.ticket, now)
            case StoodStill():
                self._transfers.hear_anew(now)

    def member_event(self, event: Event, now: Micros) -> None:
        """Membership's verdict on a site changed."""
        self._pause.note(event)
        match event:
            case MemberJoined(key=key) | MemberBack(key=key):
                self._exchange.forget(key)
                self._transfers.is_back(key, now)
                if key in self.progress.watchers():
                    self._exchange.greet(key)
                    self._tell_progress([key])
            case MemberUnreachable(key=key) | MemberLeft(key=key):
                self.progress.forget(key)
            case MemberRemoved(key=key):
                self._transfers.is_retired(key)
                self.table.remove(key)
                self.progress.forget(key)
        self._turn(now)

    def _on_time(self, now: Micros) -> None:
        self._exchange.advance(now)
        self._transfers.advance(now)

    def _deadlines_us(self) -> Iterable[Micros | None]:
        return self._exchange.deadline(), self._transfers.deadline(), self._mixing.deadline(self.phase)

    def _before_round(self, now: Micros) -> None:
        """Nothing to do."""

    def _after_round(self, now: Micros) -> None:
        self._mixing.without = self._ending.given_up()
        newer = self._mixing.ask_if_old(self.phase, now)
        if newer is not None:
            self._outbox.append(Send(newer, ShareRequest()))
        self._mixing.wind_down(self.phase, now)
        self._resting = self._mixing.resting
        state, weight = self.state, self.state.weight or self._stated[3]
        stated = (self.phase, self._resting, state.offset, weight, state.life)
        if stated != self._stated:
            self._stated = (*stated[:3], self._weight(), state.life)
            self._exchange.announce()

    def _phase_changed(self) -> None:
        self._tell_progress(self.progress.watchers())

    # ---- a round ------------------------------------------------------------------------------------------------

    def _begin_round(self) -> tuple[int, float]:
        return self.state.rounds + 1, math.inf

    def _step_times_us(self) -> Iterable[Micros]:
        return self.progress.step_times_us()

    def _check_trained(self, result: RoundTrained) -> int:
        size = len(self.state.holding)
        if len(result.payload) != 4 * size:
            raise LocalError(f"the drift has {len(result.payload)} bytes; float32[{size}] is needed")
        return payload_bytes(size, self._rules.bits)

    def _store_round(self, result: RoundTrained) -> None:
        """The round counts from when it is durable; only then a share leaves."""
        drift = np.frombuffer(result.payload, "<f4").astype(np.float32, copy=False)

        def work() -> Moved | LocalError:
            try:
                return self.state.moved(drift, self._rules.averaging.momentum, self._rules.averaging.outer_step)
            except LocalError as error:
                return error

        self._coding.run(lambda: work, lambda moved: self._count_round(result, moved))

    def _count_round(self, result: RoundTrained, moved: Moved | LocalError) -> None:
        if isinstance(moved, LocalError):
            # The same training would end the same way: the driver decides when this site is ready again.
            self._refuse(str(moved))
            self._unready(str(moved))
            return
        self.state.count(moved)
        self._journal.checkpoint(result.own_state_file, moved.copy, lambda now: self._round_stored(result.number))

    def _round_stored(self, number: int) -> None:
        self._commit()
        self._outbox.append(Emit(RoundCounted(number, self.state.holding.mass)))
        self._mixing.send_one(self._rules.bits)
        self._tell_progress(self.progress.watchers())

    # ---- when the next round may open ---------------------------------------------------------------------------

    def _obstacle(self, now: Micros) -> Wait | End | None:
        wait = self._why_wait(now)
        if wait is not None:
            return wait
        if self._coding.is_busy:
            # What is being coded goes on before the round does: the round is to start from it.
            return Wait("")
        if not self.state.weight:
            self._journal.change(Minted(self._weight()))
        return self._limit(self.state.level) or self._plateau()

    def _why_wait(self, now: Micros) -> Wait | None:
        alive = self._members.alive()
        told = self.table.among(alive)
        if self._pacing.is_settling and (len(told) < len(alive) or self.progress.is_unheard()):
            silent = set(alive) - {statement.site for statement in told}
            return Wait(HEARING, tuple(sorted(silent)), self._pacing.settled_at_us)
        if self._mixing.is_old():
            newer = tuple(self.progress.at_least(self._mixing.reached()))
            return Wait("this site's trunk is too old to train from; fetching a newer one from the others", newer)
        training = [statement.site for statement in told if statement.phase == Phase.TRAINING]
        willing = self._rules.roster.difference(s.site for s in told if s.phase == Phase.LISTENING)
        start = None if self.vector else self._start(training, willing)
        if start or self._limit(self.state.level) or self._plateau():
            return start
        levels = self.progress.training_levels(self._mixing.reached() - self._rules.averaging.age_limit)
        return self._too_far_ahead(levels, self.state.level, now)

    # ---- the end of the run -------------------------------------------------------------------------------------

    def _final_state(self) -> object:
        """The same whatever comes in afterwards: the end is told once."""
        return "rest" if self._resting and self._state is RoundState.IDLE and self._mixing.all_rest() else None

    def _rounds_published(self) -> Mapping[SiteKey, int]:
        return self.progress.rounds() if self.phase is Phase.LISTENING else {}

    def _behind(self) -> dict[SiteKey, int]:
        restless = self._mixing.restless()
        rounds = self.progress.rounds() if restless else {}
        return {key: rounds.get(key, 0) for key in restless}

    def _run_completed(self) -> None:
        """Nothing to do."""

    # ---- inner --------------------------------------------------------------------------------------------------

    def _note(self, statement: Statement, now: Micros) -> None:
        """A site stated something new."""
        self._transfers.check_life(statement)
        self.progress.note(statement)
        # A share of early work that it missed while it was down would otherwise come after the last ones, to it alone.
        if statement.generation > self._generations.get(statement.site, statement.generation):
            self._transfers.is_back(statement.site, now)
        self._generations[statement.site] = statement.generation

    def _on_work(self, sender: SiteKey) -> None:
        if self.phase is Phase.LISTENING:
            self._mixing.answer(sender)

    def _tell_progress(self, sites: list[SiteKey]) -> None:
        told = ProgressReport(self.state.rounds, self._pacing.step_us)
        self._outbox.extend(Send(key, told) for key in sites)

    def _describe(self, generation: int, counter: int) -> Statement:
        return Statement(
            site=self._key,
            generation=generation,
            counter=counter,
            life=self.state.life,
            weight=self._weight(),
            rounds=self.state.rounds,
            offset=self.state.offset,
            phase=int(self.phase),
            resting=self._resting,
        )

    def _weight(self) -> int:
        """Starting mass: as minted, or as it would be minted now."""
        if self.state.weight:
            return self.state.weight
        members = self._members
        others = [c for c in (size_class(members, key) for key in members.alive()) if c]
        return size_weight(size_class(members, self._key), others, self._rules.averaging.weight_cap)

    def _credible(self, statement: Statement) -> int:
        """How much of the weight that a site states counts beside what the others state."""
        others = [other.weight for other in self.table if other.site != statement.site]
        sites, cap = len(self._rules.roster), self._rules.averaging.weight_cap
        return credible_weight(statement.weight, [*others, self._weight()], sites, cap)

    def _is_alive(self, key: SiteKey) -> bool:
        return key in self._members.alive()


def _round_settings(rules: PushSumRules, settings: PushSumSettings) -> RoundSettings:
    return RoundSettings(
        entry_limit=rules.averaging.entry_limit,
        steps_per_entry=rules.averaging.steps_per_entry,
        start_sites=rules.start_sites,
        max_lead=rules.pace.max_lead,
        patience=rules.pace.patience,
        hold=settings.hold,
        settle_us=settings.settle_us,
        stuck_after_us=settings.stuck_after_us,
        unit="rounds",
    )
