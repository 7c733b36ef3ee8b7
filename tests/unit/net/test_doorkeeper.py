"""What connections to the port may cost: strangers that say nothing, members that keep too many, endless messages."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest
import zmq

from kmel_p2p.core.types import MILLISECOND, Lane
from kmel_p2p.net import doorkeeper
from kmel_p2p.net.doorkeeper import CROWDED, ENDLESS, SILENT_MAX, SILENT_OF_ONE_HOST, TOO_MANY, TOO_QUIET, Doorkeeper
from kmel_p2p.net.link_events import LinkFault, PeerMisbehaved, StrangerRefused
from kmel_p2p.net.settings import CHUNK_BYTES, MIB, TransportSettings
from tests.support.net_peers import Federation, Peer, short_settings, until

HONEST = "192.0.2.1"


@pytest.fixture
def strangers() -> Iterator[list[socket.socket]]:
    """Plain TCP connections that say nothing."""
    opened: list[socket.socket] = []
    yield opened
    for each in opened:
        each.close()


def connect(to: Peer, into: list[socket.socket], count: int) -> None:
    host, port = to.address.removeprefix("tcp://").rsplit(":", 1)
    for _ in range(count):
        into.append(socket.create_connection((host, int(port)), timeout=5))
        into[-1].setblocking(False)


def ended(opened: list[socket.socket]) -> int:
    """How many of them the other side has ended."""
    count = 0
    for each in opened:
        with contextlib.suppress(BlockingIOError):
            try:
                count += each.recv(4096) == b""
            except ConnectionError:
                count += 1
    return count


async def test_silent_connections_are_bounded_and_a_site_still_gets_in(
    federation: Federation, strangers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "SILENT_OF_ONE_HOST", 8)
    a, b = await federation.add(1), await federation.add(2)
    connect(a, strangers, 60)
    # ZeroMQ's own greeting is read first, then the end.
    ends: set[int] = set()

    def closed() -> int:
        ends.update(i for i, each in enumerate(strangers) if i not in ends and ended([each]))
        return len(ends)

    await until(lambda: closed() >= 52)
    assert a.transport._port is not None
    assert a.transport._port.connections <= 8
    b.dial(a)
    await until(lambda: b.outbound(a))
    told = [event for event in a.told(StrangerRefused) if event.explanation == TOO_MANY]
    assert told[0].address == "127.0.0.1"
    keeper = a.transport._port._doorkeeper
    # ZeroMQ tells a moment later that their handshakes broke off: that is no second stranger.
    await until(lambda: not a.transport._strangers._cut_us)
    assert a.transport.strangers_refused == keeper.cuts.total() >= 52
    assert not a.told(LinkFault)


FLOODS = {
    "one host": ["198.51.100.1" for _ in range(2000)],
    "some hosts": [f"198.51.100.{number % 8}" for number in range(2000)],
    "one IPv6 network": [f"2001:db8:0:1::{number:x}" for number in range(2000)],
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_ends_its_own_connections_and_no_honest_one(flood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {0: HONEST, **dict(enumerate(FLOODS[flood], start=1))}
    monkeypatch.setattr(doorkeeper, "remote_host", lambda descriptor, port: hosts[descriptor])
    monkeypatch.setattr(doorkeeper, "shut_down", lambda descriptor, port: None)
    cut: list[str] = []
    loop = asyncio.get_running_loop()
    keeper = Doorkeeper(loop, TransportSettings(), lambda: 0, lambda host, site, why: cut.append(host), lambda: True)
    for descriptor in hosts:
        keeper.accepted(descriptor)
    assert HONEST not in cut
    most = SILENT_MAX if flood == "some hosts" else SILENT_OF_ONE_HOST + 1
    assert len(keeper) <= most
    assert len(cut) + len(keeper) == len(hosts)


async def test_a_connection_without_a_word_ends(federation: Federation, strangers: list[socket.socket]) -> None:
    settings = short_settings(dial_timeout_us=400 * MILLISECOND, handshake_timeout_us=30_000 * MILLISECOND)
    a = await federation.add(1, settings=settings)
    connect(a, strangers, 3)
    await until(lambda: sum(e.explanation == TOO_QUIET for e in a.told(StrangerRefused)) and a.transport._port)
    await until(lambda: a.transport._port.connections == 0)  # type: ignore[union-attr]


async def test_a_member_keeps_a_bounded_number_of_connections(federation: Federation, raw_dealer) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealers = [raw_dealer(member, a) for _ in range(doorkeeper.CONNECTIONS_OF_ONE_SITE + 4)]
    for number, dealer in enumerate(dealers):
        dealer.socket.send(dealer.hello(dial=number + 1))
        await dealer.receive()
    await until(lambda: a.told(PeerMisbehaved))
    assert (a.told(PeerMisbehaved)[0].key, a.told(PeerMisbehaved)[0].reason) == (member.key, CROWDED)
    assert a.transport._port.connections <= doorkeeper.CONNECTIONS_OF_ONE_SITE  # type: ignore[union-attr]


PARTS = 800
"""Of 256 KiB: a message of 200 MiB, which ZeroMQ would hand over only when the last part is there."""


@pytest.mark.parametrize("greeted", [True, False])
async def test_a_message_without_an_end_is_cut_at_a_bound(federation: Federation, raw_dealer, greeted: bool) -> None:
    member = federation.member(0x55)
    a = await federation.add(1)
    dealer = raw_dealer(member, a)
    dealer.socket.setsockopt(zmq.RECONNECT_IVL, -1)
    if greeted:
        dealer.socket.send(dealer.hello())
        await dealer.receive()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    part = bytes(CHUNK_BYTES)
    for number in range(PARTS):
        dealer.socket.send(part, zmq.SNDMORE if number < PARTS - 1 else 0, copy=False)
    # Without a greeting it is the only site that the gate let in from there and that has said nothing.
    await until(lambda: [event.key for event in a.told(PeerMisbehaved) if event.reason == ENDLESS] == [member.key])
    # The sender shares this process, but its parts share one buffer.
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100 * MIB
    honest = await federation.add(2)
    honest.dial(a)
    await until(lambda: honest.outbound(a))
    assert honest.transport.send(a.key, b"still here", Lane.CONTROL)
    await until(lambda: a.messages)


async def test_a_silent_connection_is_named_only_where_it_can_be_one_site_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doorkeeper, "remote_host", lambda descriptor, port: HONEST)
    monkeypatch.setattr(doorkeeper, "shut_down", lambda descriptor, port: None)
    monkeypatch.setattr(doorkeeper.Unfinished, "is_endless", lambda unfinished, most: not unfinished.messages)
    cut: list[str] = []
    loop = asyncio.get_running_loop()
    keeper = Doorkeeper(loop, TransportSettings(), lambda: 0, lambda host, site, why: cut.append(site), lambda: True)
    for descriptor, admitted, heard in ((1, "aa", True), (2, "bb", False), (3, "cc", False)):
        keeper.accepted(descriptor)
        keeper.admitted(HONEST, admitted)
        if heard:
            keeper.heard(descriptor, admitted)
        if descriptor == 2:
            keeper.look()
    keeper.look()
    assert cut == ["bb", ""]


async def test_large_transfers_are_no_endless_messages(federation: Federation, pattern) -> None:
    a, b = await federation.add(1), await federation.add(2)
    b.dial(a)
    await until(lambda: b.outbound(a))
    for _ in range(4):
        assert b.transport.send(a.key, pattern(8 * 1024 * 1024), Lane.BULK)
    await until(lambda: len(a.messages) == 4)
    assert not a.told(PeerMisbehaved)
