"""What a site states of the others' contributions: its own account, made coarse before it leaves the site."""

from __future__ import annotations

import math

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.notice import MAX_STATED, PREFIX, ContributionStatement
from kmel_p2p.site.observe.contribution import COPIES
from kmel_p2p.site.trainer.contribution_book import ContributionBook, Worth

FEWEST_STRETCHES = 4
"""Looks back at the run below which nothing is stated."""


def stated(charter: Charter, own: SiteKey, book: ContributionBook) -> ContributionStatement:
    """The statement that follows from what this site measured so far.

    Of each assay endpoint, what helped is divided among the other authors; the mean over assay endpoints is stated in
    whole percent, rounded down.

    Args:
        charter: says which part of the run counts.
        own: this site's key. It says nothing of itself.
        book: what it measured.

    Raises:
        LocalError: too little was measured to state anything.
    """
    if book.stretches < FEWEST_STRETCHES or not book.losses:
        raise LocalError(
            f"too little was measured to state anything: {book.stretches} stretches of the run where "
            f"{FEWEST_STRETCHES} are needed, on {len(book.losses)} assay endpoints with enough held-out compounds; "
            "see kmel-peer contribution"
        )
    others = sorted(author for author in book.authors if author != own)
    parts = dict.fromkeys(others, 0.0)
    for place in book.losses:
        found = {author: _helped(book, author, place, charter.reward.measure) for author in others}
        if (whole := sum(found.values())) > 0:
            for author, value in found.items():
                parts[author] += value / whole / len(book.losses)
    percents = {author: math.floor(100 * part + 1e-9) for author, part in parts.items()}
    named = sorted((author for author in others if percents[author]), key=lambda each: (-percents[each], each))
    copiers = [
        author for author in others if book.authors[author].copies >= max(1, COPIES * book.authors[author].entries)
    ]
    return ContributionStatement(
        measure=charter.reward.measure,
        entries=sum(sums.entries for sums in book.authors.values()),
        given=tuple(sorted((author.hex()[:PREFIX], percents[author]) for author in named[:MAX_STATED])),
        copiers=tuple(sorted(author.hex()[:PREFIX] for author in copiers[:MAX_STATED])),
    )


def _helped(book: ContributionBook, author: SiteKey, place: int, measure: str) -> float:
    """By how much an author's entries made the loss smaller; 0 where they made it larger."""
    found: Worth | None = book.late(author, place) if measure == "second half" else book.worth(author, place)
    return max(0.0, found.value) if found is not None else 0.0
