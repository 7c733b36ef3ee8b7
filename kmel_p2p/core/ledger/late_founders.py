"""A founder that begins late finds a run that it can take part in: the others train longer.

Entries that a site published before a founder began are not counted against its limit, so that all founders have as
many still to make. What a founder saw when it began stands in the base of its first entry, which it signed and
everybody holds: so the limit is the same after a restart. A limit only says how long a site trains; no entry is refused
for it.
"""

from __future__ import annotations

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.ledger import Ledger


class LateFounders:
    """Entries that late founders add to the limit of one site.

    Args:
        own: the site.
        charter: its founders, and their lead: less than twice that, with what is on its way, is beginning together.
        ledger: the logs.
    """

    def __init__(self, own: SiteKey, charter: Charter, ledger: Ledger) -> None:
        self._own = own
        self._together = 2 * charter.pace.max_lead
        self._ledger = ledger
        self._awaited = set(charter.roster) - {own}
        """Founders whose first entry was not seen yet."""
        self._before = 0
        """Own entries before the last of the others began."""

    def added(self, limit: int) -> int:
        """Entries beyond `limit`; never more than as many again, whoever begins when."""
        for founder in [key for key in self._awaited if self._ledger.head(key)]:
            self._awaited.remove(founder)
            accepted = self._ledger.accepted
            first = accepted.header(founder, 1)
            # A log so long that its first header is gone began long before its author could be late for this limit.
            before = accepted.order.named(first.base).get(self._own, 0) if first is not None else 0
            if before > self._together:
                self._before = max(self._before, before)
        return min(self._before, limit)
