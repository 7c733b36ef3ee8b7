"""What sites say about their number of measurements, as far as their entries bear it out.

A site weighs at most as many measurements as its rounds so far, and the next one, could read. So no claim makes the
others' entries light, and a large site has its full weight once it has read its data once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kmel_p2p.agreement.campaign import Campaign
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit
from kmel_p2p.core.ledger.events import SizeImplausible
from kmel_p2p.core.rounds.contract import Members, size_class

PLAUSIBLE_CLASS = 32
"""Four billion measurements of one site; whoever says it has more is named."""


class BoundedSizes:
    """See the module docstring. Events go to the shared `outbox`.

    Args:
        campaign: the one in force.
        head: author -> number of its newest entry here.
    """

    def __init__(
        self,
        campaign: Callable[[], Campaign],
        members: Members,
        head: Callable[[SiteKey], int],
        outbox: deque[Effect],
    ) -> None:
        self._campaign = campaign
        self._members = members
        self._head = head
        self._outbox = outbox
        self._boasters: frozenset[SiteKey] = frozenset()
        """Sites that say they have more measurements than anybody has."""

    def of(self, key: SiteKey) -> int:
        """The size class that counts; tells when a site says what cannot be, and when it takes that back."""
        said = size_class(self._members, key)
        campaign = self._campaign()
        per_round = campaign.averaging.steps_per_entry * campaign.training.batch_size
        read = (self._head(key) + 1) * per_round * len(campaign.assay_endpoints.every)
        if (said > PLAUSIBLE_CLASS) != (key in self._boasters):
            self._boasters ^= {key}
            self._outbox.append(Emit(SizeImplausible(key, said, said > PLAUSIBLE_CLASS)))
        return min(said, read.bit_length())
