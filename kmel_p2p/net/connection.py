"""One dial to one remote peer on one lane: a DEALER, the monitor that watches it, and nothing that outlives it.

The socket is made for the dial and closed at its first trouble, because ZeroMQ neither retries after a refusal nor
tells a second `connect()` from the first.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.net.connection_failure import ConnectionFailure, classify_handshake
from kmel_p2p.net.doorkeeper import UNFINISHED_MAX, Unfinished
from kmel_p2p.net.frames import Greeting, Hello, encode
from kmel_p2p.net.sockets import (
    MORE_NOWAIT,
    NOWAIT,
    READABLE,
    WRITABLE,
    Pump,
    make_dealer,
    make_monitor,
    readiness,
    receive_parts,
)
from kmel_p2p.net.wiring import Wiring

WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL

ROUTING_ID_PREFIX = b"k"
"""ZeroMQ keeps routing ids that begin with a zero byte to itself."""

ROUTING_ID_RANDOM_BYTES = 15


class ConnectionOwner(Protocol):
    """The owner of a connection."""

    def connection_parts(self, connection: Connection, parts: list[zmq.Frame], overflow: bool) -> None:
        """A message came over it."""
        ...

    def connection_writable(self, connection: Connection) -> None:
        """It may take another message."""
        ...

    def connection_ended(self, connection: Connection, failure: ConnectionFailure) -> None:
        """It failed or was lost; it is closed already."""
        ...


class Connection:
    """A DEALER on its one dial. Satisfies `Route`."""

    signals_room = True

    def __init__(
        self,
        wiring: Wiring,
        key: SiteKey,
        server_key: bytes,
        greeting: Greeting,
        numeric_address: str,
        owner: ConnectionOwner,
    ) -> None:
        now = wiring.clock()
        self.key = key
        self.lane: Lane = greeting.lane
        self.session = greeting.session
        self.numeric_address = numeric_address
        self.connected = False
        """TCP is connected."""
        self.authenticated = False
        """CURVE and the peer's gate admitted us."""
        self.up = False
        """The peer welcomed us."""
        self._unfinished: Unfinished | None = None
        self.dialled_us = now
        self.heard_us = now
        self.used_us = now
        self.ping_us: Micros | None = None
        """When the unanswered ping left; also its token."""
        self.pinged_us = now
        self._wiring = wiring
        self._owner = owner
        self._hello: bytes | None = encode(Hello(greeting))
        self._closed = False
        routing_id = ROUTING_ID_PREFIX + wiring.entropy(ROUTING_ID_RANDOM_BYTES)
        self._socket = make_dealer(wiring.context, wiring.keys, server_key, self.lane, routing_id, wiring.settings)
        self._monitor = make_monitor(wiring.context, self._socket, WATCHED)
        try:
            self._socket.connect(numeric_address)
        except zmq.ZMQError:
            self._release()
            raise
        self._monitor_pump = Pump(wiring.loop, self._monitor, self._monitor_turn, self._fault)
        self._pump = Pump(wiring.loop, self._socket, self._turn, self._fault)
        self._deadline: asyncio.TimerHandle | None = wiring.later(
            wiring.settings.dial_timeout_us, "connection", self._overdue
        )

    def _fault(self, error: BaseException) -> None:
        self._wiring.fault("connection", error)

    # -- sending ---------------------------------------------------------------------------------

    def send(self, header: bytes, data: memoryview | None = None) -> bool:
        """Hand over one message; False when ZeroMQ's queue is full or the connection is gone."""
        if self._closed:
            return False
        try:
            if data is None:
                self._socket.send(header, NOWAIT)
            else:
                self._socket.send(header, MORE_NOWAIT)
                self._socket.send(data, NOWAIT, copy=False, track=False)
        except zmq.Again:
            return False
        self.used_us = self._wiring.clock()
        self._pump.nudge_if_readable()
        return True

    def writable(self) -> bool:
        """Whether `send` would take a message now."""
        return not self._closed and bool(readiness(self._socket) & WRITABLE)

    # -- receiving -------------------------------------------------------------------------------

    def _turn(self) -> bool:
        settings = self._wiring.settings
        end = self._wiring.clock() + settings.drain_us
        while not self._closed:
            events = readiness(self._socket)
            if not events & READABLE:
                if events & WRITABLE:
                    self._send_hello()
                    if self.up:
                        self._owner.connection_writable(self)
                return False
            parts, overflow = receive_parts(self._socket)
            self.heard_us = self.used_us = self._wiring.clock()
            if self._unfinished is not None:
                self._unfinished.heard()
            self._owner.connection_parts(self, parts, overflow)
            if self.heard_us >= end:
                return True
        return False

    def _send_hello(self) -> None:
        if self.authenticated and self._hello is not None and self.send(self._hello):
            self._hello = None

    def welcomed(self) -> None:
        """The peer's welcome came: the connection is usable."""
        self.up = True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def poke(self) -> None:
        """Look at both sockets even if no edge was seen; end the connection if a message comes in without an end."""
        idle = not self._closed and not readiness(self._socket) & READABLE
        if idle and self._unfinished is not None and self._unfinished.is_endless(UNFINISHED_MAX):
            self.cut()
            return
        self._monitor_pump.nudge()
        self._pump.nudge()

    # -- watching --------------------------------------------------------------------------------

    def _monitor_turn(self) -> bool:
        while not self._closed and readiness(self._monitor) & READABLE:
            happened = parse_monitor_message(self._monitor.recv_multipart(NOWAIT))
            self._happened(int(happened["event"]), int(happened["value"]))
        return False

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self.connected = True
            self._unfinished = Unfinished(value)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.authenticated = True
            self._send_hello()
            self._pump.nudge()
        elif event & _FAILED:
            self.end(classify_handshake(event, value))
        elif event == zmq.EVENT_DISCONNECTED:
            self.end(self._loss_of_connection())
        elif event == zmq.EVENT_CLOSED and not self.connected:
            waited = self._wiring.clock() - self.dialled_us
            slow = waited >= self._wiring.settings.connect_timeout_us * 9 // 10
            self.end(ConnectionFailure.NO_ANSWER if slow else ConnectionFailure.NOBODY)

    def _loss_of_connection(self) -> ConnectionFailure:
        silent = self._wiring.clock() - self.heard_us
        if self.up and silent >= self._wiring.settings.heartbeat_timeout_us * 9 // 10:
            return ConnectionFailure.NO_HEARTBEAT
        return ConnectionFailure.CLOSED if self.authenticated else ConnectionFailure.WRONG_KEY

    def _overdue(self) -> None:
        self._deadline = None
        self.end(ConnectionFailure.STUCK_HANDSHAKE if self.connected else ConnectionFailure.NO_ANSWER)

    # -- ending ----------------------------------------------------------------------------------

    def end(self, failure: ConnectionFailure) -> None:
        """Close, and tell the owner."""
        if not self._closed:
            self.close()
            self._owner.connection_ended(self, failure)

    def cut(self) -> None:
        """End it because of what came over it."""
        self.end(ConnectionFailure.MISBEHAVED)

    def close(self, linger_ms: int = 0) -> None:
        """Close without telling anybody. `linger_ms`: how long what was handed over may take to leave."""
        if self._closed:
            return
        self._closed = True
        self.up = False
        self._pump.close()
        self._monitor_pump.close()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._release(linger_ms)

    def _release(self, linger_ms: int = 0) -> None:
        self._socket.disable_monitor()
        self._socket.close(linger_ms)
        self._monitor.close(0)
