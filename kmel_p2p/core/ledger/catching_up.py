"""How long a site that lacks entries of the others waits for them before it opens its next round."""

from __future__ import annotations

from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.types import Micros, Vector


class CatchingUp:
    """See the module docstring.

    Args:
        max_lead: entries that a site may be ahead of the slowest that trains beside it (charter).
        settings: how long it waits while nothing comes in, and in all.
        now: monotonic time.
    """

    def __init__(self, max_lead: int, settings: LedgerSettings, now: Micros) -> None:
        self._max_lead = max_lead
        self._settings = settings
        self._grew = (0, now)
        """Entries here, and when they last became more."""
        self._behind_since_us: Micros | None = None

    def look(self, held: Vector, behind: Vector, now: Micros) -> tuple[int, Micros]:
        """Entries missing here, if of any author that is more than pace explains and they come in, else 0; until when
        at most.

        Args:
            held: what is applied here.
            behind: author -> entries missing here.
            now: monotonic time.
        """
        entries = sum(held.values())
        if entries != self._grew[0]:
            self._grew = (entries, now)
        if max(behind.values(), default=0) <= 2 * self._max_lead:
            self._behind_since_us = None
            return 0, now
        if self._behind_since_us is None:
            self._behind_since_us = now
        settings = self._settings
        until_us = min(self._grew[1] + settings.catch_up_us, self._behind_since_us + settings.catch_up_limit_us)
        return (sum(behind.values()) if now < until_us else 0), until_us
