"""What a site tells the others of a round, and what it gives a site that has less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.sealed.ballots import sole_choices
from kmel_p2p.core.sealed.masking import MAX_MEMBERS
from kmel_p2p.core.sealed.messages import SAID_BYTES, SealClose, SealHave, SealReveal, Statement, bits
from kmel_p2p.core.sealed.sealed_round import SealedRound


def have(at: SealedRound, number: int, phase: int, before: SealedRound | None) -> SealHave:
    """What this site has of its present round. `number`: of the sums that it holds; `before`: the round before."""
    roster = at.roster
    opened = at.group.hash if at.group is not None else b""
    keys, sealed = bits(roster, at.keys), bits(roster, at.sealed)
    return SealHave(
        at.number,
        number,
        phase,
        keys,
        opened,
        sealed,
        _votes(at),
        bits(roster, has_loose(at)),
        digest_of(at),
        digest_of(before) if before is not None else b"",
    )


def has_loose(at: SealedRound) -> set[SiteKey]:
    """Sites whose pair seeds are here; once a quorum voted for a set, those for that set, unless they are wrong."""
    backed = at.ballots.backed_set()
    if backed is None:
        return set(at.loose)
    return {site for site, held in at.loose.items() if backed in held and not at.is_wrong(held[backed])}


def _votes(at: SealedRound) -> tuple[int, ...]:
    votes = []
    for ballot in range(1 + max((ballot for ballot, _ in (*at.closes, *at.reveals)), default=-1)):
        closes = bits(at.roster, {site for b, site in at.closes if b == ballot and at.closes[b, site]})
        reveals = bits(at.roster, {site for b, site in at.reveals if b == ballot and at.reveals[b, site]})
        votes.append(closes << MAX_MEMBERS | reveals)
    return tuple(votes)


def digest_of(at: SealedRound) -> bytes:
    """Of all votes that are here of a round that may matter to others.

    Of a site that made several choices in a ballot: that it did, and which of them others made, who made one alone. It
    can make so many that no two sites hold the same ones, and these would send each other all votes for ever.
    """
    votes: list[tuple[int, SiteKey, bytes, bytes]] = []
    for kind, held in ((SealClose.context, at.closes), (SealReveal.context, at.reveals)):
        for (ballot, author), made in held.items():
            told = set(made) if len(made) == 1 else {b"", *sole_choices(held, ballot)} & {b"", *made}
            votes += ((ballot, author, kind, choice) for choice in told)
    votes.sort()
    return digest(*(bytes([ballot]) + author + kind + choice for ballot, author, kind, choice in votes))[:SAID_BYTES]


def lacking(at: SealedRound, told: SealHave) -> Iterator[Statement]:
    """The small statements that a site lacks which told this of the same round. Vectors are asked for."""
    place = {site: number for number, site in enumerate(at.roster)}
    for site, key in at.keys.items():
        if not told.keys >> place[site] & 1:
            yield key
    if at.group is not None and told.opened != at.group.hash:
        yield at.group.open
    for site, given in at.loose.items():
        if not told.loose >> place[site] & 1:
            yield from given.values()
    all_there = True
    for said in sorted(votes_of(at), key=lambda said: said.ballot):
        known = told.votes[said.ballot] if said.ballot < len(told.votes) else 0
        shift = place[said.author] + (MAX_MEMBERS if isinstance(said, SealClose) else 0)
        if not known >> shift & 1:
            all_there = False
            yield said
    if all_there and told.votes == _votes(at) and told.said != digest_of(at):
        # Votes of the same sites, and not the same votes: somebody said one thing here and another there.
        yield from votes_of(at)


def wanted(at: SealedRound, told: SealHave) -> list[SiteKey]:
    """Members whose vectors that site has and this one has not, or not the one that a quorum voted for."""
    return [site for site in _held(at, told) if site not in at.sealed or at.is_another(site)]


def _held(at: SealedRound, told: SealHave) -> list[SiteKey]:
    """Members of this site's group whose vectors that site says it has."""
    if at.group is None or told.opened != at.group.hash:
        return []
    place = {site: number for number, site in enumerate(at.roster)}
    return [site for site in at.group.sites if told.sealed >> place[site] & 1]


def holders(at: SealedRound, site: SiteKey, told: Mapping[SiteKey, SealHave]) -> list[SiteKey]:
    """Sites that say that they have the vector of that member. `told`: what each said last."""
    return sorted(other for other, has in told.items() if has.round == at.number and site in _held(at, has))


def votes_of(at: SealedRound) -> Iterator[SealClose | SealReveal]:
    """All votes and reveals of a round that are here."""
    for closes in at.closes.values():
        yield from closes.values()
    for reveals in at.reveals.values():
        yield from reveals.values()
