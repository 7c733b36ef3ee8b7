"""Who is suspended: a function of the constitution and of the votes that are kept, and of nothing else.

Neither entries nor the order in which anything came decide which votes are taken in and what they amount to, so sites
that know the same amendments and votes suspend the same authors from the same entries on.

An author is suspended where enough sites stand against it under *any* roster of its present term. So a site that
joins, leaves or changes its key ends no suspension, be it a voter or the author; an amendment that lifts it does, or so
many voters that take their word back that too few are left.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.averaging import SuspensionQuorum
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.harm.vote import HarmVote
from kmel_p2p.core.ledger.harm.vote_book import VoteBook
from kmel_p2p.core.ledger.log.epoch import EpochBook
from kmel_p2p.core.roster_vector import MAX_NUMBER

FEWEST_VOTES = 2
"""No suspension rests on the word of one site."""

Roster = frozenset[SiteKey]


class Suspensions:
    """See the module docstring.

    Attributes:
        votes: those that count now, or would count with others.
        starts: suspended author -> first entry that does not count, in key order.
    """

    def __init__(self) -> None:
        self.votes = VoteBook()
        self.starts: dict[SiteKey, int] = {}
        self._constitution: Constitution | None = None
        self._rosters: tuple[Roster, ...] = ()

    def amended(self, constitution: Constitution, rosters: Iterable[Roster]) -> None:
        """Go on under a constitution.

        Args:
            constitution: charter and amendments in force.
            rosters: the sites under so many amendments, from none to all.
        """
        self._constitution, self._rosters = constitution, tuple(rosters)
        self.votes.forget(self.term)
        self.starts = {}
        for author in self.votes.authors():
            self._judge(author)

    def term(self, author: SiteKey) -> int:
        """Suspensions of an author that amendments have lifted: a vote of another term does not count."""
        return self._constitution.lifted.get(author, 0) if self._constitution is not None else 0

    def admits(self, vote: HarmVote) -> bool:
        """Whether a vote would change what is kept, supposed that its voter signed it.

        One of a site or a term that only amendments unknown here explain is not taken in; it comes again.
        """
        constitution = self._constitution
        if constitution is None or vote.term != self.term(vote.author) or not self.votes.is_news(vote):
            return False
        if vote.against and vote.number - vote.first >= vote_reach(constitution):
            return False
        if any(place >= len(constitution.campaign.assay_endpoints.every) for place in vote.classes):
            return False
        return any(vote.voter in roster and vote.author in roster for roster in self._rosters_of(vote.author))

    def take(self, vote: HarmVote) -> bool:
        """Take a vote in whose signature was checked; whether it changed what is kept."""
        if not self.admits(vote):
            return False
        self.votes.add(vote)
        self._judge(vote.author)
        return True

    def exchanged(self, epochs: EpochBook) -> dict[SiteKey, int]:
        """Suspended author -> first entry of another epoch shortly below its suspension.

        By an epoch the author exchanges a branch of its log for another one that nobody voted about. Where that may
        have happened since the votes, what stands from there on does not count either.
        """
        assert self._constitution is not None or not self.starts, "nobody is suspended without a constitution"
        found: dict[SiteKey, int] = {}
        for author, start in self.starts.items():
            lowest = start - 2 * vote_reach(self._constitution)
            firsts = [epoch.first for epoch in epochs.of(author) if lowest <= epoch.first < start]
            if firsts:
                found[author] = min(firsts)
        return found

    # ---- inner --------------------------------------------------------------------------------------------------

    def _judge(self, author: SiteKey) -> None:
        constitution = self._constitution
        assert constitution is not None, "votes are taken in under a constitution"
        quorum = constitution.genesis.ledger.suspension_quorum
        start = first_taken_out(author, self.votes.against(author), self._rosters_of(author), quorum)
        if start is not None:
            self.starts = dict(sorted({**self.starts, author: start}.items()))
        else:
            self.starts.pop(author, None)

    def _rosters_of(self, author: SiteKey) -> Sequence[Roster]:
        """Those of the author's present term, each once."""
        assert self._constitution is not None, "asked under a constitution"
        return tuple(dict.fromkeys(self._rosters[self._constitution.lifted_at.get(author, 0) :]))


def first_taken_out(
    author: SiteKey,
    against: Mapping[SiteKey, HarmVote],
    rosters: Iterable[Collection[SiteKey]],
    quorum: SuspensionQuorum,
) -> int | None:
    """The first entry of an author that does not count by these votes; None where they are too few under every roster.

    Where the votes name different entries, it is the lowest that as many votes as are needed name or go below: above
    the highest of these nothing is left in, and colluding sites that are too few for a suspension cannot lower it.

    Args:
        against: voter -> its vote against the author.
        rosters: of the author's present term.
    """
    found: list[int] = []
    for roster in rosters if quorum != "none" else ():
        if author not in roster:
            continue
        firsts = sorted(vote.first for voter, vote in against.items() if voter in roster and voter != author)
        needed = votes_needed(len(roster) - 1, quorum)
        if len(firsts) >= needed:
            found.append(firsts[needed - 1])
    return min(found, default=None)


def vote_reach(constitution: Constitution | None) -> int:
    """Most entries that a vote may take out: half of those that every site keeps of an author.

    What is compacted cannot be taken out of a sum: were a vote to name such entries, all sites would wait for a
    snapshot that none of them can make. The other half is for entries that come in before enough sites have voted.
    """
    return MAX_NUMBER if constitution is None else constitution.genesis.ledger.retain_entries // 2


def votes_needed(others: int, quorum: SuspensionQuorum) -> int:
    """Votes that suspend an author among so many other sites: more than half of them, and at least two."""
    match quorum:
        case "none":
            return others + 1
        case "majority":
            share = 0
        case "two-thirds":
            share = math.ceil(2 * others / 3)
        case "all":
            share = others
    return max(FEWEST_VOTES, others // 2 + 1, share)


def first_counts(changes: Iterable[Mapping[SiteKey, int]]) -> dict[SiteKey, int]:
    """The lowest entry that each of several reasons takes out of the trunk, by author in key order."""
    found: dict[SiteKey, int] = {}
    for starts in changes:
        for author, start in starts.items():
            found[author] = min(start, found.get(author, start))
    return dict(sorted(found.items()))
