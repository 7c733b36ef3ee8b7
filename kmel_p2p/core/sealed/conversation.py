"""What a site says and answers about sealed rounds: at once where it can, and again to whoever lacks it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message, Send
from kmel_p2p.core.rounds.contract import Members, Phase
from kmel_p2p.core.sealed import exchange
from kmel_p2p.core.sealed.asking import (
    LEAST_RUN_BYTES,
    ROUND_PERIOD_US,
    RUN_PERIOD_US,
    STATEMENTS_BYTES,
    WHOLE_ROUNDS,
    WHOLE_RUNS,
    AnswerAllowance,
    Questions,
)
from kmel_p2p.core.sealed.catching_up import Certificates, continued
from kmel_p2p.core.sealed.events import SealRefused
from kmel_p2p.core.sealed.faults import NotYet
from kmel_p2p.core.sealed.messages import (
    MAX_PAST,
    SCHEMAS,
    SealClose,
    Sealed,
    SealHave,
    SealKey,
    SealLoose,
    SealOpen,
    SealPast,
    SealReveal,
    SealSum,
    SealWant,
    Statement,
    is_signed,
)
from kmel_p2p.core.sealed.present import Present
from kmel_p2p.core.sealed.rules import SealedRules, SealedSettings
from kmel_p2p.core.sealed.sealed_round import Said, SealedRound
from kmel_p2p.core.sealed.sums import SumEntry, SumLog
from kmel_p2p.core.types import SECOND, Lane, Micros, Randomness
from kmel_p2p.core.wire import Wire

ANSWER_AGAIN_US: Micros = SECOND // 5
"""A site that asks more often is not answered each time."""
PAST_BYTES = 1024 * 1024
"""Of sums in one answer, about."""


class Speaker(Protocol):
    """The state machine that this speaks for."""

    present: Present
    log: SumLog
    certificates: Certificates

    @property
    def phase(self) -> Phase: ...


class Conversation:
    """See the module docstring.

    Args:
        site: whose it is.
        members: who is reachable.
        outbox: takes effects.
    """

    def __init__(
        self,
        site: Speaker,
        members: Members,
        rules: SealedRules,
        settings: SealedSettings,
        rng: Randomness,
        outbox: deque[Effect],
        now: Micros,
    ) -> None:
        self._site, self._members, self._rules, self._settings, self._rng = site, members, rules, settings, rng
        self._outbox = outbox
        self._told: dict[SiteKey, SealHave] = {}
        self._tell_us: Micros = now
        self._wire = Wire(rules.charter_id, SCHEMAS)
        self._questions = Questions()
        self._answered: dict[tuple[SiteKey, bytes], Micros] = {}
        self.of_round, self.of_run = (
            AnswerAllowance(WHOLE_ROUNDS, ROUND_PERIOD_US),
            AnswerAllowance(WHOLE_RUNS, RUN_PERIOD_US),
        )
        """What others may ask this site for: statements and vectors; sums."""
        self.before: SealedRound | None = None
        """The round before: sites that are still in it may need what is in it."""
        self._early: deque[tuple[SiteKey, Said]] = deque(maxlen=8 * len(rules.roster))
        self._past: list[bytes] = []
        """Sums above those that this site holds, in order, as one site gave them."""
        self._past_to = 0
        """Number of the last one that is asked for."""
        self._giver: SiteKey | None = None
        self._unfit: set[SiteKey] = set()
        """Sites that gave sums which do not stand."""

    # ---- speaking -----------------------------------------------------------------------------------------------

    def broadcast(self, statement: Statement) -> None:
        """Tell every reachable site."""
        lane = Lane.BULK if isinstance(statement, Sealed) else Lane.CONTROL
        self._outbox.extend(Send(site, statement, lane) for site in self._alive())

    def greet(self, site: SiteKey) -> None:
        """A site is reachable."""
        self._outbox.append(Send(site, self._have()))

    def tell_soon(self) -> None:
        """What this site would say has changed."""
        self._outbox.extend(Send(site, self._have()) for site in self._alive())

    def forget(self, site: SiteKey) -> None:
        """A site is out of reach: what it said of itself may not be so any more."""
        self._told.pop(site, None)

    def advance(self, now: Micros) -> None:
        """Time passed."""
        if now >= self._tell_us:
            self.tell_soon()
            at = self._site.present.at
            pause_us = self._settings.tell_us if at.keys or at.closes else self._settings.rest_us
            self._tell_us = now + pause_us * 3 // 4 + self._rng.randrange(max(1, pause_us // 2))

    def deadline(self) -> Micros:
        """When it speaks next."""
        return self._tell_us

    def round_over(self, at: SealedRound) -> None:
        """That round is over here."""
        self.before = at
        self.of_round.round_over()
        self._questions.forget()
        self._past.clear()

    def take_early(self) -> None:
        """Take what sites said of this round while this one was in the round before."""
        early = list(self._early)
        self._early.clear()
        for _, said in early:
            try:
                self._site.present.take(said)
            except WireError:
                continue

    # ---- who is where -------------------------------------------------------------------------------------------

    def heard(self) -> set[SiteKey]:
        """Sites that said where they are."""
        return set(self._told)

    def in_phase(self, phase: Phase) -> list[SiteKey]:
        """Reachable sites in that phase, as they say."""
        return sorted(site for site, told in self._told.items() if told.phase == phase)

    def numbers(self) -> dict[SiteKey, int]:
        """Sums that reachable sites hold, as they say."""
        return {site: told.number for site, told in self._told.items()}

    # ---- listening ----------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> str:
        """Take a message; why it does not stand, in words, or nothing."""
        try:
            match message:
                case SealKey() | SealOpen() | Sealed() | SealClose() | SealLoose() | SealReveal():
                    self._on_said(sender, message)
                case SealSum():
                    self._on_sum(message)
                case SealHave():
                    self._on_have(sender, message, now)
                case SealWant():
                    self._on_want(sender, message, now)
                case SealPast():
                    self._on_past(sender, message)
        except WireError as error:
            return str(error)
        return ""

    def fetched(self, agreed: SealSum, now: Micros) -> Sequence[SumEntry]:
        """Sums up to what was agreed on, which lead to it; empty: asked for."""
        number = self._site.log.number
        if len(self._past) >= agreed.number - number:
            past, self._past = self._past, []
            try:
                return continued(self._site.log, past, agreed)
            except WireError as error:
                if self._giver is not None:
                    self._outbox.append(Emit(SealRefused(self._giver, str(error))))
                    self._unfit.add(self._giver)
        if self._questions.may_ask(b"", now):
            holders = [site for site in self._site.certificates.holders(agreed) if site in self._alive()]
            fit = [site for site in holders if site not in self._unfit] or holders
            if fit:
                # Of one giver alone: sums of two do not mix.
                if self._giver not in fit or self._questions.is_open(b""):
                    others = [site for site in fit if site != self._giver]
                    self._giver, self._past = self._rng.choice(others or fit), []
                self._questions.ask(b"", now)
                self._past_to = agreed.number
                first = number + 1 + len(self._past)
                self._outbox.append(Send(self._giver, SealWant(self._site.present.at.number, b"", first)))
        return ()

    def _on_said(self, sender: SiteKey, said: Said) -> None:
        number = self._site.present.at.number
        if said.round == number:
            self._site.present.take(said)
        elif self.before is not None and said.round == self.before.number:
            with contextlib.suppress(NotYet):
                self.before.take(said)
        elif said.round == number + 1 and not isinstance(said, Sealed):
            self._early.append((sender, said))

    def _on_sum(self, said: SealSum) -> None:
        if said.author not in self._rules.roster:
            raise WireError("a statement of a site outside the roster")
        if said.round >= self._site.present.at.number:
            if not is_signed(self._rules.charter_id, said):
                raise WireError("a SealSum without its author's signature")
            self._site.certificates.take(said)

    def _on_have(self, sender: SiteKey, told: SealHave, now: Micros) -> None:
        first = sender not in self._told
        self._told[sender] = told
        if first:
            self._outbox.append(Send(sender, self._have()))
        present = self._site.present
        number, last_sum = present.at.number, present.own.last_sum
        if told.round < number and last_sum is not None and self._may_answer(sender, b"sum", now):
            self._give(sender, [last_sum], now)
            if self.before is not None and told.round == self.before.number:
                self._give(sender, exchange.lacking(self.before, told), now)
        if told.round == number and self._has_other_votes(told) and self._may_answer(sender, b"before", now):
            # Late votes, or one site's that differ: whoever holds both can prove it.
            self._give(sender, exchange.votes_of(self.before) if self.before is not None else (), now)
        if told.round == number and self._may_answer(sender, b"lacking", now):
            self._give(sender, exchange.lacking(present.at, told), now)
            for site in exchange.wanted(present.at, told):
                if self._questions.may_ask(site, now):
                    others = exchange.holders(present.at, site, self._told)
                    giver = self._questions.ask_next(site, (sender, *others), now)
                    self._outbox.append(Send(giver, SealWant(number, site, 0)))

    def _on_want(self, sender: SiteKey, want: SealWant, now: Micros) -> None:
        known = want.author in self._rules.roster or (not want.author and want.number > 0)
        if not known or not self._may_answer(sender, want.author or b"past", now):
            return
        if want.number:
            sums: list[bytes] = []
            size = 0
            for encoded in self._site.log.encoded[want.number - 1 : want.number - 1 + MAX_PAST]:
                size += len(encoded)
                if sums and size > PAST_BYTES:
                    break
                sums.append(encoded)
            if sums and self._may_have(self.of_run, sender, size, LEAST_RUN_BYTES + self._site.log.encoded_bytes, now):
                self._outbox.append(Send(sender, SealPast(want.number, tuple(sums)), Lane.BULK))
            return
        for at in (self._site.present.at, self.before):
            if at is not None and at.number == want.round and SiteKey(want.author) in at.sealed:
                self._give(sender, [at.sealed[SiteKey(want.author)]], now)

    def _on_past(self, sender: SiteKey, past: SealPast) -> None:
        asked = sender == self._giver and self._questions.is_open(b"")
        if not asked or past.first != self._site.log.number + 1 + len(self._past):
            return
        # One answer to one question, of sums that can be some. Where it is none, the question stays open: another site
        # is asked. Else who answers with nothing, or a sum at a time, would hold this site for ever.
        most_bytes = self._site.log.most_bytes
        if any(len(encoded) > most_bytes for encoded in past.sums):
            self._unfit.add(sender)
            raise WireError("a sum larger than any can be")
        last, size = past.first + len(past.sums) - 1, sum(map(len, past.sums))
        full = len(past.sums) == MAX_PAST or size > max(0, PAST_BYTES - most_bytes)
        if last < self._past_to and not full:
            self._unfit.add(sender)
            raise WireError(f"{len(past.sums)} sums of {size} bytes, where more are left and fit an answer")
        self._questions.answered(b"")
        self._past.extend(past.sums)

    def _has_other_votes(self, told: SealHave) -> bool:
        """Whether that site holds other votes of the round before than this one."""
        return self.before is not None and told.before not in (b"", exchange.digest_of(self.before))

    def _give(self, sender: SiteKey, lacking: Iterable[Statement], now: Micros) -> None:
        """Send a site what it lacks of a round, as far as its allowance goes."""
        whole = len(self._rules.roster) * (self._site.log.most_bytes + STATEMENTS_BYTES)
        for said in lacking:
            if not self._may_have(self.of_round, sender, len(self._wire.encode(said)), whole, now):
                break
            self._outbox.append(Send(sender, said, Lane.BULK if isinstance(said, Sealed) else Lane.CONTROL))

    def _may_have(self, allowance: AnswerAllowance, site: SiteKey, size: int, whole: int, now: Micros) -> bool:
        may = allowance.spend(site, size, whole, now)
        if not may:
            what = "sums" if allowance is self.of_run else "the round"
            reason = f"it asks for more of {what} than makes up for what it can lack: either it does not get what it is"
            self._outbox.append(Emit(SealRefused(site, f"{reason} sent, or it wastes this site's line")))
        return may

    def _may_answer(self, sender: SiteKey, what: bytes, now: Micros) -> bool:
        if now < self._answered.get((sender, what), 0):
            return False
        self._answered[sender, what] = now + ANSWER_AGAIN_US
        return True

    def _alive(self) -> list[SiteKey]:
        return [site for site in self._members.alive() if site in self._rules.roster]

    def _have(self) -> SealHave:
        return exchange.have(self._site.present.at, self._site.log.number, int(self._site.phase), self.before)
