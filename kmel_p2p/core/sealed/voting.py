"""What a site says about the outcome of a round, and when: the one place that joins ballots to time."""

from __future__ import annotations

from collections.abc import Collection

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.messages import VOID, Included, SealClose, SealLoose, SealReveal
from kmel_p2p.core.sealed.rules import SealedSettings
from kmel_p2p.core.sealed.sealed_round import SealedRound
from kmel_p2p.core.types import SECOND, Micros

LONGEST_BALLOT_US: Micros = 60 * SECOND


class Voting:
    """Of one round.

    Args:
        own: this site.
        settings: times.
    """

    def __init__(self, own: SiteKey, settings: SealedSettings) -> None:
        self._own = own
        self._settings = settings
        self._opened_us: Micros | None = None
        self._enough_us: Micros | None = None
        self._vote_by_us: Micros | None = None
        """When the opener's vote is waited for no longer."""
        self._ballot = 0
        self._ballot_us: Micros | None = None
        """When the present ballot began."""

    def next_vote(
        self, at: SealedRound, alive: Collection[SiteKey], now: Micros
    ) -> SealClose | SealLoose | SealReveal | None:
        """What this site says next, unsigned; None: nothing now.

        Args:
            at: the round.
            alive: reachable sites, this one included.
            now: monotonic time.
        """
        ballots = at.ballots
        ballots.follow()
        if len(alive) >= ballots.quorum and self._ballot_us is not None and now >= self._ballot_us + self._takes_us(at):
            ballots.next_ballot()
        # Also after a restart of a site that has voted in the first ballot, or it would stay there for ever.
        if ballots.ballot != self._ballot or (self._ballot_us is None and ballots.has_voted):
            self._ballot, self._ballot_us = ballots.ballot, now
        if not ballots.has_voted:
            choice = self._choose(at, alive, now)
            if choice is not None:
                self._ballot_us = self._ballot_us or now
                return self._close(at, choice)
        loose = at.own_loose()
        if loose is not None:
            return loose
        revealed = ballots.may_reveal()
        if revealed is not None and (revealed == VOID or at.is_supported(revealed)):
            return SealReveal(self._own, at.number, ballots.ballot, revealed, at.own_shares(revealed))
        return None

    def moments(self, at: SealedRound) -> list[Micros]:
        """When time alone may change something; those in the past are of no account."""
        moments: list[Micros] = []
        if self._ballot_us is not None:
            moments += [self._ballot_us + self._takes_us(at), self._ballot_us + self._takes_us(at) // 2]
        if not at.ballots.has_voted:
            moments += [each for each in (self._vote_by_us, self._closable_us(at, ())) if each is not None]
            if self._opened_us is not None:
                moments.append(self._opened_us + self._settings.limit_us)
        return moments

    # ---- inner --------------------------------------------------------------------------------------------------

    def _choose(self, at: SealedRound, alive: Collection[SiteKey], now: Micros) -> tuple[Included, ...] | None:
        """The set to vote for, empty for none; None: not yet."""
        quorum = at.ballots.closed(at.ballots.ballot)
        if quorum is not None and (quorum == VOID or at.is_backed(quorum)) and at.ballots.may_vote(quorum):
            return at.set_of(quorum)
        if at.ballots.ballot > 0:
            return self._choose_again(at, now)
        if at.group is not None and self._opened_us is None:
            self._opened_us = now
        if at.enough() and self._enough_us is None:
            self._enough_us = now
        closable = at.group is not None and self._is_closable(at, alive, now)
        if at.group is not None and at.group.open.author == self._own:
            if not closable:
                return None
            return at.proposal() if at.enough() else ()
        proposed = at.proposed()
        if proposed is not None and (not proposed.included or at.is_backed(proposed.choice)):
            return proposed.included
        # One site's early vote hurries nobody: it may lie.
        if (closable or at.ballots.has_more_than_can_lie) and self._vote_by_us is None:
            self._vote_by_us = now + self._settings.vote_us
        return () if self._vote_by_us is not None and now >= self._vote_by_us else None

    def _choose_again(self, at: SealedRound, now: Micros) -> tuple[Included, ...] | None:
        choice, ballots = at.ballots.must_vote(), at.ballots
        if ballots.must_abstain():
            return None
        if choice is None or choice == VOID or not ballots.may_vote(choice):
            return ()
        if at.is_supported(choice):
            return at.set_of(choice)
        # Its vectors and pair seeds may be on their way. A set that nobody revealed may lack them for ever.
        began_us = self._ballot_us if self._ballot_us is not None else now
        return () if now >= began_us + self._takes_us(at) // 2 else None

    def _is_closable(self, at: SealedRound, alive: Collection[SiteKey], now: Micros) -> bool:
        if at.sets_complete():
            return True
        by_us = self._closable_us(at, alive)
        limit_us = (self._opened_us if self._opened_us is not None else now) + self._settings.limit_us
        return now >= limit_us or (by_us is not None and now >= by_us)

    def _closable_us(self, at: SealedRound, alive: Collection[SiteKey]) -> Micros | None:
        """When a group with enough vectors waits for the others no longer."""
        if self._enough_us is None or self._opened_us is None or at.group is None:
            return None
        missing = [site for site in at.group.sites if site not in at.sealed]
        if not any(site in alive for site in missing):
            return self._enough_us + self._settings.gone_us
        return self._enough_us + max(self._settings.patience_us, self._enough_us - self._opened_us)

    def _takes_us(self, at: SealedRound) -> Micros:
        return min(LONGEST_BALLOT_US, self._settings.vote_us * (1 + at.ballots.ballot))

    def _close(self, at: SealedRound, included: tuple[Included, ...]) -> SealClose:
        group, ballot = at.group, at.ballots.ballot
        if not included or group is None:
            return SealClose(self._own, at.number, ballot, VOID, ())
        return SealClose(self._own, at.number, ballot, group.hash, included)
