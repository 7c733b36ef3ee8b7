"""Connections through a SOCKS5 proxy: it looks up the names, and what it does not let through is said in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.types import Lane
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.desk import member_keys
from kmel_p2p.net.desk_client import DeskUnreachableError, ask_desk, encode_question
from kmel_p2p.net.link_events import DialFailed
from tests.support.net_peers import Federation, short_settings, until
from tests.support.socks_server import SocksServer

NAME = "south.partner.example"
"""No name server of this world knows it, but the proxy does."""


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[SocksServer]:
    made = SocksServer({NAME: "127.0.0.1"})
    await made.start()
    yield made
    await made.close()


async def test_control_and_bulk_go_through_the_proxy_to_a_name_that_only_it_knows(
    federation: Federation, proxy: SocksServer, pattern: Callable[[int], bytes]
) -> None:
    north = await federation.add(1, bind="", settings=short_settings(proxy=proxy.address))
    south = await federation.add(2)
    port = int(south.address.rpartition(":")[2])
    north.dial(south, f"tcp://{NAME}:{port}")
    await until(lambda: north.outbound(south))
    data = pattern(3_000_000)
    assert north.transport.send(south.key, data, Lane.BULK)
    await until(lambda: south.messages)
    assert [message for _, message, _ in south.messages] == [data]
    assert south.transport.send(north.key, b"and back", Lane.CONTROL)
    await until(lambda: north.messages)
    assert set(proxy.asked) == {(NAME, port)}
    assert len(proxy.asked) == 2, "one connection for each lane"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{}", "tcp://[::1]:{}"])
async def test_numeric_addresses_go_through_it_as_they_are(
    federation: Federation, proxy: SocksServer, address: str
) -> None:
    north = await federation.add(1, bind="", settings=short_settings(proxy=proxy.address))
    south = await federation.add(2, bind="tcp://*:0")
    port = int(south.address.rpartition(":")[2])
    north.dial(south, address.format(port))
    await until(lambda: north.outbound(south))
    assert proxy.asked == [(address[6:].rpartition(":")[0].strip("[]"), port)]


async def test_a_proxy_that_refuses_or_does_not_run_is_named(federation: Federation, proxy: SocksServer) -> None:
    proxy.refuses = True
    north = await federation.add(1, bind="", settings=short_settings(proxy=proxy.address))
    south = await federation.add(2)
    north.dial(south)
    refused = await until(lambda: north.told(DialFailed))
    assert f"no way to {south.address} through the proxy {proxy.address}: its rules do not allow" in refused[0].reason
    await proxy.close()
    proxy.refuses = False
    await until(lambda: "it cannot be reached" in north.told(DialFailed)[-1].reason)
    host, _, port = proxy.address.rpartition(":")
    await proxy.start(host, int(port))
    await until(lambda: north.outbound(south), what="it dials on, and gets through once the proxy lets it")


async def test_a_proxy_whose_name_does_not_resolve_is_named(federation: Federation) -> None:
    north = await federation.add(1, bind="", settings=short_settings(proxy="proxy.invalid:1080"))
    south = await federation.add(2)
    north.dial(south)
    failed = await until(lambda: north.told(DialFailed))
    assert "through the proxy proxy.invalid:1080: it cannot be reached" in failed[0].reason


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak SOCKS5"),
        (b"\x05\x02", "wants a login"),
        (b"\x05\xff", "wants a login"),
        (b"\x05", "is it a SOCKS5 proxy?"),
        (b"", "is it a SOCKS5 proxy?"),
        (b"\x05\x00\x05\x05\x00\x01" + bytes(6), "nobody listens there"),
        (b"\x05\x00\x05\x63\x00\x03\x00\x00\x00", "it answers with code 99"),
        (b"\x05\x00\x05\x00\x00\x03\xff" + bytes(20), "is it a SOCKS5 proxy?"),
    ],
)
async def test_what_is_no_proxy_is_told_apart_and_dialled_again(
    federation: Federation, answers: bytes, said: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers)
        await writer.drain()
        await reader.read(3)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = "{}:{}".format(*server.sockets[0].getsockname())
    north = await federation.add(1, bind="", settings=short_settings(proxy=address))
    south = await federation.add(2)
    north.dial(south)
    failed = await until(lambda: north.told(DialFailed)[1:])
    assert said in failed[0].reason
    assert address in failed[0].reason
    server.close()


async def test_questions_at_desks_go_through_it_too(proxy: SocksServer) -> None:
    proxy.refuses = True
    ours, theirs = Identity(b"n" * 32), Identity(b"s" * 32)
    keys = member_keys(ours, theirs.key, asks=True)
    assert keys is not None
    question = encode_question("facts")

    def ask() -> None:
        ask_desk(keys, theirs.key, f"tcp://{NAME}:7700", question, 5.0, proxy.address)

    with pytest.raises(DeskUnreachableError, match=f"no way to tcp://{NAME}:7700 through the proxy") as refused:
        await asyncio.to_thread(ask)
    assert refused.value.failure is ConnectionFailure.PROXY
    assert proxy.asked == [(NAME, 7700)]
