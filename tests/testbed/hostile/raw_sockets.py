"""Connections that do not keep to ZeroMQ's or TCP's good manners."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import zmq

from kmel_p2p.agreement.identity import Identity, SiteKey, curve_public
from kmel_p2p.core.types import Lane
from kmel_p2p.net.frames import Greeting, Hello, encode

PART = bytes(256 * 1024)
PARTS = 1000
"""250 MiB if nobody ends it."""

HELD_S = 2.0
"""How long one connection is kept."""


async def endless_message(identity: Identity, key: SiteKey, address: str) -> None:
    """Send one message of ever more parts as the site `identity`, for a while."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.RECONNECT_IVL, -1)
    dealer.curve_publickey, dealer.curve_secretkey = identity.curve_pair()
    dealer.curve_serverkey = curve_public(key)
    try:
        dealer.connect(address)
        dealer.send(encode(Hello(Greeting(Lane.CONTROL, b"B" * 8, 1, b"S" * 8, 2**20))))
        for _ in range(500):
            if dealer.poll(0):
                break
            await asyncio.sleep(0.01)
        # ZeroMQ begins to send once the last part is there; the other side has ended the connection long before it.
        for number in range(PARTS):
            dealer.send(PART, zmq.SNDMORE if number < PARTS - 1 else 0, copy=False)
        await asyncio.sleep(HELD_S)
    finally:
        dealer.close(0)
        context.destroy(0)


async def silent_connections(address: str, count: int) -> list[socket.socket]:
    """Open connections and say nothing on them."""
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    opened: list[socket.socket] = []
    for number in range(count):
        with contextlib.suppress(OSError):
            opened.append(socket.create_connection((host, int(port)), timeout=2))
        if number % 50 == 49:
            await asyncio.sleep(0.005)
    return opened
