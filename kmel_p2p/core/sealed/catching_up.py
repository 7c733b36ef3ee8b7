"""How a site that missed rounds goes on: by the word of more sites than can lie, and by sums that agree with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.messages import SealSum
from kmel_p2p.core.sealed.sums import SumEntry, SumLog, chain_after, decode_sum

KEPT = 4
"""Newest statements kept of each site: sites are a round or two apart."""


class Certificates:
    """What the other sites say that they hold.

    Args:
        liars: sites that may lie, at most: one more has to say the same.
    """

    def __init__(self, liars: int) -> None:
        self._liars = liars
        self._said: dict[SiteKey, list[SealSum]] = defaultdict(list)

    def take(self, said: SealSum) -> None:
        """A site's word, its signature checked."""
        held = self._said[said.author]
        if said not in held:
            self._said[said.author] = sorted([*held, said], key=lambda each: each.round)[-KEPT:]

    def newest(self, least: int) -> SealSum | None:
        """What enough sites say after the latest round, at least that one; None: nothing."""
        sites: dict[tuple[int, int, bytes], list[SealSum]] = defaultdict(list)
        for held in self._said.values():
            for said in held:
                if said.round >= least:
                    sites[said.round, said.number, said.chain].append(said)
        agreed = [said[0] for said in sites.values() if len(said) > self._liars]
        return max(agreed, key=lambda said: said.round, default=None)

    def holders(self, agreed: SealSum) -> list[SiteKey]:
        """Sites that say so, or that they hold more."""
        return sorted(site for site, held in self._said.items() if any(said.number >= agreed.number for said in held))


def continued(log: SumLog, encoded: Sequence[bytes], agreed: SealSum) -> list[SumEntry]:
    """Sums that lead from this log to what was agreed on.

    Raises:
        WireError: they do not.
    """
    entries = [decode_sum(each) for each in encoded[: agreed.number - log.number]]
    chain = log.chain
    for entry in entries:
        chain = chain_after(chain, entry)
    if len(entries) != agreed.number - log.number or chain != agreed.chain:
        raise WireError("sums that do not lead to what the other sites hold")
    return entries
