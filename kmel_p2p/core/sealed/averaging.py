"""Averaging mode `sealed`: each round a group opens the sum of its levels, and the sum moves everybody's trunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.averaging import quorum_of
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Emit, Event, Message, Persist, Persisted, Record
from kmel_p2p.core.membership.events import MemberBack, MemberJoined, MemberLeft, MemberRemoved, MemberUnreachable
from kmel_p2p.core.rounds.contract import Amend, CurrentWait, Members, Phase, RoundTrained, size_class
from kmel_p2p.core.rounds.machine import HEARING, RoundMachine
from kmel_p2p.core.rounds.states import End, Move, RoundState, Wait
from kmel_p2p.core.sealed.catching_up import Certificates
from kmel_p2p.core.sealed.conversation import Conversation
from kmel_p2p.core.sealed.events import (
    AccusationRecord,
    CandidateRecord,
    GroupOpened,
    OwnStateRecord,
    ResidualDropped,
    RoundVoid,
    SealRefused,
    SiteAccused,
    SumAdded,
    SumRecord,
    VectorSealed,
)
from kmel_p2p.core.sealed.levels import made_levels, quantise, share_of
from kmel_p2p.core.sealed.messages import MESSAGES, SCHEMAS, Sealed, SealSum, Statement, signed
from kmel_p2p.core.sealed.own_part import SealedState
from kmel_p2p.core.sealed.present import Entropy, Present
from kmel_p2p.core.sealed.progress import awaited, progress
from kmel_p2p.core.sealed.rules import SealedRules, SealedSettings
from kmel_p2p.core.sealed.spoilers import Spoilers
from kmel_p2p.core.sealed.stages import Stage
from kmel_p2p.core.sealed.sums import SumEntry, SumLog
from kmel_p2p.core.types import Micros, Randomness
from kmel_p2p.core.wire import Wire


class SealedAveraging(RoundMachine):
    """See the module docstring. Implements `rounds.Averaging`.

    Args:
        log: the sums in the store; altered in place.
        own: this site's part in the present round, as stored.
        residual: what this site has not sent yet, float32[d].
        candidate: what is left of it if its present vector counts, float32[d]; None: there is none.
        entropy: for secrets; nothing of them comes from `rng`.
    """

    messages: tuple[type[Message], ...] = MESSAGES
    has_residual = False
    """That of the trainer: what is deferred here would be lost."""

    def __init__(
        self,
        identity: Identity,
        rules: SealedRules,
        members: Members,
        rng: Randomness,
        settings: SealedSettings,
        log: SumLog,
        own: SealedState,
        residual: NDArray[np.float32],
        candidate: NDArray[np.float32] | None,
        entropy: Entropy,
        now: Micros,
    ) -> None:
        super().__init__(identity.key, members, rules.rounds(settings), now)
        self.log = log
        self._identity, self._rules, self._settings, self._entropy = identity, rules, settings, entropy
        self._residual, self._candidate = residual, candidate
        self._wire = Wire(rules.charter_id, SCHEMAS)
        self._tickets: dict[int, Callable[[Micros], None]] = {}
        self._ticket = 0
        self._wants_key = False
        self._sealed_us = now
        """When this site's vector was last stored."""
        self._trains_for = 0
        """Sealed round that the trainer's open round belongs to."""
        self.certificates = Certificates(len(rules.roster) - quorum_of(len(rules.roster)))
        self.spoilers = Spoilers()
        own.sealed = max(own.sealed, log.number)
        self.present = self._make_present(own)
        self._talk = Conversation(self, members, rules, settings, rng, self._outbox, now)

    def _make_present(self, own: SealedState) -> Present:
        present = Present(self._identity, self._rules, self._settings, self.log, own, self._entropy)
        present.doubt(self.spoilers.left_out(int.from_bytes(self._entropy(8), "big")), self.spoilers.sole)
        return present

    @property
    def vector(self) -> Mapping[SiteKey, int]:
        """The lane and its sums."""
        return {self.log.lane: self.log.number} if self.log.number else {}

    @property
    def revision(self) -> object:
        """Names the sums."""
        return self.log.chain

    def digest_work(self) -> Callable[[], bytes]:
        """Work for another thread: digest of sums and trunk; equal at sites with equal sums."""
        return self.log.digest_work()

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The trunk, float32[d]."""
        return self.log.trunk(out)

    @property
    def charged(self) -> int:
        """Steps that count against the privacy budget: vectors sealed, or every sum where that is more; every round of
        before for a store that was lost or set back."""
        return self.present.own.sealed

    @property
    def committed(self) -> int:
        """Own vectors that are in a sum."""
        return self.present.own.committed

    # ---- inputs -------------------------------------------------------------------------------------------------

    def _on_message(self, sender: SiteKey, message: Message, now: Micros) -> None:
        refused = self._talk.receive(sender, message, now)
        if refused:
            self._outbox.append(Emit(SealRefused(sender, refused)))

    def _on_command(self, cmd: Any, now: Micros) -> None:
        match cmd:
            case Amend():
                raise LocalError(
                    "in sealed mode amendments are not carried between sites: draft a new charter with the sites of "
                    "the next run and have it signed"
                )
            case Persisted(ticket) if ticket in self._tickets:
                self._tickets.pop(ticket)(now)

    def member_event(self, event: Event, now: Micros) -> None:
        """Membership's verdict on a site changed."""
        self._pause.note(event)
        match event:
            case MemberJoined(key=key) | MemberBack(key=key):
                self._ending.came_back(key)
                self._talk.greet(key)
            case MemberUnreachable(key=key) | MemberLeft(key=key):
                self._talk.forget(key)
            case MemberRemoved(key=key):
                self._ending.came_back(key)
                self._talk.forget(key)
        self._turn(now)

    def _on_time(self, now: Micros) -> None:
        self._talk.advance(now)

    def _deadlines_us(self) -> Iterable[Micros | None]:
        return self._talk.deadline(), None if self._tickets else self.present.deadline()

    def _before_round(self, now: Micros) -> None:
        """Say and end what can be, one durable step at a time."""
        for _ in range(len(self._rules.roster) + 4):
            if self._tickets:
                break
            if self._catch_up(now):
                continue
            outcome = self.present.outcome()
            if outcome is not None:
                if outcome.spoiled:
                    self._outbox.append(Emit(self.spoilers.spoiled(self.present.at.number, outcome.spoiled)))
                self._finish(outcome.entries, self.present.at.number, outcome.reason)
                continue
            opened = self.present.at.group
            statement = self.present.next_statement(self._here(), self._expected(), now)
            group = self.present.at.group
            if group is not None and group is not opened:
                self._outbox.append(Emit(GroupOpened(self.present.at.number, group.sites)))
            if statement is None:
                break
            self._publish(statement)
        self._tell_faults()

    def _after_round(self, now: Micros) -> None:
        may = self._wants_key and not self._tickets and not self.present.own.secret
        if may and self._phase is Phase.TRAINING and self.present.stage is Stage.IDLE:
            self._publish(self.present.make_key())
        self._wants_key = False

    def _phase_changed(self) -> None:
        self._talk.tell_soon()

    # ---- a round ------------------------------------------------------------------------------------------------

    def _begin_round(self) -> tuple[int, float]:
        self.present.train()
        self._trains_for = self.present.at.number
        return self.present.own.committed + 1, math.inf

    def _step_times_us(self) -> Iterable[Micros]:
        return ()

    def _check_trained(self, result: RoundTrained) -> int:
        size = len(self.log)
        if len(result.payload) != 4 * size:
            raise LocalError(f"the drift has {len(result.payload)} bytes; float32[{size}] is needed")
        return self.log.count

    def _store_round(self, result: RoundTrained) -> None:
        """Sealed and stored, and only then sent. It counts when the round's sum does."""
        present = self.present
        if self._trains_for != present.at.number or not present.may_seal:
            self._refuse("the sealed round ended without this site's vector")
            return
        trained = np.frombuffer(result.payload, "<f4").astype(np.float32)
        try:
            if self._rules.budget:
                q, left = made_levels(trained, self.log.levels), np.zeros_like(trained)
            else:
                residual = self._residual + np.float32(self._weight()) * trained
                places = self.log.positions(present.at.number)
                q, left = quantise(residual, places, self.log.exponent, self.log.levels)
        except LocalError as error:
            self._refuse(str(error))
            self._unready(str(error))
            return
        self._candidate = left
        self._outbox.append(Persist(CandidateRecord(left.tobytes())))
        # Charged in the transaction that stores the vector, before anything of it leaves.
        present.own.sealed += 1
        self._publish(present.seal(q, result.own_state_file))

    def _weight(self) -> float:
        group = self.present.at.group
        others = [site for site in group.sites if site != self._key] if group is not None else []
        sizes = [2 ** size_class(self._members, site) for site in (self._key, *others)]
        return share_of(sizes[0], sizes[1:], self._rules.weight_cap)

    def _publish(self, statement: Statement) -> None:
        """Store what this site says, and say it then."""
        present = self.present
        present.own.said.append(statement)

        def say(now: Micros) -> None:
            if self.present is present:
                present.said(statement)
                self._sealed_us = now if isinstance(statement, Sealed) else self._sealed_us
                self._talk.broadcast(statement)
                if isinstance(statement, Sealed):
                    shares = len(statement.shares) + len(statement.commitments) + len(statement.pair_commitments)
                    self._outbox.append(Emit(VectorSealed(statement.round, len(statement.payload), shares)))

        self._persist(OwnStateRecord(present.own.encode(self._rules.charter_id)), say)

    def _persist(self, record: Record, then: Callable[[Micros], None]) -> None:
        self._ticket += 1
        self._tickets[self._ticket] = then
        self._outbox.append(Persist(record, self._ticket))

    # ---- the end of a round -------------------------------------------------------------------------------------

    def _catch_up(self, now: Micros) -> bool:
        """Go on from what enough other sites say; whether that changed something."""
        agreed = self.certificates.newest(self.present.at.number)
        if agreed is None or agreed.number < self.log.number:
            return False
        if agreed.number == self.log.number:
            if agreed.chain != self.log.chain:
                return False
            self._finish([], agreed.round, "the other sites ended it without a sum")
            return True
        fetched = self._talk.fetched(agreed, now)
        if fetched:
            self._finish(list(fetched), agreed.round, "")
        return bool(fetched)

    def _finish(self, entries: list[SumEntry], last: int, reason: str) -> None:
        """Sums are known, or that there is none: the rounds up to `last` are over."""
        own, sealed_in = self.present.own, self.present.at.number
        place = self._rules.roster.index(self._key)
        mine = any(entry.round == sealed_in and own.self_seed and entry.sites >> place & 1 for entry in entries)
        void = all(entry.round != sealed_in for entry in entries)
        over = mine or (void and self.present.spent)
        # Whether this site's levels are gone from the residual: in a sum, or opened for nothing.
        state = own.after(last, over)
        # With vectors of this site that its store has not: it was set back, and may hold what is in these sums.
        set_back = any(entry.sites >> place & 1 and not (mine and entry.round == sealed_in) for entry in entries)
        for entry in entries:
            self.log.add(entry)
            self.spoilers.added(entry.authors(self._rules.roster))
        # What such a site sealed in void rounds nobody can tell: under differential privacy, all of them are charged.
        state.sealed = max(state.sealed, last if set_back else self.log.number)
        state.last_sum = signed(
            self._identity, self._rules.charter_id, SealSum(self._key, last, self.log.number, self.log.chain)
        )
        encoded = state.encode(self._rules.charter_id)
        if set_back:
            self._drop_residual()
        elif over and self._candidate is not None:
            self._residual = self._candidate
        self._candidate = None
        file = own.state_file if over else None
        if set_back or (over and void and entries):
            self._outbox.append(Persist(OwnStateRecord(encoded, file, adopt=True, over=True)))
        for entry in entries:
            is_own = mine and entry.round == sealed_in
            record = SumRecord(self.log.lane, entry.number, entry.encode(), file if is_own else None, is_own, encoded)
            self._outbox.append(Emit(SumAdded(entry.number, entry.round, entry.count, is_own)))
            if entry is not entries[-1]:
                self._outbox.append(Persist(record))
            else:
                self._persist(record, lambda now: self._outcome_stored(over, reason))
        if not entries:
            self._outbox.append(Emit(RoundVoid(last, reason, self.present.missing(), over)))
            ended = OwnStateRecord(encoded, file, adopt=over, over=True)
            self._persist(ended, lambda now: self._outcome_stored(over, reason))
        self._tell_faults()
        self.present.end(bool(entries))
        self._talk.round_over(self.present.at)
        self.present = self._make_present(state)

    def _drop_residual(self) -> None:
        """What it holds may be in a sum already: sent again, it would count twice, and two sums would have it."""
        if self._residual.any():
            self._outbox.append(Emit(ResidualDropped()))
        self._residual = np.zeros_like(self._residual)
        self._outbox.append(Persist(CandidateRecord(self._residual.tobytes())))

    def _outcome_stored(self, over: bool, reason: str) -> None:
        """The outcome is durable: the trainer keeps its round, or goes back to before it."""
        if self.present.own.last_sum is not None:
            self._talk.broadcast(self.present.own.last_sum)
        self._talk.take_early()
        if self._number is None or self._trains_for >= self.present.at.number:
            return
        why = reason or "the sealed round ended without this site's vector"
        if self._state is RoundState.STORING and over:
            self._commit()
        elif self._state is RoundState.STORING:
            self._refuse(why)
        elif self._state is RoundState.HELD:
            self._abandon(Move.REJECT, self._number, why)

    def _tell_faults(self) -> None:
        for at in filter(None, (self.present.at, self._talk.before)):
            for fault in at.faults.take():
                said = tuple(self._wire.encode(each) for each in fault.statements)
                self._outbox.append(Emit(SiteAccused(fault.site, at.number, fault.reason)))
                self._outbox.append(Persist(AccusationRecord(fault.site, at.number, fault.reason, said)))

    # ---- when the next round may open ---------------------------------------------------------------------------

    def _obstacle(self, now: Micros) -> Wait | End | None:
        limit = self._limit(self.log.number) or self._plateau()
        if limit is not None:
            return limit
        if self._rules.budget and self.charged >= self._rules.budget:
            return End("its privacy budget is spent", may_go_on=False)
        training, listening = self._talk.in_phase(Phase.TRAINING), self._talk.in_phase(Phase.LISTENING)
        if len(self._rules.roster) - len(listening) < self._rules.min_group:
            return End(f"fewer than {self._rules.min_group} sites still train")
        alive = self._members.alive()
        silent = tuple(sorted(set(alive) - self._talk.heard()))
        if self._pacing.is_settling and silent:
            return Wait(HEARING, silent, self._pacing.settled_at_us)
        start = None if self.log.number else self._start(training, self._rules.roster)
        if start is not None:
            return start
        self._wants_key = True
        if self.present.may_train:
            return None
        return Wait(self.progress, awaited(self.present.at, self._key, self._here()), kind="sealed")

    @property
    def progress(self) -> str:
        """Where the present round is, in words for the operator."""
        return progress(self.present.at, self.present.stage, self._rules.least_members)

    @property
    def waits(self) -> tuple[CurrentWait, ...]:
        """As in every mode; and for the outcome of the round that this site has sealed for."""
        if self._state is not RoundState.STORING:
            return super().waits
        sites = awaited(self.present.at, self._key, self._here())
        return CurrentWait(self.progress, sites, self._sealed_us, None), *super().waits

    def _here(self) -> set[SiteKey]:
        return {self._key, *self._members.alive()} & set(self._rules.roster)

    def _expected(self) -> set[SiteKey]:
        """Reachable sites that may say that they are ready for this round."""
        return (self._here() - {self._key}) & set(self._talk.in_phase(Phase.TRAINING))

    # ---- the end of the run -------------------------------------------------------------------------------------

    def _final_state(self) -> object:
        done = self._phase is Phase.LISTENING and self._state is RoundState.IDLE and not self._tickets
        return self.log.chain if done and not set(self._behind()) - self._ending.given_up() else None

    def _rounds_published(self) -> Mapping[SiteKey, int]:
        return self._talk.numbers()

    def _behind(self) -> dict[SiteKey, int]:
        numbers, training = self._talk.numbers(), self._talk.in_phase(Phase.TRAINING)
        return {
            site: numbers.get(site, 0)
            for site in self._members.alive()
            if site not in numbers or site in training or numbers[site] < self.log.number
        }

    def _run_completed(self) -> None:
        """Nothing to do."""
