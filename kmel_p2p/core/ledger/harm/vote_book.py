"""The votes that are kept: of each voter and author one, the newest of the author's present term.

Newest means about the highest entry. Of two votes about the same one, that which takes the voter's word back counts,
then the smaller bytes. So equal sets of votes leave equal books, in whatever order they came.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.ledger.harm.vote import HarmVote

MOST_BEHIND_BYTES = 4 * 1024 * 1024
"""Of the votes that go with a snapshot. Others come by digest as any vote does."""


class VoteBook:
    """See the module docstring."""

    def __init__(self) -> None:
        self._votes: dict[SiteKey, dict[SiteKey, HarmVote]] = {}
        """Author -> voter -> vote; no author without votes."""
        self._digests: dict[SiteKey, bytes] = {}
        """Author -> hash of the votes about it; lacks authors whose votes changed since."""

    def __len__(self) -> int:
        return sum(map(len, self._votes.values()))

    def __iter__(self) -> Iterator[HarmVote]:
        """Every vote, in the order of authors and voters."""
        for author in self.authors():
            yield from self.about(author).values()

    def authors(self) -> list[SiteKey]:
        """Authors that somebody votes about, in key order."""
        return sorted(self._votes)

    def of(self, voter: SiteKey, author: SiteKey) -> HarmVote | None:
        """What a site says about another."""
        return self._votes.get(author, {}).get(voter)

    def is_news(self, vote: HarmVote) -> bool:
        """Whether it would take the place of what is kept."""
        known = self.of(vote.voter, vote.author)
        return known is None or _supersedes(vote, known)

    def add(self, vote: HarmVote) -> bool:
        """Take a vote in; whether it changed anything."""
        if not self.is_news(vote):
            return False
        self._votes.setdefault(vote.author, {})[vote.voter] = vote
        self._digests.pop(vote.author, None)
        return True

    def forget(self, terms: Callable[[SiteKey], int]) -> None:
        """Let go of votes of other terms than these."""
        for vote in list(self):
            if vote.term != terms(vote.author):
                self._digests.pop(vote.author, None)
                del self._votes[vote.author][vote.voter]
                if not self._votes[vote.author]:
                    del self._votes[vote.author]

    def about(self, author: SiteKey) -> dict[SiteKey, HarmVote]:
        """Voter -> its word on an author, in key order."""
        return dict(sorted(self._votes.get(author, {}).items()))

    def against(self, author: SiteKey) -> dict[SiteKey, HarmVote]:
        """The same of those who would have its entries taken out."""
        return {voter: vote for voter, vote in self.about(author).items() if vote.against}

    def behind(self, suspended: Collection[SiteKey]) -> tuple[bytes, ...]:
        """The votes that these suspensions rest on, encoded: with them, whoever takes over a sum comes to the same."""
        found: list[bytes] = []
        left = MOST_BEHIND_BYTES
        for author in sorted(suspended):
            for vote in self.against(author).values():
                left -= len(vote.encode())
                if left < 0:
                    return tuple(found)
                found.append(vote.encode())
        return tuple(found)

    def digest(self) -> bytes:
        """BLAKE2b-256 of the set, 32 bytes."""
        for author in self._votes.keys() - self._digests.keys():
            self._digests[author] = digest(b"kmel votes of 1", *(vote.encode() for vote in self.about(author).values()))
        return digest(b"kmel votes 2", *(author + self._digests[author] for author in self.authors()))


def _supersedes(vote: HarmVote, known: HarmVote) -> bool:
    if vote.number != known.number:
        return vote.number > known.number
    if vote.against != known.against:
        return known.against
    return vote.encode() < known.encode()
