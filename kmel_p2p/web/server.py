"""Serving an application inside a process that has other things to do: bounded, quiet, and ended with it.

Whoever can reach the address may open connections and say nothing: there are only so many at once, and each has to get
on with its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from kmel_p2p.agreement.errors import ConfigError

MAX_OPEN = 32
"""Connections at once; a few browsers and scrapers need no more. Those beyond are closed unheard."""

REQUEST_S = 5.0
"""From the first byte of a request, or from connecting, until its answer was taken."""

MAX_HEAD_BYTES = 16 * 1024
"""Of one request, as h11 enforces it."""

CLOSING_S = 1


class _Bounded(H11Protocol):
    """HTTP on one connection, within `MAX_OPEN` and `REQUEST_S`."""

    _since: float | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > MAX_OPEN:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        if self._since is None:
            self._since = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._since = None
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._since is not None and self.loop.time() - self._since >= REQUEST_S:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(REQUEST_S / 4, self._watch)


class _Embedded(uvicorn.Server):
    """Leaves signals to the process that it is part of."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        """Or that it will not."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class WebServer:
    """An application at an address, on the running event loop."""

    def __init__(self, app: ASGIApp) -> None:
        self._server = _Embedded(
            uvicorn.Config(
                app,
                http=_Bounded,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                log_level="critical",
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                timeout_graceful_shutdown=CLOSING_S,
            )
        )
        self._sockets: list[socket.socket] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        self._sockets = _bound(host, port)
        self._task = asyncio.create_task(self._server.serve(self._sockets), name="web")
        await self._server.listening.wait()
        found: int = self._sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Answer nothing more. Does nothing where `start` was not called."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        for each in self._sockets:
            each.close()


def _bound(host: str, port: int) -> list[socket.socket]:
    """A socket for each family that the host has; all with the same port."""
    made: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            each = socket.socket(family, kind, protocol)
            made.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind((address[0], made[0].getsockname()[1] if len(made) > 1 else port, *address[2:]))
    except OSError as error:
        for each in made:
            each.close()
        raise ConfigError(
            f"metrics.listen: cannot listen on {host}:{port}: {error.strerror}; choose another port"
        ) from error
    return made
