"""Spreads standings: own ones when they change; per interval, a random site is asked whether it knows other things.

An exchange begins with a digest of all that is known. Only if digests differ do standings travel: what is news since
the other was told last, or everything when that should have been enough and was not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Effect, Emit, Send
from kmel_p2p.core.pushsum.events import PushSumRefused
from kmel_p2p.core.pushsum.messages import Hop, Standings
from kmel_p2p.core.pushsum.standing import Standing, StandingTable
from kmel_p2p.core.types import Micros, Randomness

MAX_TOLD = 32
"""Sites told at once about a change; the periodic exchange reaches the rest."""


class Spread:
    """Keeps the table and tells others. Effects go to the shared `outbox`.

    Args:
        describe: fills in what this site states about itself for (generation, counter).
    """

    def __init__(
        self,
        identity: Identity,
        charter_id: bytes,
        table: StandingTable,
        describe: Callable[[int, int], Standing],
        generation: int,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        interval: Micros,
        now: Micros,
    ) -> None:
        self.table = table
        self._identity = identity
        self._charter_id = charter_id
        self._describe = describe
        self._order = (generation, 0)
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._interval = interval
        self._next = now + self._jittered()
        self._own: Standing | None = None
        self._told: dict[SiteKey, int] = {}

    def announce(self) -> None:
        """What this site states about itself changed: tell reachable sites."""
        self._own = None
        message = self._message((), Hop.NOTICE)
        alive = sorted(self._alive())
        told = alive if len(alive) <= MAX_TOLD else self._rng.sample(alive, MAX_TOLD)
        for key in told:
            self._outbox.append(Send(key, message))

    def greet(self, to: SiteKey) -> None:
        """Begin an exchange."""
        self._outbox.append(Send(to, self._message((), Hop.OFFER)))

    def forget(self, site: SiteKey) -> None:
        """A site came up anew: it may know nothing."""
        self._told.pop(site, None)

    def on_standings(self, sender: SiteKey, message: Standings) -> list[Standing]:
        """Take what another site knows; returns what was news. What follows something that does not stand is left."""
        news: list[Standing] = []
        own = self._statement().encoded
        try:
            # Our own newest statement comes back from everybody: it is no claim that needs to be exceeded.
            for encoded in message.standings:
                standing = self.table.offer(encoded) if encoded != own else None
                news += [standing] if standing is not None else []
        except WireError as error:
            self._outbox.append(Emit(PushSumRefused(sender, str(error))))
        if self.table.own_order >= self._order:
            self.announce()
        if message.hop != Hop.NOTICE and message.digest != self._digest():
            self._tell(sender, Hop.ANSWER if message.hop == Hop.OFFER else Hop.NOTICE)
        return news

    def advance(self, now: Micros) -> None:
        """Send the periodic exchange when it is due."""
        if now < self._next:
            return
        self._next = now + self._jittered()
        alive = sorted(self._alive())
        if alive:
            self.greet(self._rng.choice(alive))

    def deadline(self) -> Micros:
        """When `advance` has something to do."""
        return self._next

    def _tell(self, to: SiteKey, hop: Hop) -> None:
        """What `to` does not know, as far as we can tell; also of itself (`StandingTable.own_order`)."""
        news = self.table.since(self._told.get(to, 0)) or self.table.since(0)
        self._told[to] = self.table.version
        self._outbox.append(Send(to, self._message(news, hop)))

    def _message(self, news: Iterable[Standing], hop: Hop) -> Standings:
        encoded = (self._statement().encoded, *(s.encoded for s in news))
        return Standings(encoded, self._digest(), hop)

    def _digest(self) -> int:
        return self.table.digest ^ self._statement().mark

    def _statement(self) -> Standing:
        if self._own is None:
            generation, counter = max(self._order, self.table.own_order)
            self._order = (generation, counter + 1)
            self._own = self._describe(*self._order).signed(self._identity, self._charter_id)
        return self._own

    def _jittered(self) -> Micros:
        return self._interval // 2 + self._rng.randrange(self._interval)
