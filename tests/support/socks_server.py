"""A SOCKS5 proxy (RFC 1928, without a login) as corporate networks have them; in a test, or as a process of its own:

python -m tests.support.socks_server HOST PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import struct
import sys
from collections.abc import Mapping

NO_LOGIN = b"\x05\x00"
REFUSED_BY_RULES, UNREACHABLE = 2, 4


class SocksServer:
    """Attributes:
    asked: (host, port) of each request, in order.
    refuses: whether it lets no connection through.
    names: host -> where it is; others are looked up.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.refuses = False
        self.names = dict(names or {})
        self.address = ""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, host, port)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname()[:2])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(NO_LOGIN)
        _, _, _, kind = await reader.readexactly(4)
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        (port,) = struct.unpack(">H", await reader.readexactly(2))
        self.asked.append((host, port))
        if self.refuses:
            await self._answer(writer, REFUSED_BY_RULES)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self.names.get(host, host), port)
        except OSError:
            await self._answer(writer, UNREACHABLE)
            return
        try:
            await self._answer(writer, 0)
            await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))
        finally:
            far_writer.transport.abort()

    async def _answer(self, writer: asyncio.StreamWriter, code: int) -> None:
        writer.write(bytes([5, code, 0, 1]) + bytes(6))
        await writer.drain()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    with contextlib.suppress(OSError, RuntimeError):
        sink.write_eof()


async def main(host: str, port: int) -> None:
    server = SocksServer()
    await server.start(host, port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
