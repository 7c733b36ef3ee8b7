"""The connections one site opened to us: the newest per lane is a way back to it."""

from __future__ import annotations

from collections.abc import Iterator

from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.net.frames import Greeting
from kmel_p2p.net.port import InboundRoute

DOUBTS = 3
"""Probes, one per tick, of a connection that may have ended."""


class InboundRoutes:
    """At most one connection per lane."""

    def __init__(self) -> None:
        self._routes: dict[Lane, InboundRoute] = {}

    def __iter__(self) -> Iterator[InboundRoute]:
        return iter(list(self._routes.values()))

    def get(self, lane: Lane) -> InboundRoute | None:
        """The way back on a lane."""
        return self._routes.get(lane)

    def recognise(self, route: InboundRoute) -> InboundRoute:
        """The route already kept for the connection a message came from, refreshed; `route` itself if there is none."""
        for known in self._routes.values():
            if known.routing_id == route.routing_id:
                known.heard_at = route.heard_at
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

    def silent(self, since: Micros) -> list[InboundRoute]:
        """All of them when the control one was not heard after `since`: bulk connections carry no keepalive."""
        control = self._routes.get(Lane.CONTROL)
        return list(self._routes.values()) if control is not None and control.heard_at <= since else []
