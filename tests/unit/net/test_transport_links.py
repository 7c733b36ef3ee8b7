"""Two transports in one loop: who gets in, what arrives, how links end."""

from __future__ import annotations

from net_peers import Federation, until

from kmel_p2p.core.types import Lane
from kmel_p2p.net.links import LinkUp


async def test_control_messages_arrive_with_the_authenticated_key(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    b.dial(a)
    await until(lambda: a.outbound(b) and b.outbound(a))
    assert a.transport.send(b.key, b"one", Lane.CONTROL)
    assert b.transport.send(a.key, b"two", Lane.CONTROL)
    await until(lambda: a.messages and b.messages)
    assert b.messages == [(a.key, b"one", Lane.CONTROL)]
    assert a.messages == [(b.key, b"two", Lane.CONTROL)]
    assert a.told(LinkUp) == [LinkUp(b.key)]


async def test_bulk_arrives_whole(federation: Federation, pattern) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    sizes = [1, 1000, 256 * 1024, 256 * 1024 + 1, 5_000_000]
    for size in sizes:
        assert a.transport.send(b.key, pattern(size), Lane.BULK)
    await until(lambda: len(b.messages) == len(sizes))
    assert [data for _, data, _ in b.messages] == [pattern(size) for size in sizes]
    assert await until(lambda: a.link(b).queue_bytes == 0)
