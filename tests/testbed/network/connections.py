"""Connections of the virtual-time network: made by dialling, ended by crash, silence, block or hang-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Dial, LinkDown, LinkUp
from kmel_p2p.core.types import SECOND, Micros
from tests.testbed.network.host import Host, Power
from tests.testbed.network.links import Direction
from tests.testbed.network.trace import Trace

_DIALLED = 7


@dataclass(frozen=True, slots=True)
class TransportModel:
    """How connections behave. With `dialled` off every host reaches every other, as with datagrams."""

    dialled: bool = True
    heartbeat_us: Micros = 15 * SECOND
    """A connection whose other end is silent this long is dropped by both ends."""
    connect_timeout_us: Micros = 5 * SECOND
    persist_us: Micros | None = 2_000
    """Time until a record handed to the store is durable. None: a watcher gives `Persisted`."""


class Wires(Protocol):
    """What connections need of the network they belong to."""

    transport: TransportModel
    now: Micros
    trace: Trace
    counters: Counter[str]
    hosts: dict[SiteKey, Host]
    copies: list[Host]

    @property
    def admits(self) -> Callable[[Host, Host], bool]: ...
    @property
    def turned_away(self) -> Callable[[Host, Host], None]: ...

    def direction(self, source: Host, target: Host) -> Direction: ...
    def call_at(self, when: Micros, action: Callable[[], None]) -> None: ...
    def command(self, host: Host, cmd: Any) -> None: ...


class Connections:
    """Who has a connection with whom. A connection carries messages both ways, whoever dialled it."""

    def __init__(self, network: Wires) -> None:
        self._network = network
        self._dialled: dict[tuple[SiteKey, SiteKey], None] = {}

    def linked(self, a: Host, b: Host) -> bool:
        """Whether a message from `a` has a connection to `b`."""
        pair, back = (a.place, b.place), (b.place, a.place)
        return not self._network.transport.dialled or pair in self._dialled or back in self._dialled

    def reached(self, host: Host, key: SiteKey) -> Host | None:
        """The computer of this key that `host` has a connection to; without one, the first that had the key."""
        first = self._network.hosts.get(key)
        if first is None or not self._network.copies:
            return first
        candidates = (first, *(other for other in self._network.copies if other.key == key))
        return next((other for other in candidates if self.linked(host, other)), first)

    def drop_blocked(self, source: Host, target: Host) -> None:
        """A block lasted a heartbeat: unless it is gone, both ends notice."""
        if self._network.direction(source, target).blocked:
            self.unlink(source, target, "no heartbeat")

    def drop_silent(self, host: Host) -> None:
        """A host was paused: if it is still, the others notice."""
        paused_for = self._network.now - host.paused_at_us
        if host.power is Power.PAUSED and paused_for >= self._network.transport.heartbeat_us:
            self.break_all(host, "no heartbeat", 0)

    def break_all(self, host: Host, reason: str, after_us: Micros) -> None:
        """End every connection of a host, noticed by the others after a time (unless it has started anew by then)."""
        network, start = self._network, host.starts
        for key in list(host.linked_to):
            other = network.hosts[key]
            network.call_at(network.now + after_us, partial(self._break, host, start, other, reason))

    def _break(self, host: Host, start: int, other: Host, reason: str) -> None:
        if host.starts == start:
            self.unlink(host, other, reason)

    def started(self, host: Host) -> None:
        """A host starts: whoever still believes in an old connection is told by its kernel."""
        for key in list(host.linked_to):
            self.unlink(host, self._network.hosts[key], "connection reset")

    def unlink(self, a: Host, b: Host, reason: str) -> None:
        """End the connection between two hosts and tell both."""
        network = self._network
        if not network.transport.dialled or not self.linked(a, b):
            return
        self._dialled.pop((a.place, b.place), None)
        self._dialled.pop((b.place, a.place), None)
        a.linked_to.pop(b.place, None)
        b.linked_to.pop(a.place, None)
        for host, other in ((a, b), (b, a)):
            network.command(host, LinkDown(other.key, reason))

    def dial(self, host: Host, dial: Dial) -> None:
        """Try to reach a site at its addresses; the outcome is reported after the time it takes."""
        network = self._network
        target = network.hosts.get(dial.to)
        network.trace.note(network.now, _DIALLED, host.index, target.index if target else -1, 0, "dial")
        network.counters["dials"] += 1
        if target is None or target.key == host.key:
            return
        if not network.transport.dialled:
            network.command(host, LinkUp(dial.to))
            return
        found = self._listener(dial.addresses)
        out, back = network.direction(host, target), network.direction(target, host)
        round_trip = out.conditions.latency_us + back.conditions.latency_us
        cut = out.blocked or back.blocked or not host.interface_up or not target.interface_up
        if found is None or cut:
            timeout = network.now + network.transport.connect_timeout_us
            network.call_at(timeout, partial(self._failed, host, target, "no answer"))
        elif found is not target:
            network.call_at(network.now + 2 * round_trip, partial(self._failed, host, target, "wrong key"))
        elif not network.admits(target, host):
            network.call_at(network.now + 2 * round_trip, partial(self._turned_away, host, target))
        elif not network.admits(host, target):
            network.call_at(network.now + 2 * round_trip, partial(self._failed, host, target, "not admitted"))
        else:
            network.call_at(network.now + 2 * round_trip, partial(self._link, host, target))

    def _listener(self, addresses: tuple[str, ...]) -> Host | None:
        """The running host that listens at the first address where anybody does."""
        for address in addresses:
            for host in self._network.hosts.values():
                if host.running and address in host.addresses:
                    return host
        return None

    def _turned_away(self, host: Host, target: Host) -> None:
        self._failed(host, target, "not admitted")
        if host.running and target.running:
            self._network.turned_away(target, host)

    def _failed(self, host: Host, target: Host, reason: str) -> None:
        if not self.linked(host, target):
            self._network.command(host, LinkDown(target.key, reason))

    def _link(self, host: Host, target: Host) -> None:
        if host.power is Power.OFF or target.power is Power.OFF:
            return
        if Power.PAUSED in (host.power, target.power):
            # Keys are exchanged by the program, and it stands still.
            self._failed(host, target, "no answer")
            return
        known = self.linked(host, target)
        for one, other in ((host, target), (target, host)):
            former = self.reached(one, other.key)
            if former is not None and former is not other:
                self.unlink(one, former, "displaced by another connection of this key")
        self._dialled[host.place, target.place] = None
        host.linked_to[target.place] = None
        target.linked_to[host.place] = None
        if not known:
            self._network.command(host, LinkUp(target.key))
            self._network.command(target, LinkUp(host.key))
