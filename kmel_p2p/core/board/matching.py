"""Which notices go together, with a score that says why.

A need goes with an offer, and with another site's need of the same assay endpoint: two sites that both have some data
and both want better predictions are what a federation is made of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.notice import Need, Offer
from kmel_p2p.core.board.notice import Notice

POINTS = {"assay endpoint": 50, "unit": 15, "stage": 15, "data": 10, "reachable": 10}
"""What counts how much, of 100. Without the same assay endpoint there is no match, except for offers that name none."""

GENERAL = 20
"""Points, in place of those for the assay endpoint, of an offer that names none: compute, a service, a package."""

MUCH = 10
"""Size class from which data get all points for it: about a thousand measurements."""

Posted = tuple[Notice, Need | Offer]
"""A notice and what it says."""


@dataclass(frozen=True, slots=True)
class Match:
    """One notice that goes with another.

    Attributes:
        score: 0 to 100.
        reasons: name of `POINTS` -> points.
    """

    need: Notice
    other: Notice
    score: int
    reasons: Mapping[str, int]


def matches(
    posted: Iterable[Posted], names: Mapping[SiteKey, str], reachable: Collection[SiteKey], only: SiteKey | None = None
) -> list[Match]:
    """All pairs of a need and what goes with it, the best first; equal scores in the order of authors and slots.

    Args:
        posted: of current sites, none withdrawn.
        names: of the roster's sites: a notice may be for some of them only.
        reachable: sites that can be reached now, this one included.
        only: pairs in which this site has a part.
    """
    all_posted = list(posted)
    found = []
    for need, wanted in all_posted:
        if not isinstance(wanted, Need):
            continue
        for other, given in all_posted:
            # Two needs go with each other both ways: told once.
            twice = isinstance(given, Need) and other.place <= need.place
            if other.author == need.author or twice or only not in (None, need.author, other.author):
                continue
            if _is_for(wanted, names.get(other.author)) and _is_for(given, names.get(need.author)):
                reasons = _reasons(wanted, given, {need.author, other.author} <= set(reachable))
                if reasons:
                    found.append(Match(need, other, sum(reasons.values()), reasons))
    return sorted(found, key=lambda match: (-match.score, match.need.place, match.other.place))


def _is_for(content: Need | Offer, name: str | None) -> bool:
    return not content.sites or name in content.sites


def _reasons(wanted: Need, given: Need | Offer, both_reachable: bool) -> dict[str, int]:
    """Empty: they do not go together."""
    same = same_name(wanted.assay_endpoint, given.assay_endpoint)
    if given.assay_endpoint and not same:
        return {}
    points = {"assay endpoint": POINTS["assay endpoint"] if same else GENERAL}
    if same and same_name(wanted.unit, given.unit):
        points["unit"] = POINTS["unit"]
    if wanted.stage is not None and wanted.stage == given.stage:
        points["stage"] = POINTS["stage"]
    # What data add grows with the logarithm of their number. Where both have a need, the larger site's count.
    size = max(given.size_class, wanted.size_class) if isinstance(given, Need) else given.size_class
    data = math.floor(POINTS["data"] * min(size, MUCH) / MUCH)
    if data:
        points["data"] = data
    if both_reachable:
        points["reachable"] = POINTS["reachable"]
    return points


def same_name(one: str, other: str) -> bool:
    """Whether two sites mean the same by a name, however they spell it."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum() or letter in "%/µ")
