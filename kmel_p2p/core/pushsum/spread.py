"""Spreads standings: own ones when they change; what is news to a random site, per interval."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.identity import Identity
from kmel_p2p.core.pushsum.messages import Standings
from kmel_p2p.core.pushsum.standing import Standing, StandingTable
from kmel_p2p.core.types import Micros, Randomness, SiteKey

MAX_TOLD = 32
"""Sites told at once about a change; the periodic exchange reaches the rest."""

FULL_EVERY = 8
"""One in so many exchanges carries everything, in case what was told before did not arrive."""


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
        message = Standings((self._statement(),), False)
        alive = sorted(self._alive())
        told = alive if len(alive) <= MAX_TOLD else self._rng.sample(alive, MAX_TOLD)
        for key in told:
            self._outbox.append(Send(key, message))

    def greet(self, to: SiteKey, reply: bool = True) -> None:
        """Tell one site what is news here since we told it last, also of itself (`StandingTable.own_order`)."""
        since = 0 if self._rng.randrange(FULL_EVERY) == 0 else self._told.get(to, 0)
        self._told[to] = self.table.version
        self._outbox.append(Send(to, Standings((self._statement(), *self.table.since(since)), reply)))

    def forget(self, site: SiteKey) -> None:
        """A site came up anew: it may know nothing."""
        self._told.pop(site, None)

    def on_standings(self, sender: SiteKey, message: Standings) -> list[Standing]:
        """Take what another site knows; returns what was news.

        Raises:
            WireError: one of them does not stand; those before it were taken.
        """
        # Our own newest statement comes back from everybody: it is no claim that needs to be exceeded.
        news = [standing for standing in message.standings if standing != self._own and self.table.offer(standing)]
        if self.table.own_order >= self._order:
            self.announce()
        if message.reply:
            # The answer asks for nothing back, so two sites never echo each other.
            self.greet(sender, reply=False)
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

    def _statement(self) -> Standing:
        if self._own is None:
            generation, counter = max(self._order, self.table.own_order)
            self._order = (generation, counter + 1)
            self._own = self._describe(*self._order).signed(self._identity, self._charter_id)
        return self._own

    def _jittered(self) -> Micros:
        return self._interval // 2 + self._rng.randrange(self._interval)
