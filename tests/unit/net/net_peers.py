"""What the transport's tests share: short settings, a peer that records, waiting with a deadline, a proxy."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kmel_p2p.core.identity import Identity
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros, SiteKey
from kmel_p2p.net.links import Egress, LinkEvent, LinkState
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
        "backoff_first": 50 * MILLISECOND,
        "backoff_cap": 400 * MILLISECOND,
        "stable_after": 100 * MILLISECOND,
        "dial_timeout": 2 * SECOND,
        "connect_timeout": 1 * SECOND,
        "handshake_timeout": 1 * SECOND,
        "heartbeat": 200 * MILLISECOND,
        "heartbeat_timeout": 600 * MILLISECOND,
        "keepalive": 200 * MILLISECOND,
        "silence": 1500 * MILLISECOND,
        "stall": 3 * SECOND,
        "resume": 5 * SECOND,
    }
    values.update(changes)
    return TransportSettings(**values)


async def until(condition: Callable[[], Any], within: float = 10.0, what: str = "") -> Any:
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
    roster: set[SiteKey]
    transport: Transport = field(init=False)
    address: str = ""
    messages: list[tuple[SiteKey, bytes, Lane]] = field(default_factory=list)
    events: list[LinkEvent] = field(default_factory=list)
    audit: list[Egress] = field(default_factory=list)

    @property
    def key(self) -> SiteKey:
        return self.identity.key

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
        roster: set[SiteKey] | None = None,
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
            "on_egress": peer.audit.append if audited else None,
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

    async def close(self) -> None:
        for peer in self.peers:
            await peer.transport.close()
