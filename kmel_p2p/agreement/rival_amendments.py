"""Two amendments with one number that both reached a quorum: which of the two is in force, and what gives way.

Two quorums share a site, so somebody signed both. Wherever such rivals are known, sites decide alike without a word:

- An amendment that most sites of the roster before it went by is *settled*, and wins over one that is not. A site goes
  by an amendment when it signs an entry, or a later amendment, under it. So nobody who holds old keys overrules what
  the sites have long gone by.
- Where neither is settled, the one with the smaller hash wins.
- Where both are, the sites have parted: nobody gives way, and people must decide.

What gives way is *overruled*, and all amendments that follow it are, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import zip_longest

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.identity import SiteKey

WentBy = Mapping[bytes, Collection[SiteKey]]
"""Hash of an amendment -> sites known to have signed an entry with it as the newest one."""


def parting(one: Constitution, other: Constitution) -> int:
    """Number of the first amendment in which two constitutions differ; one may have none of it. 0: they are equal."""
    pairs = zip_longest(one.documents, other.documents)
    hashes = ((a.amendment.hash if a else b"", b.amendment.hash if b else b"") for a, b in pairs)
    return next((number for number, (a, b) in enumerate(hashes, 1) if a != b), 0)


def is_settled(constitution: Constitution, number: int, went_by: WentBy) -> bool:
    """Whether most sites of the roster before amendment `number` went by it."""
    roster = constitution.at(number - 1).roster
    signers: set[SiteKey] = set()
    for later, document in enumerate(constitution.documents[number - 1 :], number):
        signers.update(went_by.get(document.amendment.hash, ()))
        if later > number:
            then = constitution.at(later - 1)
            sites = (then.site_named(name) for name in then.signed(document))
            signers.update(site.site_key for site in sites if site is not None)
    # A site that has a new key since is the same site.
    went = {key for signer in signers for key in constitution.keys_of(signer)}
    return 2 * len(went & roster.keys()) > len(roster)


def went_by_each(went_by: WentBy, ours: Constitution, rivals: Iterable[Constitution]) -> dict[bytes, set[SiteKey]]:
    """Who went by each amendment in which these constitutions differ, also by one that follows it in any of them.

    Without it, of three constitutions each might overrule the next in a circle: two that begin alike would count other
    sites for the same amendment.
    """
    known = {hash_: set(sites) for hash_, sites in went_by.items()}
    partings = [(rival, parting(rival, ours)) for rival in rivals]
    first = min((number for _, number in partings), default=ours.number + 1)
    for constitution, since in (*partings, (ours, first)):
        sites: set[SiteKey] = set()
        for number in range(constitution.number, max(1, min(since, first)) - 1, -1):
            sites |= known.get(constitution.hash_at(number), set())
            known[constitution.hash_at(number)] = set(sites)
            before, document = constitution.at(number - 1), constitution.documents[number - 1]
            signed = (before.site_named(name) for name in before.signed(document))
            sites |= {site.site_key for site in signed if site is not None}
    return known


def overrules(challenger: Constitution, ours: Constitution, went_by: WentBy) -> bool:
    """Whether `challenger` is to be in force instead of `ours`. Both must be valid."""
    number = parting(challenger, ours)
    if not number or number > challenger.number:
        return False
    if number > ours.number:
        return True
    theirs, own = is_settled(challenger, number, went_by), is_settled(ours, number, went_by)
    if theirs or own:
        return theirs and not own
    return challenger.hash_at(number) < ours.hash_at(number)


def have_parted(one: Constitution, other: Constitution, went_by: WentBy) -> bool:
    """Whether neither gives way, because the sites have gone by both."""
    number = parting(one, other)
    rivals = bool(number) and number <= min(one.number, other.number)
    return rivals and is_settled(one, number, went_by) and is_settled(other, number, went_by)


def overruling(winner: Constitution, loser: Constitution) -> Constitution:
    """The winner, with what gives way to it remembered."""
    number = parting(winner, loser)
    gone = loser.documents[number - 1 :] if number else ()
    overruled = {document.amendment.hash: document for document in gone}
    known = {**loser.overruled, **winner.overruled, **overruled}
    standing = {document.amendment.hash for document in winner.documents}
    return Constitution(winner.genesis, winner.documents, {key: known[key] for key in known.keys() - standing})


def signed_both(one: AmendmentDocument, other: AmendmentDocument, before: Constitution) -> list[str]:
    """Names of the sites of the roster before them that signed both of two amendments with one number."""
    return sorted(set(before.signed(one)) & set(before.signed(other)))
