"""The one bound socket of a site: receives from everybody, and answers those who cannot be dialled.

The sender of a message is the User-Id that our ZAP gate put on its connection. Routing ids are used to send an
answer back on the connection it came from, and trusted for nothing.
"""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from kmel_p2p.agreement.errors import Bug, ConfigError, LocalError
from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.net.address import Address, parse_address
from kmel_p2p.net.descriptors import shut_down
from kmel_p2p.net.doorkeeper import Doorkeeper
from kmel_p2p.net.sockets import (
    MORE_NOWAIT,
    NOWAIT,
    READABLE,
    Pump,
    make_monitor,
    make_router,
    readiness,
    receive_parts,
)
from kmel_p2p.net.wiring import Wiring

STRANGE_HANDSHAKES = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
"""What does not get as far as the gate: port scanners, programs without CURVE, and dials with a wrong server key."""


WATCHED = STRANGE_HANDSHAKES | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


class Sent(enum.Enum):
    """The outcome of sending an answer."""

    TAKEN = "taken"
    FULL = "full"
    GONE = "gone"


class InboundRoute:
    """The way back to a site over a connection it opened. Satisfies `Route`."""

    signals_room = False

    def __init__(self, port: Port, routing_id: bytes, descriptor: int, now: Micros) -> None:
        self.lane = Lane.CONTROL
        self.session = b""
        self.boot = b""
        self.dial = 0
        self.window = 0
        self.heard_us = now
        self.gone = False
        """The connection had ended at the last attempt to send."""
        self.doubts = 0
        """Times left to probe whether it has ended."""
        self.routing_id = routing_id
        self.descriptor = descriptor
        self._port = port

    def send(self, header: bytes, data: memoryview | None = None) -> bool:
        """Hand over one message; False when the connection is gone or its queue is full."""
        sent = self._port.send(self.routing_id, header, data)
        self.gone = sent is Sent.GONE
        return sent is Sent.TAKEN

    def cut(self) -> None:
        """Close the TCP connection under it."""
        self._port.cut(self.descriptor)


class Port:
    """A bound ROUTER.

    Args:
        wiring: what the transport shares.
        on_parts: user id, route, frames after the routing id, and whether there were too many.
        on_strange: told of each handshake that failed before a key was seen.
        on_disconnected: told the descriptor of each connection that ended; it may be in use again.
        on_cut: told host, site (hex key, or empty) and reason of each connection that the doorkeeper ended.
    """

    def __init__(
        self,
        wiring: Wiring,
        on_parts: Callable[[str, InboundRoute, list[zmq.Frame], bool], None],
        on_strange: Callable[[], None],
        on_disconnected: Callable[[int], None],
        on_cut: Callable[[str, str, str], None],
    ) -> None:
        self._wiring = wiring
        self._on_parts = on_parts
        self._on_strange = on_strange
        self._on_disconnected = on_disconnected
        self._closed = False
        self.number = 0
        """TCP port bound; 0 before."""
        self.gone_away = 0
        """Answers whose connection had ended."""
        self._socket = make_router(wiring.context, wiring.keys, wiring.settings)
        self._monitor = make_monitor(wiring.context, self._socket, WATCHED)
        self._doorkeeper = Doorkeeper(wiring.loop, wiring.settings, wiring.clock, on_cut, self._is_idle)

    def bind(self, address: str) -> str:
        """Bind and start receiving. Returns the address with the port filled in.

        Raises:
            ConfigError: the address is wrong or taken; says which and what to do.
        """
        try:
            parsed = parse_address(address, bindable=True)
            self._socket.bind(str(parsed))
        except LocalError as error:
            raise ConfigError(f"cannot listen: {error}") from None
        except zmq.ZMQError as error:
            raise ConfigError(_why_not_bound(parsed, error.errno or 0)) from None
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        if not isinstance(endpoint, bytes):
            raise Bug(f"LAST_ENDPOINT is {type(endpoint).__name__}")
        self.number = int(endpoint.rstrip(b"\0").rpartition(b":")[2])
        self._monitor_pump = Pump(self._wiring.loop, self._monitor, self._monitor_turn, self._fault)
        self._pump = Pump(self._wiring.loop, self._socket, self._turn, self._fault)
        self._doorkeeper.open(self.number)
        return str(Address(parsed.host, self.number))

    def _fault(self, error: BaseException) -> None:
        self._wiring.fault("port", error)

    def _turn(self) -> bool:
        end = self._wiring.clock() + self._wiring.settings.drain_us
        while not self._closed and readiness(self._socket) & READABLE:
            parts, overflow = receive_parts(self._socket)
            now = self._wiring.clock()
            if len(parts) > 1:
                # In CURVE sessions ZAP's User-Id is on every frame; ZeroMQ puts it there, not the remote peer.
                user_id = parts[1].get("User-Id")
                descriptor = parts[1].get(zmq.SRCFD)
                route = InboundRoute(self, parts[0].bytes, int(descriptor), now)
                self._doorkeeper.heard(int(descriptor), str(user_id))
                self._on_parts(str(user_id), route, parts[1:], overflow)
            if now >= end:
                return True
        return False

    def _monitor_turn(self) -> bool:
        end = self._wiring.clock() + self._wiring.settings.drain_us
        while not self._closed and readiness(self._monitor) & READABLE:
            if self._wiring.clock() >= end:
                return True
            happened = parse_monitor_message(self._monitor.recv_multipart(NOWAIT))
            event, value = int(happened["event"]), int(happened["value"])
            if event == zmq.EVENT_ACCEPTED:
                self._doorkeeper.accepted(value)
            elif event == zmq.EVENT_DISCONNECTED:
                self._doorkeeper.ended(value)
                self._on_disconnected(value)
            elif event == zmq.EVENT_CLOSED:
                self._doorkeeper.ended(value)
            else:
                self._on_strange()
        return False

    def send(self, routing_id: bytes, header: bytes, data: memoryview | None) -> Sent:
        """See `InboundRoute.send`."""
        if self._closed:
            return Sent.GONE
        try:
            self._socket.send(routing_id, MORE_NOWAIT)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self.gone_away += 1
            return Sent.GONE
        if data is None:
            self._socket.send(header, NOWAIT)
        else:
            self._socket.send(header, MORE_NOWAIT)
            self._socket.send(data, NOWAIT, copy=False, track=False)
        self._pump.nudge_if_readable()
        return Sent.TAKEN

    def admitted(self, host: str, site: str) -> None:
        """The gate let `site` (hex key) in, from this host."""
        self._doorkeeper.admitted(host, site)

    def cut(self, descriptor: int) -> None:
        """Shut down the TCP connection with this descriptor, if it is one to our port."""
        shut_down(descriptor, self.number)

    @property
    def connections(self) -> int:
        """Connections that others have opened to us."""
        return len(self._doorkeeper)

    def _is_idle(self) -> bool:
        return self._closed or not readiness(self._socket) & READABLE

    def poke(self) -> None:
        """Look at the sockets even if no edge was seen."""
        self._pump.nudge()
        self._monitor_pump.nudge()

    def close(self, linger_ms: int = 0) -> None:
        """Stop listening. `linger_ms` lets answers under way leave."""
        if self._closed:
            return
        self._closed = True
        self._doorkeeper.close()
        if self.number:
            self._pump.close()
            self._monitor_pump.close()
        self._socket.disable_monitor()
        self._socket.close(linger_ms)
        self._monitor.close(0)


def _why_not_bound(address: Address, code: int) -> str:
    where = f"cannot listen on {address}"
    if code == errno.EADDRINUSE:
        return (
            f"{where}: port {address.port} is in use by another program, perhaps another peer of this site; stop it "
            "or choose another port"
        )
    if code in (errno.EADDRNOTAVAIL, errno.ENODEV):
        return f"{where}: this machine has no such address; bind one it has, or 0.0.0.0 for all"
    if code == errno.EACCES:
        return f"{where}: port {address.port} needs privileges; choose one above 1023"
    return f"{where}: {os.strerror(code)}"
