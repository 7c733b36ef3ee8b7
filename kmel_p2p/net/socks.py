"""A way through a SOCKS5 proxy (RFC 1928): our side of it, and a port of loopback at which it begins.

ZeroMQ knows SOCKS5 itself, but libzmq 4.3.5 ends the whole process when a proxy refuses. So we speak to the proxy, and
ZeroMQ connects to a port of loopback that takes one connection, its own, and carries it on. The proxy sees CURVE.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
import threading
from collections.abc import Iterator

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.net.address import Address, parse_address

VERSION, NO_LOGIN, CONNECT = 5, 0, 1
IPV4, NAME, IPV6 = 1, 3, 4
REASONS = {
    1: "it failed",
    2: "its rules do not allow this connection; ask who runs it to allow that address and port",
    3: "it does not reach that network",
    4: "it does not reach that machine",
    5: "nobody listens there",
    6: "the way is too long",
    7: "it only carries something else",
    8: "it does not know this kind of address",
}
"""Answer of a proxy -> what it means."""

CARRIED_BYTES = 256 * 1024
"""Carried at a time; also what waits in either direction."""

TAKEN_WITHIN_S = 5.0
"""Within this time ZeroMQ has connected, or the way is given up."""


class ProxyError(LocalError):
    """The proxy makes no connection; the text says why, and names the proxy."""


class Tunnel:
    """A way through the proxy. Made by `open_tunnel`; ends when either end closes.

    Attributes:
        address: of loopback, at which it begins.
    """

    def __init__(self, listener: asyncio.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listener = listener
        self._far = reader, writer
        self._begun: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        self._begun = asyncio.get_running_loop().create_future()
        self.address = Address("127.0.0.1", listener.sockets[0].getsockname()[1])
        self._task = asyncio.create_task(self._carry(), name="proxy tunnel")

    def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody connected at the port of loopback: the first is ZeroMQ."""
        if self._begun.done():
            writer.transport.abort()
            return
        self._begun.set_result((reader, writer))
        self._listener.close()

    async def _carry(self) -> None:
        far_reader, far_writer = self._far
        near_writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                near_reader, near_writer = await self._begun
            ways = {
                asyncio.create_task(_copy(near_reader, far_writer), name="to the proxy"),
                asyncio.create_task(_copy(far_reader, near_writer), name="from the proxy"),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except TimeoutError:
            pass
        finally:
            self._listener.close()
            for writer in filter(None, (near_writer, far_writer)):
                writer.transport.close()

    async def close(self, within_s: float = 0.0) -> None:
        """Wait until it has ended by itself, and end it after `within_s`."""
        if within_s > 0:
            await asyncio.wait({self._task}, timeout=within_s)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Until the source ends. What was taken is handed over before that is told."""
    with contextlib.suppress(OSError):
        while data := await source.read(CARRIED_BYTES):
            sink.write(data)
            await sink.drain()


async def open_tunnel(proxy: str, address: Address) -> Tunnel:
    """Have the proxy connect to `address`, whose name it looks up itself.

    Args:
        proxy: host:port.
        address: of the other site.

    Raises:
        ProxyError: it cannot be reached, or makes no connection.
    """
    at = parse_address(proxy)
    try:
        reader, writer = await asyncio.open_connection(at.host, at.port, limit=CARRIED_BYTES)
    except (OSError, UnicodeError) as error:
        raise ProxyError(f"{proxy}: it cannot be reached: {error}") from None
    try:
        await _ask(reader, writer, address)
    except (OSError, asyncio.IncompleteReadError):
        writer.transport.abort()
        raise ProxyError(f"{proxy}: it closed the connection; is it a SOCKS5 proxy?") from None
    except ProxyError as error:
        writer.transport.abort()
        raise ProxyError(f"{proxy}: {error}") from None
    except BaseException:
        writer.transport.abort()
        raise
    made: list[Tunnel] = []
    listener = await asyncio.start_server(lambda r, w: made[0].begin(r, w), "127.0.0.1", 0, limit=CARRIED_BYTES)
    made.append(Tunnel(listener, reader, writer))
    return made[0]


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: Address) -> None:
    writer.write(bytes([VERSION, 1, NO_LOGIN]))
    version, method = await reader.readexactly(2)
    if version != VERSION:
        raise ProxyError("it does not speak SOCKS5; ask who runs it for its address")
    if method != NO_LOGIN:
        raise ProxyError("it wants a login, which kmel-peer has none of; ask who runs it to allow this machine")
    writer.write(bytes([VERSION, CONNECT, 0]) + _target(address.host) + struct.pack(">H", address.port))
    _, code, _, kind = await reader.readexactly(4)
    size = {IPV4: 4, IPV6: 16}.get(kind)
    await reader.readexactly((size if size is not None else (await reader.readexactly(1))[0]) + 2)
    if code != 0:
        raise ProxyError(REASONS.get(code, f"it answers with code {code}"))


def _target(host: str) -> bytes:
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.encode("ascii")
        if len(name) > 255:
            raise ProxyError(f"the name is too long: {len(name)} characters") from None
        return bytes([NAME, len(name)]) + name
    return bytes([IPV4 if ip.version == 4 else IPV6]) + ip.packed


@contextlib.contextmanager
def tunnel_in_a_thread(proxy: str, address: Address, timeout_s: float) -> Iterator[Address]:
    """The same for those without an event loop: gives where it begins; ends it afterwards.

    Raises:
        ProxyError: as `open_tunnel`, or not in time.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="proxy tunnel", daemon=True)
    thread.start()

    async def opened() -> Tunnel:
        try:
            async with asyncio.timeout(timeout_s):
                return await open_tunnel(proxy, address)
        except TimeoutError:
            raise ProxyError(f"{proxy}: no answer within {timeout_s:g} s") from None

    try:
        tunnel = asyncio.run_coroutine_threadsafe(opened(), loop).result()
        try:
            yield tunnel.address
        finally:
            asyncio.run_coroutine_threadsafe(tunnel.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
