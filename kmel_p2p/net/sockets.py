"""ZeroMQ sockets with the options this program stands on, in one place.

Every option has its reason beside it; the measurements behind them are in docs/transport.md.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

from kmel_p2p.core.types import MILLISECOND, Lane
from kmel_p2p.net.settings import CHUNK_BYTES, CONTROL_BYTES_MAX, FRAME_OVERHEAD_MAX, TransportSettings

ZAP_DOMAIN = b"kmel"
"""Must not be empty: without a domain and its enforcement ZeroMQ lets any key in when no handler answers."""

PARTS_MAX = 3
"""Frames one message may have on a ROUTER: routing id, header, data. MAXMSGSIZE limits each, not their number."""

FILE_DESCRIPTORS_WANTED = 65536
"""About ten per peer: two connections each way, their mailboxes and their monitors."""

READABLE = int(zmq.POLLIN)
WRITABLE = int(zmq.POLLOUT)
NOWAIT = int(zmq.NOBLOCK)
MORE_NOWAIT = int(zmq.NOBLOCK | zmq.SNDMORE)
"""Plain integers, because pyzmq's flag enumerations cost as much as a send."""

_EVENTS = int(zmq.EVENTS)
_RCVMORE = int(zmq.RCVMORE)

AFTER_FAULT_S = 0.01
"""Pause before a turn that raised is tried again, so that a lasting fault does not take the processor."""

_monitor_names = itertools.count()


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """Our key pair for CURVE, 32 bytes each."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"CurveKeys({self.public.hex()})"


def make_context(settings: TransportSettings) -> zmq.Context[zmq.Socket[bytes]]:
    """One context per transport, because the ZAP address is per context. Raises the limit on open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILE_DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILE_DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=settings.io_threads)
    context.set(zmq.MAX_SOCKETS, settings.max_sockets)
    return context


def make_router(context: zmq.Context[Any], keys: CurveKeys, settings: TransportSettings) -> zmq.Socket[bytes]:
    """The one socket that receives from everybody: CURVE server under an enforced ZAP domain."""
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    _set_everywhere(socket, settings)
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a vanished peer is an error at once, not silence
    socket.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes over a routing id that is in use
    socket.setsockopt(zmq.BACKLOG, 512)
    # Per connection. Bulk is bounded by the bytes granted, so this only has to hold one window of chunks.
    chunks = settings.window // CHUNK_BYTES + 8
    socket.setsockopt(zmq.RCVHWM, max(settings.control_high_water, chunks))
    socket.setsockopt(zmq.SNDHWM, max(settings.control_high_water, chunks))
    return socket


def make_dealer(
    context: zmq.Context[Any],
    keys: CurveKeys,
    server_key: bytes,
    lane: Lane,
    routing_id: bytes,
    settings: TransportSettings,
) -> zmq.Socket[bytes]:
    """A connection to one remote peer, for one lane, used for one dial only."""
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    _set_everywhere(socket, settings)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
    socket.setsockopt(zmq.ROUTING_ID, routing_id)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # without a connection a send fails instead of piling up
    # ZeroMQ never dials again after a refusal, and does so without end after a wrong key: we dial ourselves.
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    high_water = settings.control_high_water if lane is Lane.CONTROL else settings.bulk_high_water
    socket.setsockopt(zmq.SNDHWM, high_water)
    socket.setsockopt(zmq.RCVHWM, max(settings.control_high_water, settings.window // CHUNK_BYTES + 8))
    return socket


def _set_everywhere(socket: zmq.Socket[bytes], settings: TransportSettings) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, settings.handshake_timeout_us // MILLISECOND)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, settings.connect_timeout_us // MILLISECOND)
    socket.setsockopt(zmq.HEARTBEAT_IVL, settings.heartbeat_us // MILLISECOND)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, settings.heartbeat_timeout_us // MILLISECOND)
    ttl = min(settings.heartbeat_timeout_us + settings.heartbeat_us, 6553 * 1000 * MILLISECOND)
    socket.setsockopt(zmq.HEARTBEAT_TTL, ttl // MILLISECOND)
    socket.setsockopt(zmq.MAXMSGSIZE, max(CHUNK_BYTES, CONTROL_BYTES_MAX) + FRAME_OVERHEAD_MAX)


def make_monitor(context: zmq.Context[Any], watched: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
    """A socket that receives what happens to `watched`.

    Disable the monitor of `watched` first, then close `watched`, then this one: otherwise ZeroMQ's thread may wait for
    ever to hand on what happens at the end.
    """
    name = f"inproc://kmel.monitor.{next(_monitor_names)}"
    watched.monitor(name, events)
    monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.LINGER, 0)
    monitor.connect(name)
    return monitor


def readiness(socket: zmq.Socket[bytes]) -> int:
    """ZeroMQ's POLLIN and POLLOUT bits for `socket`. Asking is also what lets it process what its I/O thread sent."""
    return int(socket.getsockopt(_EVENTS))


def receive_parts(socket: zmq.Socket[bytes], limit: int = PARTS_MAX) -> tuple[list[zmq.Frame], bool]:
    """One message as frames, and whether it had more than `limit` (the rest is thrown away as it is read).

    Raises:
        zmq.Again: nothing there.
    """
    parts = [socket.recv(NOWAIT, copy=False, track=False)]
    overflow = False
    while socket.getsockopt(_RCVMORE):
        part = socket.recv(NOWAIT, copy=False, track=False)
        if len(parts) < limit:
            parts.append(part)
        else:
            overflow = True
    return parts, overflow


class Pump:
    """Runs `turn` when a socket may have something, on the event loop and without a task to cancel.

    ZeroMQ's descriptor signals an edge: `turn` must take everything, or return True to be called again after the
    rest of the loop had its chance. A send may swallow the edge, hence `nudge` after sending. An exception from
    `turn` is reported and the pump goes on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        socket: zmq.Socket[bytes],
        turn: Callable[[], bool],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._turn = turn
        self._on_fault = on_fault
        self._scheduled: asyncio.Handle | None = None
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._closed = False
        loop.add_reader(self._descriptor, self.nudge)
        self.nudge()

    def nudge(self) -> None:
        """Have `turn` called soon."""
        if self._scheduled is None and not self._closed:
            self._scheduled = self._loop.call_soon(self._run)

    def nudge_if_readable(self) -> None:
        """After a send: look whether it swallowed the edge."""
        if not self._closed and readiness(self._socket) & READABLE:
            self.nudge()

    def _run(self) -> None:
        self._scheduled = None
        if self._closed:
            return
        try:
            more = self._turn()
        except Exception as error:
            self._on_fault(error)
            if not self._closed and not self._socket.closed:
                self._scheduled = self._loop.call_later(AFTER_FAULT_S, self._run)
            return
        if more:
            self.nudge()

    def close(self) -> None:
        """Stop. The socket is the caller's to close, afterwards."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            if self._scheduled is not None:
                self._scheduled.cancel()
