"""The connections between us and one site, ours to it and its to us, and which of them carries what.

Our own connection of a lane goes first; where there is none, the way back over the one the site opened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.dialler import Dialler, DiallerOwner
from kmel_p2p.net.frames import SESSION_BYTES, Greeting
from kmel_p2p.net.port import InboundRoute
from kmel_p2p.net.wiring import Route, Wiring


class Routes:
    """Attributes:
    control, bulk: keep our own connections.
    inbound: the connections the site opened.
    """

    def __init__(
        self, wiring: Wiring, key: SiteKey, server_key: bytes, boot: bytes, dials: Iterator[int], owner: DiallerOwner
    ) -> None:
        self.control = Dialler(wiring, key, server_key, Lane.CONTROL, self._greeting, owner)
        self.bulk = Dialler(wiring, key, server_key, Lane.BULK, self._greeting, owner)
        self.inbound = InboundRoutes()
        self._wiring = wiring
        self._boot = boot
        self._dials = dials
        self._windows: dict[bytes, int] = {}

    def dialler(self, lane: Lane) -> Dialler:
        """The one that keeps our connection of a lane."""
        return self.control if lane is Lane.CONTROL else self.bulk

    def best(self, lane: Lane) -> Route | None:
        """Where messages of a lane go."""
        return self.dialler(lane).connection or self.inbound.get(lane)

    def want_bulk(self) -> bool:
        """Open our bulk connection where our control one got through. False where none did."""
        control = self.control.connection
        if control is not None:
            self.bulk.want((self.control.reached,))
        return control is not None

    def window(self, route: Route) -> int:
        """Bytes that the site takes over a route before it acknowledges any; 0 before its greeting."""
        return self._windows.get(route.session, 0)

    def greeted(self, greeting: Greeting) -> None:
        """The site has greeted over a connection: what it says of its window holds for it."""
        self._windows[greeting.session] = greeting.window

    def ended(self, session: bytes) -> None:
        """Forget what was said over a connection."""
        self._windows.pop(session, None)

    def answer(self, greeting: Greeting) -> Greeting:
        """What welcomes a site that greeted so."""
        window = self._wiring.settings.window
        return Greeting(greeting.lane, self._boot, greeting.dial, greeting.session, window)

    def refusal(self) -> Greeting:
        """What tells a dialler of another version which one we speak; only its number has to be understood."""
        return Greeting(Lane.CONTROL, self._boot, 0, bytes(SESSION_BYTES), 0)

    def renew_bulk(self) -> InboundRoute | None:
        """End the bulk connection in use. Returns it if it was the site's, which its caller must forget."""
        if self.bulk.connection is not None:
            self.bulk.connection.end(ConnectionFailure.CLOSED)
            return None
        route = self.inbound.get(Lane.BULK)
        if route is not None:
            route.cut()
        return route

    def bulk_state(self) -> tuple[bool, str]:
        """Whether there is a bulk connection, and why our last one ended or could not be opened."""
        return self.best(Lane.BULK) is not None, self.bulk.last_error

    def idle_bulk(self, now: Micros) -> bytes | None:
        """End our bulk connection where nothing has gone over it for long; returns its session."""
        connection = self.bulk.connection
        if connection is None or now - connection.used_us < self._wiring.settings.bulk_idle_us:
            return None
        self.bulk.hang_up()
        return connection.session

    def forgive(self, now: Micros) -> None:
        """Nobody's silence until now counts."""
        if (control := self.control.connection) is not None:
            control.heard_us = now
        for route in self.inbound:
            route.heard_us = now

    def poke(self) -> None:
        """Look at our sockets even if no edge was seen."""
        for dialler in (self.control, self.bulk):
            if dialler.connection is not None:
                dialler.connection.poke()

    async def close(self, linger_ms: int) -> None:
        """Release our connections. `linger_ms`: how long control messages handed over may take to leave."""
        await self.control.close(linger_ms)
        await self.bulk.close(0)

    def _greeting(self, lane: Lane) -> Greeting:
        session = self._wiring.entropy(SESSION_BYTES)
        return Greeting(lane, self._boot, next(self._dials), session, self._wiring.settings.window)


CUT_KEPT = 8
"""Connections of a site that were ended here and are remembered: two lanes, a few times in a row."""

DOUBTS = 3
"""Probes, one per tick, of a connection that may have ended."""


class InboundRoutes:
    """At most one connection per lane."""

    def __init__(self) -> None:
        self._routes: dict[Lane, InboundRoute] = {}
        self._cut: deque[bytes] = deque(maxlen=CUT_KEPT)
        """Routing ids of connections that were ended here."""

    def __iter__(self) -> Iterator[InboundRoute]:
        return iter(list(self._routes.values()))

    def get(self, lane: Lane) -> InboundRoute | None:
        """The way back on a lane."""
        return self._routes.get(lane)

    def recognise(self, route: InboundRoute) -> InboundRoute:
        """The route already kept for the connection a message came from, refreshed; `route` itself if there is none."""
        for known in self._routes.values():
            if known.routing_id == route.routing_id:
                known.heard_us = route.heard_us
                known.descriptor = route.descriptor
                return known
        return route

    def greet(self, route: InboundRoute, greeting: Greeting) -> bool:
        """Make a greeted connection the one of its lane. False for a greeting read late, of one replaced since."""
        known = self._routes.get(greeting.lane)
        if known is not None and known.boot == greeting.boot and known.dial > greeting.dial:
            return False
        route.lane = greeting.lane
        route.boot = greeting.boot
        route.dial = greeting.dial
        route.session = greeting.session
        self._routes[greeting.lane] = route
        return True

    def remove(self, route: InboundRoute) -> bool:
        """Forget a route. False when it had been replaced already."""
        if self._routes.get(route.lane) is not route:
            return False
        del self._routes[route.lane]
        return True

    def read_no_more(self, route: InboundRoute) -> None:
        """Its connection was ended here: ZeroMQ may still hand out what had come over it before."""
        self._cut.append(route.routing_id)

    def is_cut(self, route: InboundRoute) -> bool:
        """Whether a message came over a connection that was ended here."""
        return route.routing_id in self._cut

    def doubt(self, descriptor: int) -> None:
        """A connection with this descriptor ended; it may have been one of these.

        ZeroMQ tells of the end before it takes the connection's queue away, and descriptors are used again: so the
        connection is probed, a few times.
        """
        for route in self._routes.values():
            if route.descriptor == descriptor:
                route.doubts = DOUBTS

    def doubtful(self) -> list[InboundRoute]:
        """Those to probe now, each one time less."""
        found = [route for route in self._routes.values() if route.doubts > 0]
        for route in found:
            route.doubts -= 1
        return found

    def silent(self, since_us: Micros) -> list[InboundRoute]:
        """All of them when the control one was not heard after `since_us`: bulk connections carry no keepalive."""
        control = self._routes.get(Lane.CONTROL)
        return list(self._routes.values()) if control is not None and control.heard_us <= since_us else []
