"""The charter's `[reward]`, and the shares that follow from it and from what sites state of contributions.

All is counted in whole numbers, so that whoever has the same statements gets the same shares, to the last digit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import pydantic

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.notice import PREFIX, ContributionStatement
from kmel_p2p.agreement.strict import StrictModel

WHOLE = 10_000
"""Shares are parts of this."""


class RewardRule(StrictModel):
    """How shares follow from what sites state of each other's contributions (docs/consortium.md)."""

    shares: Literal["none", "stated"] = "none"
    """"stated": a part is the same for all sites, the rest follows from signed statements about contributions. What is
    shared, the consortium decides outside the software."""
    equal_percent: Annotated[int, pydantic.Field(ge=0, le=100)] = 50
    """Part that is the same for all sites. Statements are estimates on tens to hundreds of compounds: leave much of it
    equal."""
    measure: Literal["second half", "whole"] = "second half"
    """Of the run: at first every author brings the loss down, and anybody could take its place."""

    @property
    def on(self) -> bool:
        """Whether the charter names shares."""
        return self.shares == "stated"

    @pydantic.model_validator(mode="after")
    def _is_on_or_not_there(self) -> RewardRule:
        idle = sorted(self.model_fields_set - {"shares"})
        if not self.on and idle:
            raise ValueError(f"{idle[0]} has no effect without shares = 'stated': no shares are named")
        return self


def reward_shares(
    rule: RewardRule, roster: Sequence[SiteKey], statements: Mapping[SiteKey, ContributionStatement]
) -> dict[SiteKey, int]:
    """What each site gets, in parts of `WHOLE`; they add up to it.

    A site's score is the median of what the others state of it: what it says of itself does not count, and fewer than
    half of the others cannot move it beyond what honest ones state. Whoever more than half of them call a copier
    scores nothing. Without any score, all get the same.

    Args:
        roster: the sites that share, in the order in which leftover parts are given away.
        statements: by their author; those of others than these sites do not count.
    """
    scores = [_doubled_score(key, [statements[each] for each in roster if each in statements and each != key])
              for key in roster]  # fmt: skip
    total, sites = sum(scores), len(roster)
    equal = rule.equal_percent if total else 100
    # A site's part is weight / all: equal/100/sites + (1 - equal/100) * score/total, over one denominator.
    weights = [equal * max(total, 1) + (100 - equal) * sites * score for score in scores]
    return dict(zip(roster, _divided(weights), strict=True))


def _doubled_score(site: SiteKey, by_others: Sequence[ContributionStatement]) -> int:
    """Twice the median of the percent that others state, so that it is a whole number."""
    if not by_others:
        return 0
    name = site.hex()[:PREFIX]
    if 2 * sum(name in each.copiers for each in by_others) > len(by_others):
        return 0
    stated = sorted(dict(each.given).get(name, 0) for each in by_others)
    middle = len(stated) // 2
    return 2 * stated[middle] if len(stated) % 2 else stated[middle - 1] + stated[middle]


def _divided(weights: Sequence[int]) -> list[int]:
    """`WHOLE` in the proportion of weights: rounded down, and what is left to the largest remainders, first come first
    served among equals (Hamilton's method)."""
    whole = sum(weights)
    parts = [WHOLE * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda at: (-(WHOLE * weights[at] % whole), at))
    for at in by_remainder[: WHOLE - sum(parts)]:
        parts[at] += 1
    return parts
