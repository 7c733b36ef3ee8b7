"""Where the present round is, in words for the operator, and for whom it waits."""

from __future__ import annotations

from collections.abc import Collection

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.sealed_round import SealedRound
from kmel_p2p.core.sealed.stages import Stage


def progress(at: SealedRound, stage: Stage, least: int) -> str:
    """For instance `sealed round 31: 5 of 6 sealed, sealed here`."""
    if at.group is None:
        return f"sealed round {at.number}: {len(at.keys)} sites are ready; a group takes {least}"
    return f"sealed round {at.number}: {len(at.sealed)} of {len(at.group.sites)} sealed, {stage.value} here"


def awaited(at: SealedRound, own: SiteKey, here: Collection[SiteKey]) -> tuple[SiteKey, ...]:
    """Sites that are not ready, or whose vectors are missing; if none are, those that are out of reach.

    Args:
        at: the round.
        own: this site.
        here: reachable sites, this one included.
    """
    if at.group is None:
        return tuple(site for site in at.roster if site not in at.keys and site != own)
    missing = tuple(site for site in at.group.sites if site not in at.sealed)
    return missing or tuple(site for site in at.roster if site not in here)
