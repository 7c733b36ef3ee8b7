"""What a group and a vote must look like before anything else is asked of them, the same at every site."""

from __future__ import annotations

from collections.abc import Sequence

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.masking import MAX_MEMBERS
from kmel_p2p.core.sealed.messages import VOID, SealClose, SealOpen


def check_group(said: SealOpen, chain: bytes, roster: Sequence[SiteKey], least: int) -> None:
    """Two members may have one key: labels keep the secrets of pairs apart, and a group that was refused for it would
    let a site that copies another's key stop every opener.

    Args:
        chain: of the sums that this site holds.
        least: fewest members.

    Raises:
        WireError: it does not stand.
    """
    sites = [member.site for member in said.members]
    if said.chain != chain:
        raise WireError("a group on other sums than this site holds")
    if sites != sorted(set(sites)) or not set(sites) <= set(roster) or said.author not in sites:
        raise WireError("a group that is no part of the roster with its opener, in the order of keys")
    if not least <= len(sites) <= MAX_MEMBERS:
        raise WireError(f"a group of {len(sites)} members; it takes {least} to {MAX_MEMBERS}")


def check_vote(said: SealClose, least: int) -> None:
    """Args:
        least: fewest vectors in a sum.

    Raises:
        WireError: it does not stand.
    """
    sites = [sent.site for sent in said.included]
    if sites != sorted(set(sites)) or (sites and len(sites) < least):
        raise WireError("a vote for sites that are not in the order of keys, or too few")
    if not sites and said.open != VOID:
        raise WireError("a vote for no sum that names a group")
