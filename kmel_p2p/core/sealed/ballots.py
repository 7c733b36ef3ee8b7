"""How a roster comes to one outcome of a round although messages are lost and sites die or lie.

Ballots follow each other. In each, a site votes for one choice (close), and when a quorum voted for one, says so and
gives what opens it (reveal). A quorum of reveals in one ballot decides. Who revealed a choice votes for it again in
later ballots (or for nothing, if it had voted for another set before), unless a later ballot had a quorum of votes for
another. This is the core of Tendermint (Buchman, Kwon,
Milosevic 2018) with two choices: the one set of vectors that a site may ever vote for in the round, and none.

With fewer than a third of the roster lying, no two choices are decided, and no two sets get a quorum of votes, because
a site votes for one set only. With a quorum alive and messages getting through, one choice is decided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from kmel_p2p.agreement.averaging import quorum_of
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.messages import MAX_BALLOT, VOID

_Votes = dict[bytes, set[SiteKey]]
"""Choice -> who is for it. A site that signs two choices in one ballot counts for both: it is one liar either way."""


def sole_choices(votes: Mapping[tuple[int, SiteKey], Collection[bytes]], ballot: int) -> set[bytes]:
    """Choices of sites that made one alone in that ballot, as far as is known here: every honest site's are among them.

    Of a site that made several, these count besides two that prove it: its vote for one of them may be what makes a
    quorum elsewhere, and it must not be able to hide that by two others.
    """
    held = [made for (of, _), made in votes.items() if of == ballot]
    return {next(iter(made)) for made in held if len(made) == 1}


class Ballots:
    """The votes of one round, and which vote follows from them.

    Args:
        own: this site.
        sites: on the roster.
    """

    def __init__(self, own: SiteKey, sites: int) -> None:
        self.ballot = 0
        self.quorum = quorum_of(sites)
        self.dead: set[bytes] = set()
        """Choices that nobody can open any more: a dealer's fault is proved."""
        self._own = own
        self._sites = sites
        self._closes: dict[int, _Votes] = defaultdict(lambda: defaultdict(set))
        self._reveals: dict[int, _Votes] = defaultdict(lambda: defaultdict(set))
        self._voted: dict[int, bytes] = {}
        self._revealed: dict[int, bytes] = {}

    # ---- what was said ------------------------------------------------------------------------------------------

    def close(self, ballot: int, site: SiteKey, choice: bytes) -> None:
        """A site voted."""
        self._closes[ballot][choice].add(site)
        if site == self._own:
            self._voted[ballot] = choice
            self.ballot = max(self.ballot, ballot)

    def reveal(self, ballot: int, site: SiteKey, choice: bytes) -> None:
        """A site revealed."""
        self._reveals[ballot][choice].add(site)
        if site == self._own:
            self._revealed[ballot] = choice
            self.ballot = max(self.ballot, ballot)

    def closed(self, ballot: int) -> bytes | None:
        """The choice that a quorum voted for in a ballot."""
        return self._with_quorum(self._closes, ballot)

    def decided(self) -> bytes | None:
        """The outcome; None: not yet."""
        found = (self._with_quorum(self._reveals, ballot) for ballot in sorted(self._reveals))
        return next((choice for choice in found if choice is not None), None)

    def backed_set(self) -> bytes | None:
        """The one set that a quorum voted for in some ballot, unless nobody can open it."""
        found = {self.closed(ballot) for ballot in sorted(self._closes)} - {None, VOID} - self.dead
        return next(iter(found), None) if len(found) == 1 else None

    def may_open(self, choice: bytes) -> bool:
        """Whether this site has revealed no other set: whoever helped to open one helps to open no other."""
        return {revealed for revealed in self._revealed.values() if revealed != VOID} <= {choice}

    # ---- what this site says next -------------------------------------------------------------------------------

    @property
    def has_voted(self) -> bool:
        """Whether this site voted in the present ballot."""
        return self.ballot in self._voted

    def may_vote(self, choice: bytes) -> bool:
        """Whether it is not a second set: a site votes for one in a round."""
        return choice == VOID or all(voted in (VOID, choice) for voted in self._voted.values())

    @property
    def has_more_than_can_lie(self) -> bool:
        """Whether an honest site has voted in the present ballot."""
        voted = set().union(*self._closes[self.ballot].values()) if self.ballot in self._closes else set()
        return len(voted) > self._sites - self.quorum

    def must_vote(self) -> bytes | None:
        """The vote that follows from earlier ballots; None: the site is free."""
        locked = max(
            ((ballot, choice) for ballot, choice in self._revealed.items() if choice not in self.dead), default=None
        )
        earlier = [(ballot, self.closed(ballot)) for ballot in sorted(self._closes) if ballot < self.ballot]
        backed = max(((b, c) for b, c in earlier if c is not None and c not in self.dead), default=None)
        if backed is not None and (locked is None or backed[0] >= locked[0]):
            return backed[1]
        return locked[1] if locked is not None else None

    def must_abstain(self) -> bool:
        """Whether this site revealed a set that it may not vote for, since it had voted for another one before.

        A vote for none would help to void what the others may have decided with its reveal.
        """
        choice = self.must_vote()
        return choice is not None and choice in self._revealed.values() and not self.may_vote(choice)

    def may_reveal(self) -> bytes | None:
        """The choice with a quorum of votes in the present ballot, unless this site has said so already."""
        choice = self.closed(self.ballot)
        if choice is None or self.ballot in self._revealed or choice in self.dead:
            return None
        return choice if choice == VOID or self.may_open(choice) else None

    def follow(self) -> bool:
        """Go to a later ballot where more sites are than can lie; whether that was so."""
        for ballot in sorted({*self._closes, *self._reveals}, reverse=True):
            if ballot <= self.ballot:
                break
            there = set().union(*self._closes[ballot].values(), *self._reveals[ballot].values())
            if len(there) > self._sites - self.quorum:
                self.ballot = ballot
                return True
        return False

    def next_ballot(self) -> None:
        """The present one took too long."""
        self.ballot = min(self.ballot + 1, MAX_BALLOT)

    def _with_quorum(self, votes: dict[int, _Votes], ballot: int) -> bytes | None:
        if ballot not in votes:
            return None
        return next((choice for choice, sites in votes[ballot].items() if len(sites) >= self.quorum), None)
