"""Whether this site knows how far its own log goes; if it may not, whom it must hear before it numbers another entry.

A store that was lost, or put back from a backup, does not know what this site signed after it. The others do. Another
entry with such a number would be a fork, which ends the log. Two things follow from that:

- **Every start** may be one from an old image of the disk, which looks like any other start. So before its first entry
  a site hears what every other site of the roster holds of its log. From the first of them on, those that are away are
  waited for only so long: a partner that left for good must not end the run of the others. A process that **stood
  still** and goes on is in the same place: a copy of it may have run meanwhile.
- **A doubt** has no such limit. It begins as soon as an entry of its own comes in that this store did not have, a
  header of one is shown, or the site notices that its store is a copy: then there may be more, and a site that is away
  may be the only one to hold it. The doubt is stored, for a restart must not end it. Where the site was publishing
  already, a copy of it is at work: what the others said before counts no more.

An operator can end both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Persist
from kmel_p2p.core.ledger.events import OwnLogDoubted
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.reasons import OWN_LOG
from kmel_p2p.core.rounds.states import Wait
from kmel_p2p.core.types import Micros

IN_DOUBT = (
    "this site's store was put back from a copy or had lost entries of its own log, and sites that are away may hold "
    "more: an entry that they know otherwise would end the log. kmel-peer begin publishes without having heard them"
)
NOT_HEARD = (
    "since this start, some sites have not said what they hold of this site's log. If its disk was put back as an "
    "image, they may hold more, and an entry that they know otherwise would end the log. kmel-peer begin publishes "
    "without having heard them"
)
NOT_HEARD_ANEW = (
    "since this machine stood still, some sites have not said what they hold of this site's log. If a copy of it ran "
    "meanwhile, they may hold more, and an entry that they know otherwise would end the log. kmel-peer begin publishes "
    "without having heard them"
)


class OwnLog:
    """See the module docstring. Effects go to the shared `outbox`.

    Args:
        hear_us: how long sites that are away are waited for, after the first other site was heard.
    """

    def __init__(self, own: SiteKey, ledger: Ledger, outbox: deque[Effect], hear_us: Micros) -> None:
        self._own = own
        self._ledger = ledger
        self._outbox = outbox
        self._known = ledger.head(own)
        """Own entries that this store held at the start, or that were published since."""
        self._heard: set[SiteKey] = set()
        self._hear_us = hear_us
        self._confirmed = False
        """Whether the first entry since the start may go, or went."""
        self._until_us: Micros | None = None
        """Until when it waits at the latest, once anybody was heard."""
        self._not_heard = NOT_HEARD

    @property
    def asks(self) -> bool:
        """Whether it matters whom we hear."""
        return self._ledger.own_log_in_doubt or not self._confirmed

    def published(self, number: int) -> None:
        """An own entry is stored."""
        self._known = max(self._known, number)

    def note(self, told: Iterable[SiteKey], signed: int, now: Micros) -> bool:
        """Take in whom we heard, and whether own entries came from others.

        Returns whether a copy of this site seems to be at work, so that all must be heard anew: there are entries of it
        that this process did not make, after the first that it was free to make.

        Args:
            told: sites that say what they hold of this log, and have shown what they say.
            signed: the highest number of an own entry of which a signed header was seen.
            now: monotonic time.
        """
        self._heard.update(told)
        if self._heard and self._until_us is None:
            self._until_us = now + self._hear_us
        self._confirmed = self._confirmed or (self._until_us is not None and now >= self._until_us)
        if self._own in self._ledger.accepted.retired:
            # An amendment cut the log here; the store lost nothing.
            return False
        head = self._ledger.head(self._own)
        news = max(head, signed) > self._known
        if news and not self._ledger.own_log_in_doubt:
            self._doubt(True)
        self._known = max(head, signed)
        return news and self._confirmed

    def trust(self) -> None:
        """The operator decides to publish without having heard everybody."""
        self._confirmed = True
        if self._ledger.own_log_in_doubt:
            self._doubt(False)

    def parted(self) -> None:
        """The own log had two branches: whoever was heard before may not have known the other one."""
        self._heard.clear()
        self._doubt(True)

    def hear_anew(self) -> None:
        """This process stood still, or a copy of it is at work: what was heard before may no longer hold."""
        self._heard.clear()
        self._confirmed, self._until_us = False, None
        self._not_heard = NOT_HEARD_ANEW

    def wait(self, roster: Iterable[SiteKey], signed: int) -> Wait | None:
        """Whom the next own entry waits for.

        Args:
            roster: the sites that take part and are not blocked.
            signed: the highest number of an own entry of which a signed header was seen.
        """
        in_doubt = self._ledger.own_log_in_doubt
        if self._confirmed and not in_doubt:
            return None
        unheard = tuple(sorted(set(roster) - self._heard - {self._own}))
        if not unheard and signed <= self._ledger.head(self._own):
            self.trust()
            return None
        if in_doubt:
            return Wait(IN_DOUBT, unheard, kind=OWN_LOG, until_begin=True)
        return Wait(self._not_heard, unheard, self._until_us, OWN_LOG, until_begin=True)

    def deadline(self) -> Micros | None:
        """When time alone ends the wait."""
        return None if self._confirmed else self._until_us

    def _doubt(self, doubted: bool) -> None:
        self._ledger.own_log_in_doubt = doubted
        self._outbox.append(Persist(OwnLogDoubted(doubted)))
