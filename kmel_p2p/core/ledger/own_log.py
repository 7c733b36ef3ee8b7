"""Whether this site knows how far its own log goes; if it may not, whom it must hear before it numbers another entry.

A store that was lost, or put back from a backup, does not know what this site signed after it. The others do: as soon
as an entry of its own comes in that this store did not have (or the site notices that its store is a copy), there may
be more, and a site that is away may be the only one to hold them. Another entry with such a number would be a fork,
which ends the log. So the site publishes nothing until every site of the roster was heard about its log, unless the
operator decides otherwise. The doubt is stored, for a restart must not end it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.ledger.events import OwnLogDoubted
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.rounds.states import Wait

IN_DOUBT = (
    "this site's store was put back from a copy or had lost entries of its own log, and sites that are away may hold "
    "more: an entry that they know otherwise would end the log. kmel-peer begin publishes without having heard them"
)


class OwnLog:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(self, own: SiteKey, ledger: Ledger, outbox: deque[Effect]) -> None:
        self._own = own
        self._ledger = ledger
        self._outbox = outbox
        self._known = ledger.head(own)
        """Own entries that this store held at the start, or that were published since."""
        self._heard: set[SiteKey] = set()

    def published(self, number: int) -> None:
        """An own entry is stored."""
        self._known = number

    def note(self, told: Iterable[SiteKey]) -> None:
        """Take in whom we heard, and whether own entries came from others."""
        self._heard.update(told)
        head = self._ledger.head(self._own)
        if head > self._known and not self._ledger.own_log_in_doubt:
            self._doubt(True)
        self._known = head

    def trust(self) -> None:
        """The operator decides to publish without having heard everybody."""
        if self._ledger.own_log_in_doubt:
            self._doubt(False)

    def parted(self) -> None:
        """The own log had two branches: whoever was heard before may not have known the other one."""
        self._heard.clear()
        self._doubt(True)

    def wait(self, roster: Iterable[SiteKey], signed: int) -> Wait | None:
        """Whom the next own entry waits for.

        Args:
            roster: the sites that take part and are not blocked.
            signed: the highest number of an own entry of which a signed header was seen.
        """
        if not self._ledger.own_log_in_doubt:
            return None
        unheard = tuple(sorted(set(roster) - self._heard - {self._own}))
        if not unheard and signed <= self._ledger.head(self._own):
            self.trust()
            return None
        return Wait(IN_DOUBT, unheard, until_begin=True)

    def _doubt(self, doubted: bool) -> None:
        self._ledger.own_log_in_doubt = doubted
        self._outbox.append(Persist(OwnLogDoubted(doubted)))
