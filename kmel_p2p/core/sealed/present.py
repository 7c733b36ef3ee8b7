"""The present round at one site: what is known of it, this site's part in it, and what this site says next."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.sealed.faults import NotYet
from kmel_p2p.core.sealed.gathering import Gathering
from kmel_p2p.core.sealed.keystream import SEED_BYTES
from kmel_p2p.core.sealed.messages import (
    VOID,
    S,
    SealClose,
    Sealed,
    SealKey,
    SealLoose,
    SealOpen,
    SealReveal,
    Statement,
    bits,
    signed,
)
from kmel_p2p.core.sealed.own_part import SealedState
from kmel_p2p.core.sealed.pairs import public_key
from kmel_p2p.core.sealed.rules import SealedRules, SealedSettings
from kmel_p2p.core.sealed.sealed_round import Said, SealedRound
from kmel_p2p.core.sealed.stages import MOVES, Stage
from kmel_p2p.core.sealed.sums import SumEntry, SumLog
from kmel_p2p.core.sealed.voting import Voting
from kmel_p2p.core.types import Micros

Entropy = Callable[[int], bytes]
"""So many bytes that nobody can guess. Secrets come from nowhere else."""

MAX_EARLY = 64
"""Reveals kept until what they rest on is here."""


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """How a round ended: its sum, or why there is none."""

    entries: list[SumEntry]
    """One, or none."""
    reason: str = ""
    spoiled: tuple[SiteKey, ...] = ()
    """Whose vectors were opened and gave no sum of levels, with nobody's fault proved."""


class Present:
    """See the module docstring.

    Args:
        identity: this site.
        rules, settings: of charter and site.
        log: the sums that the round starts from; not altered here.
        own: this site's part, as stored; altered in place.
        entropy: for secrets.
    """

    def __init__(
        self,
        identity: Identity,
        rules: SealedRules,
        settings: SealedSettings,
        log: SumLog,
        own: SealedState,
        entropy: Entropy,
    ) -> None:
        self.own = own
        self.stage = Stage.IDLE
        self._identity, self._rules, self._log, self._entropy = identity, rules, log, entropy
        least = (rules.least_members, rules.min_sum)
        about = (rules.charter_id, rules.roster, identity.key, own.round, log.chain)
        self.at = SealedRound(*about, log.count, log.levels, least)
        self._gathering = Gathering(identity.key, settings, rules.least_members)
        self._voting = Voting(identity.key, settings)
        self._early: list[Said] = []
        self._looked_at = 0
        self._looked_us: Micros = -1
        """When it was last asked what to say: what was due by then is done."""
        self._restore()

    def _restore(self) -> None:
        """Go on where this site was before a restart."""
        at, own = self.at, self.own
        at.secret, at.self_seed = own.secret, own.self_seed
        if own.opened is not None:
            at.take(own.opened)
            self.follow(next(iter(at.opens)))
        for said in own.said:
            match said:
                case SealReveal():
                    at.restore(said)
                    self.stage = Stage.REVEALED
                case SealKey() | SealOpen() | Sealed() | SealClose() | SealLoose():
                    at.take(said)
                    if isinstance(said, Sealed):
                        self.stage = Stage.SEALED
                    elif isinstance(said, SealClose):
                        self.stage = Stage.CLOSED

    def doubt(self, left_out: SiteKey | None, sole: SiteKey | None) -> None:
        """Leave that site's vector out as the opener, and go by no Open of the other: see `spoilers`."""
        self.at.left_out = left_out
        self._gathering.doubted = sole

    # ---- inputs -------------------------------------------------------------------------------------------------

    def take(self, said: Said) -> bool:
        """Take in a statement; whether it was news. Raises WireError where it does not stand."""
        try:
            news = self.at.take(said)
        except NotYet:
            if isinstance(said, SealReveal) and len(self._early) < MAX_EARLY and said not in self._early:
                self._early.append(said)
            return False
        if news and not isinstance(said, SealReveal):
            self._retry()
        return news

    def follow(self, name: bytes) -> None:
        """Go by that Open."""
        self.at.follow(name)
        self._move(Stage.OPENED)
        for said in self.own.said:
            if isinstance(said, Sealed):
                self.at.take(said)
        self._retry()

    def _retry(self) -> None:
        early, self._early = self._early, []
        for said in early:
            try:
                self.take(said)
            except WireError:
                # Its author is named; who handed it on need not have known.
                continue

    # ---- what this site says ------------------------------------------------------------------------------------

    def make_key(self) -> SealKey:
        """Say that this site is ready, with a new key."""
        self.own.secret = self.at.secret = self._entropy(SEED_BYTES)
        return self._signed(SealKey(self._identity.key, self.at.number, public_key(self.own.secret)))

    @property
    def may_train(self) -> bool:
        """Whether this site has a part in the group, and has neither trained, sealed nor voted for it."""
        return self.stage is Stage.OPENED and self.at.part is not None and not self.own.self_seed and not self._voted

    @property
    def may_seal(self) -> bool:
        """Whether what this site trained may still be in the sum, of whatever group it is a member by now."""
        open_still = self.stage in (Stage.OPENED, Stage.TRAINING)
        return open_still and self.at.part is not None and not self.own.self_seed and not self._voted

    @property
    def _voted(self) -> bool:
        """A vector that is sealed after this site's vote comes too late for any set."""
        return any(isinstance(said, SealClose) for said in self.own.said)

    def train(self) -> None:
        """This site trains for the round."""
        self._move(Stage.TRAINING)

    def seal(self, q: NDArray[np.int64], state_file: str) -> Sealed:
        """This site's vector; it says so when it is stored."""
        at = self.at
        if at.part is None or at.group is None:
            raise Bug("a vector of a site that is no member")
        self.own.self_seed = at.self_seed = self._entropy(SEED_BYTES)
        self.own.state_file, self.own.opened = state_file, at.group.open
        self._move(Stage.STORED)
        return self._signed(at.part.seal(at.number, q, self.own.self_seed))

    def said(self, statement: Statement) -> None:
        """An own statement is durable: it counts now."""
        match statement:
            case SealKey() | SealOpen() | Sealed() | SealClose() | SealLoose() | SealReveal():
                self.take(statement)
        match statement:
            case SealOpen():
                if self.at.group is None:
                    self.follow(next(name for name, each in self.at.opens.items() if each == statement))
            case Sealed():
                self._move(Stage.SEALED)
            case SealClose():
                self._move(Stage.CLOSED)
            case SealReveal():
                self._move(Stage.REVEALED)

    def next_statement(
        self, alive: Collection[SiteKey], expected: Collection[SiteKey], now: Micros
    ) -> Statement | None:
        """What this site says next; None: nothing now.

        Args:
            alive: reachable sites, this one included.
            expected: those of them that may still say that they are ready.
            now: monotonic time.
        """
        at, gathering, self._looked_us = self.at, self._gathering, now
        gathering.look(at, expected, now)
        other = at.outvoted()
        if other is not None:
            self.follow(other)
        if not self.own.self_seed and not at.ballots.has_voted and at.ballots.ballot == 0:
            name = gathering.acceptable(at, now)
            if name is not None:
                self.follow(name)
            elif (
                at.group is None
                and gathering.may_open(at, now)
                and not any(each.author == self._identity.key for each in at.opens.values())
            ):
                return self._signed(gathering.make(at))
        if self.stage is Stage.STORED:
            # One's own vector first: it is about to be durable.
            return None
        vote = self._voting.next_vote(at, alive, now)
        match vote:
            case SealClose():
                return self._signed(vote)
            case SealLoose():
                return self._signed(vote)
            case SealReveal() if vote.choice == VOID or not self.at.is_stranger:
                return self._signed(vote)
        return None

    def deadline(self) -> Micros | None:
        """When time alone may change something."""
        moments = self._voting.moments(self.at)
        if not self.own.self_seed:
            moments += self._gathering.moments(self.at)
        return min((moment for moment in moments if moment > self._looked_us), default=None)

    # ---- the end ------------------------------------------------------------------------------------------------

    def outcome(self) -> RoundOutcome | None:
        """How the round ended; None: it has not, as far as can be told here."""
        choice = self.at.ballots.decided()
        if choice is None:
            self._look_for_dead()
            return None
        if choice == VOID:
            return RoundOutcome([], self._why_void())
        summed = tuple(sent.site for sent in self.at.set_of(choice))
        try:
            total = self.at.open(choice)
        except WireError as error:
            return RoundOutcome([], str(error), () if choice in self.at.ballots.dead else summed)
        if total is None:
            return None
        problem = self._log.problem(total)
        if problem:
            return RoundOutcome([], f"the sum does not stand: {problem}", summed)
        sites = bits(self.at.roster, summed)
        return RoundOutcome([self._log.entry(self.at.number, sites, choice, total)])

    @property
    def spent(self) -> bool:
        """Whether this site's levels may be known to others although the round has no sum: it has sent its vector.

        They must never be sealed again: the difference of two sums would bare them. Enough of the others may have
        opened a sum without this site having heard of a single vote for it.
        """
        return any(isinstance(said, Sealed) for said in self.own.said)

    def end(self, committed: bool) -> None:
        """The round is over."""
        self._move(Stage.COMMITTED if committed else Stage.ABORTED)

    def missing(self) -> tuple[SiteKey, ...]:
        """Members whose vectors are not here."""
        group = self.at.group
        return tuple(site for site in group.sites if site not in self.at.sealed) if group is not None else ()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _look_for_dead(self) -> None:
        """A vector that nobody can open is found out before the outcome is decided: it never will be."""
        held = [choice for said in self.at.reveals.values() for choice in said if choice != VOID]
        if len(held) != self._looked_at:
            self._looked_at = len(held)
            for choice in set(held):
                try:
                    self.at.open(choice)
                except WireError:
                    continue

    def _why_void(self) -> str:
        if self.at.group is None:
            return "the sites voted for no sum, and this one knew of no group"
        sealed, members = len(self.at.sealed), len(self.at.group.sites)
        return f"the sites voted for no sum; {sealed} of {members} vectors were here"

    def _move(self, stage: Stage) -> None:
        if stage not in MOVES[self.stage]:
            raise Bug(f"a sealed round that is {self.stage.value} cannot be {stage.value}")
        self.stage = stage

    def _signed(self, statement: S) -> S:
        return signed(self._identity, self._rules.charter_id, statement)
