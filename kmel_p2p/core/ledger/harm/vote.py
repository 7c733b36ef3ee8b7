"""Signed votes about authors, and what a set of votes amounts to.

A vote says in coarse classes what an author's entries did to the voter's own loss, and whether the voter wants the
author suspended. Votes are kept as a set that only grows: of each voter and author the newest opinion, and the lowest
entry from which on the voter ever wanted the author out. So whatever order votes came in, equal sets give equal
suspensions, and no voter can take back what others already acted on. An amendment that lifts a suspension begins a new
*term* for that author: votes of an earlier term no longer count.

As bytes a vote is the msgpack array [voter, author, term, first, number, classes, against, signature].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import msgpack

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.averaging import SuspensionQuorum
from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey, digest, verify
from kmel_p2p.core.roster_vector import MAX_NUMBER
from kmel_p2p.core.wire import KEY, SIGNATURE, flag, mapping, uint

SIGNING_CONTEXT = b"kmel vote 1"

MAX_PLACES = 1024
"""Assay endpoints that a charter may have."""

NO_EVIDENCE = 3
"""Class of an assay endpoint on which an author's part has no visible effect. Higher: it does harm; lower: it helps."""

MAX_VOTE_BYTES = 16 * 1024

MAX_BEHIND = 16_384
"""Votes that go with a snapshot."""

FEWEST_VOTES = 2
"""No suspension rests on the word of one site."""

_NUMBER = uint(MAX_NUMBER)
_TERM = uint(2**32)
_CLASSES = mapping(uint(MAX_PLACES - 1), uint(2 * NO_EVIDENCE), MAX_PLACES)
_AGAINST = flag()


@dataclass(frozen=True, slots=True)
class HarmVote:
    """What one site says about another's entries. See the module docstring.

    Attributes:
        term: suspensions of the author that amendments had lifted when it was cast.
        first, number: the entries looked at.
        classes: assay endpoint (place in the charter) -> `NO_EVIDENCE` plus the size of the effect, -3 to 3.
        against: the voter wants the entries from `first` on taken out of the trunk.
    """

    voter: SiteKey
    author: SiteKey
    term: int
    first: int
    number: int
    classes: Mapping[int, int]
    against: bool
    signature: bytes

    @property
    def size(self) -> int:
        """The largest harm that it names, 0 to 3."""
        return max(0, *(each - NO_EVIDENCE for each in self.classes.values())) if self.classes else 0

    def reaches_further_than(self, entries: int) -> bool:
        """Whether it would take out more than so many entries up to the newest that it looked at."""
        return self.against and self.number - self.first >= entries

    def encode(self) -> bytes:
        """The bytes `decode` reads: one spelling."""
        packed: bytes = msgpack.packb([*self._values(), self.signature], use_bin_type=True)
        return packed

    def is_signed(self, charter_id: bytes) -> bool:
        """Whether the voter signed it, under this charter."""
        return verify(self.voter, SIGNING_CONTEXT, self._signed(charter_id), self.signature)

    def _signed(self, charter_id: bytes) -> bytes:
        return digest(charter_id, msgpack.packb(self._values(), use_bin_type=True))

    def _values(self) -> list[object]:
        classes = _CLASSES.pack(self.classes)
        return [self.voter, self.author, self.term, self.first, self.number, classes, self.against]


def cast(
    identity: Identity,
    charter_id: bytes,
    author: SiteKey,
    term: int,
    span: tuple[int, int],
    sizes: Mapping[int, int],
    against: bool,
) -> HarmVote:
    """A signed vote of this site.

    Args:
        span: first and last number of the entries looked at.
        sizes: effect by assay endpoint, -3 to 3; zeros are left out.
    """
    classes = {place: NO_EVIDENCE + size for place, size in sorted(sizes.items()) if size}
    unsigned = HarmVote(identity.key, author, term, *span, classes, against, b"")
    signature = identity.sign(SIGNING_CONTEXT, unsigned._signed(charter_id))
    return HarmVote(identity.key, author, term, *span, classes, against, signature)


def decode(data: bytes) -> HarmVote:
    """Read a vote from anybody; its signature is checked apart.

    Raises:
        WireError: not a vote, or it speaks of no entry, or of the voter itself.
    """
    parts = unpack_bounded(data, MAX_VOTE_BYTES)
    if type(parts) is not list or len(parts) != 8:
        raise WireError("not a vote")
    voter, author = KEY.unpack(parts[0]), KEY.unpack(parts[1])
    first, number = _NUMBER.unpack(parts[3]), _NUMBER.unpack(parts[4])
    if not 1 <= first <= number or voter == author:
        raise WireError("a vote speaks of entries of another site, from the first on")
    vote = HarmVote(
        SiteKey(voter),
        SiteKey(author),
        _TERM.unpack(parts[2]),
        first,
        number,
        _CLASSES.unpack(parts[5]),
        _AGAINST.unpack(parts[6]),
        SIGNATURE.unpack(parts[7]),
    )
    if vote.encode() != data:
        raise WireError("a vote has another spelling")
    return vote


class VoteBook:
    """The votes of the present terms. See the module docstring."""

    def __init__(self) -> None:
        self._opinions: dict[tuple[SiteKey, SiteKey], HarmVote] = {}
        """Voter and author -> the newest opinion."""
        self._against: dict[tuple[SiteKey, SiteKey], HarmVote] = {}
        """Voter and author -> the vote against it that goes furthest back."""
        self._encoded: dict[bytes, HarmVote] | None = None
        """What `encoded` gave; None: votes changed since."""

    def __len__(self) -> int:
        return len(self._opinions)

    def add(self, vote: HarmVote) -> bool:
        """Take a vote in; whether it changed anything."""
        pair = (vote.voter, vote.author)
        known = self._opinions.get(pair)
        changed = known is None or _newness(vote) > _newness(known)
        if changed:
            self._opinions[pair] = vote
        if vote.against:
            lowest = self._against.get(pair)
            if lowest is None or _depth(vote) < _depth(lowest):
                self._against[pair] = vote
                changed = True
        if changed:
            self._encoded = None
        return changed

    def forget(self, terms: Callable[[SiteKey], int]) -> list[HarmVote]:
        """Let go of votes of earlier terms; returns them."""
        gone = [vote for vote in self.all() if vote.term < terms(vote.author)]
        for book in (self._opinions, self._against):
            for pair in [pair for pair, vote in book.items() if vote.term < terms(vote.author)]:
                del book[pair]
        self._encoded = None
        return gone

    @property
    def encoded(self) -> Mapping[bytes, HarmVote]:
        """Every vote kept by its encoded form, in an order that does not depend on how they came."""
        if self._encoded is None:
            kept = {vote.encode(): vote for book in (self._opinions, self._against) for vote in book.values()}
            self._encoded = {encoded: kept[encoded] for encoded in sorted(kept)}
        return self._encoded

    def all(self) -> list[HarmVote]:
        """Every vote kept, in the same order."""
        return list(self.encoded.values())

    def behind(self, suspended: Collection[SiteKey]) -> tuple[bytes, ...]:
        """The votes that these suspensions rest on, encoded: with them, whoever takes over a sum comes to the same."""
        found = [vote.encode() for (_, author), vote in self._against.items() if author in suspended]
        return tuple(sorted(found)[:MAX_BEHIND])

    def about(self, author: SiteKey) -> dict[SiteKey, HarmVote]:
        """The newest opinion on an author by voter, in key order."""
        return {voter: vote for (voter, of), vote in sorted(self._opinions.items()) if of == author}

    def against(self, author: SiteKey, voters: Collection[SiteKey]) -> dict[SiteKey, HarmVote]:
        """Votes against an author, of these voters, in key order."""
        found = sorted(self._against.items())
        return {voter: vote for (voter, of), vote in found if of == author and voter in voters and voter != author}

    def lowest_first(self, author: SiteKey) -> int | None:
        """The lowest entry of an author that any vote is against; None when there is no such vote."""
        return min((vote.first for (_, of), vote in self._against.items() if of == author), default=None)

    def digest(self) -> bytes:
        """BLAKE2b-256 of the set, 32 bytes."""
        return digest(b"kmel votes 1", *self.encoded)

    def suspended(self, roster: Collection[SiteKey], quorum: SuspensionQuorum) -> dict[SiteKey, int]:
        """Author -> first entry that does not count, in key order, by the votes of the current sites.

        Where the votes name different entries, it is the lowest that as many votes as are needed reach: below the
        lowest that a needed vote names nothing is taken out, and colluding sites that are too few for a suspension
        cannot lower it either.
        """
        found: dict[SiteKey, int] = {}
        if quorum == "none":
            return found
        for author in sorted({of for _, of in self._against}):
            firsts = sorted(vote.first for vote in self.against(author, roster).values())
            needed = votes_needed(len(set(roster) - {author}), quorum)
            if len(firsts) >= needed:
                found[author] = firsts[needed - 1]
        return found


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


def _newness(vote: HarmVote) -> tuple[int, bytes]:
    return vote.number, vote.encode()


def _depth(vote: HarmVote) -> tuple[int, int, bytes]:
    return vote.first, vote.number, vote.encode()
