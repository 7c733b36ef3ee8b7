"""A site's old key beside its new one, for some days, by which it changes over without a gap: which, and for how long.

An amendment that replaces a key may name a day (`RekeyRule.until`). Each site goes by its own clock for that: whom its
gate lets in changes no verdict.
"""

from __future__ import annotations

import datetime

from kmel_p2p.agreement.amendment import EPOCH, Amendment, Constitution, day_of
from kmel_p2p.agreement.identity import SiteKey

MAX_OVERLAP_DAYS = 31
"""That a site's old key is let in beside the new one."""


def overlapping(constitution: Constitution, today: int) -> dict[SiteKey, SiteKey]:
    """Old keys that may be let in today, each with the new one, which is on the roster now.

    Args:
        constitution: charter and amendments in force.
        today: in days since 1970-01-01.
    """
    former = {new: old for old, new in constitution.replaced.items()}
    found = {}
    for document in constitution.documents:
        for rule in document.amendment.rekey:
            new, until = SiteKey(bytes.fromhex(rule.key)), day_of(rule.until)
            if until is not None and today <= until <= today + MAX_OVERLAP_DAYS and new in constitution.roster:
                found[former[new]] = new
    return found


def overlap_problem(amendment: Amendment, today: int) -> str:
    """Why an amendment lets an old key in for too long, or no longer at all, in words; empty where it does not.

    Args:
        amendment: one that is drafted or signed.
        today: in days since 1970-01-01.
    """
    for rule in amendment.rekey:
        until = day_of(rule.until)
        if until is not None and not today <= until <= today + MAX_OVERLAP_DAYS:
            most = (EPOCH + datetime.timedelta(days=today + MAX_OVERLAP_DAYS)).isoformat()
            return f"it lets in the old key of {rule.name} until {rule.until}; name a day from today to {most}"
    return ""
