"""What the transport's tests share: short settings, a peer that records, waiting with a deadline, a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import zmq

from kmel_p2p.agreement.identity import Identity, SiteKey, curve_public
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros
from kmel_p2p.net.frames import Greeting, Hello, encode
from kmel_p2p.net.link_events import Egress, LinkEvent, LinkState
from kmel_p2p.net.settings import CHUNK_BYTES, TransportSettings
from kmel_p2p.net.transport import Transport


def monotonic() -> Micros:
    return time.monotonic_ns() // 1000


def short_settings(**changes: Any) -> TransportSettings:
    """Times short enough for tests; sizes small enough to reach."""
    values: dict[str, Any] = {
        "max_message": 8 * 1024 * 1024,
        "window": 4 * CHUNK_BYTES,
        "reassembly": 16 * 1024 * 1024,
        "queue": 64 * 1024 * 1024,
        "backoff_first_us": 50 * MILLISECOND,
        "backoff_cap_us": 400 * MILLISECOND,
        "stable_after_us": 100 * MILLISECOND,
        "dial_timeout_us": 2 * SECOND,
        "connect_timeout_us": 1 * SECOND,
        "handshake_timeout_us": 1 * SECOND,
        "heartbeat_us": 300 * MILLISECOND,
        "heartbeat_timeout_us": 1200 * MILLISECOND,  # a busy machine must not end links
        "keepalive_us": 200 * MILLISECOND,
        "silence_us": 3 * SECOND,
        "stall_us": 3 * SECOND,
        "resume_us": 5 * SECOND,
    }
    values.update(changes)
    return TransportSettings(**values)


async def until(condition: Callable[[], Any], within: float = 60.0, what: str = "") -> Any:
    """Wait until `condition()` is truthy; its value. Polls the loop; never longer than the deadline."""
    end = time.monotonic() + within
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {within} s: {what or condition}")
        await asyncio.sleep(0.002)
    return value


@dataclass
class Peer:
    """A transport that records what it is told."""

    identity: Identity
    roster: Collection[SiteKey]
    transport: Transport = field(init=False)
    address: str = ""
    messages: list[tuple[SiteKey, bytes, Lane]] = field(default_factory=list)
    events: list[LinkEvent] = field(default_factory=list)
    audit: list[Egress] = field(default_factory=list)

    @property
    def key(self) -> SiteKey:
        return self.identity.key

    def on_egress(self, record: Egress) -> bool:
        self.audit.append(record)
        return True

    def on_message(self, sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        self.messages.append((sender, bytes(data), lane))

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def link(self, other: Peer) -> LinkState | None:
        return self.transport.links().get(other.key)

    def up(self, other: Peer) -> bool:
        state = self.link(other)
        return state is not None and (state.outbound or state.inbound)

    def outbound(self, other: Peer) -> bool:
        state = self.link(other)
        return state is not None and state.outbound

    def dial(self, other: Peer, address: str = "") -> None:
        self.transport.dial(other.key, (address or other.address,))


class Federation:
    """Makes peers of one roster and closes them."""

    def __init__(self) -> None:
        self.roster: set[SiteKey] = set()
        self.peers: list[Peer] = []

    async def add(
        self,
        number: int,
        *,
        bind: str = "tcp://127.0.0.1:0",
        settings: TransportSettings | None = None,
        roster: Collection[SiteKey] | None = None,
        audited: bool = False,
        start: bool = True,
        **overrides: Any,
    ) -> Peer:
        """A started peer. Its roster is the federation's unless given."""
        identity = Identity(bytes([number]) * 32)
        peer = Peer(identity, self.roster if roster is None else roster)
        self.roster.add(identity.key)
        callbacks: dict[str, Any] = {
            "on_message": peer.on_message,
            "on_link": peer.events.append,
            "on_egress": peer.on_egress if audited else None,
        }
        callbacks.update(overrides)
        peer.transport = Transport(
            identity,
            lambda: peer.roster,
            bind,
            settings=settings or short_settings(),
            clock=monotonic,
            rng=random.Random(number),
            **callbacks,
        )
        self.peers.append(peer)
        if start:
            peer.address = await peer.transport.start()
        return peer

    def member(self, number: int) -> Identity:
        """A site of the roster without a transport."""
        identity = Identity(bytes([number]) * 32)
        self.roster.add(identity.key)
        return identity

    async def close(self) -> None:
        for peer in self.peers:
            await peer.transport.close()


LARGE_BYTES = 8192
"""More than any control message of the tests, and less than a chunk."""


class Proxy:
    """A TCP proxy in front of one port, with faults that can be switched while connections live."""

    def __init__(self, target: str) -> None:
        self._target = int(target.rpartition(":")[2])
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._all: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.address = ""
        self.connections = 0
        self.delay_s = 0.0
        self.black_hole = False
        """Swallow everything, in both directions, without closing."""
        self.largest: int | None = None
        """Swallow what comes in larger pieces at once, as a path does that loses large packets."""
        self.worn = 0
        """So many connections, the first ones, swallow all that follows a large piece, as where a firewall forgot them;
        those that are made after them are sound."""
        self.cut_after: int | None = None
        """Reset a connection once it carried this many bytes towards the target; then None again."""
        self.forwarded = 0

    async def start(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._all.append(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._all.append(far_writer)
        if self._closed:
            writer.transport.abort()
            far_writer.transport.abort()
            return
        self._writers += [writer, far_writer]
        for source, sink, inward in ((reader, far_writer, True), (far_reader, writer, False)):
            task = asyncio.create_task(self._carry(source, sink, inward, number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, inward: bool, number: int) -> None:
        swallows = False
        try:
            while data := await source.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.black_hole or (self.largest is not None and len(data) > self.largest):
                    continue
                swallows = swallows or (number <= self.worn and len(data) > LARGE_BYTES)
                if swallows:
                    continue
                if inward:
                    self.forwarded += len(data)
                    if self.cut_after is not None and self.forwarded >= self.cut_after:
                        self.cut_after = None
                        self.reset()
                        return
                sink.write(data)
                await sink.drain()
            sink.write_eof()
        except (OSError, RuntimeError):  # the second: half-closed meanwhile
            sink.transport.abort()

    def reset(self) -> None:
        """Abort every connection."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def half_close(self) -> None:
        """Tell each side that the other will send nothing more, but leave the connections open."""
        for writer in self._writers:
            if not writer.transport.is_closing():
                writer.write_eof()

    async def close(self) -> None:
        self._closed = True
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)
        for writer in self._all:
            writer.transport.abort()
        for writer in self._all:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


class RawDealer:
    """A hostile or broken program with any CURVE key and routing id, on plain ZeroMQ."""

    def __init__(
        self, identity: Identity, server: Peer, *, routing_id: bytes | None = None, curve: bool = True
    ) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        if curve:
            self.socket.curve_publickey, self.socket.curve_secretkey = identity.curve_pair()
            self.socket.curve_serverkey = curve_public(server.key)
        if routing_id is not None:
            self.socket.routing_id = routing_id
        self.socket.connect(server.address)

    async def receive(self, within: float = 60.0) -> list[bytes]:
        return await until(lambda: self.socket.poll(0) and self.socket.recv_multipart(), within)

    def hello(self, lane: Lane = Lane.CONTROL, **changes: Any) -> bytes:
        usual: dict[str, Any] = {"lane": lane, "boot": b"B" * 8, "dial": 1, "session": b"S" * 8, "window": 2**20}
        return encode(Hello(Greeting(**(usual | changes))))

    def close(self) -> None:
        self._context.destroy(0)
