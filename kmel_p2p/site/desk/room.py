"""A desk at a site's port while no daemon runs there: a transport that takes part in nothing, in a thread of its own.

`kmel-peer invite` waits behind one for the founders, and `kmel-peer doctor` lets the other sites look at its port.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self, TypeVar

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.net.desk import Answerer, Desk
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.transport import Transport
from kmel_p2p.site.clock import now_us

V = TypeVar("V")

START_WITHIN_S = 30.0
"""For binding the port and the self-test."""

LINGER_MS = 500
"""For answers under way at the end."""


class DeskRoom:
    """See the module docstring. Use as a context manager; entering it raises what the start raises.

    Args:
        identity: of the site.
        bind: where to listen.
        answer: answers the guests, in the room's thread.
        members: sites that may ask.
        invitations: secrets of invitations whose holders may ask.
        troubled: told what keeps the desk from answering, in the room's thread.
    """

    def __init__(
        self,
        identity: Identity,
        bind: str,
        answer: Answerer,
        members: Callable[[], Collection[SiteKey]] = tuple,
        invitations: Callable[[], Collection[bytes]] = tuple,
        troubled: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._identity = identity
        self._bind = bind
        self._answer = answer
        self._members = members
        self._invitations = invitations
        self._troubled = troubled
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="desk", daemon=True)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self.address = ""
        """Where it listens."""

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            ConfigError: the port cannot be bound.
        """
        self._thread.start()
        started = self._ready.wait(START_WITHIN_S)
        if self._failure is not None or not started:
            raise self._failure or LocalError(f"{self._bind}: not listening after {START_WITHIN_S:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._ending is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_WITHIN_S)

    def do(self, work: Callable[[], V]) -> V:
        """Run `work` where the desk runs, and give what it gives."""
        assert self._loop is not None

        async def run() -> V:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_WITHIN_S)

    async def opened(self, parts: contextlib.AsyncExitStack) -> None:
        """More to open beside the desk, and to close with it."""

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        desk = Desk(self._identity, self._members, self._invitations, self._answer, now_us, troubled=self._troubled)
        transport = Transport(
            self._identity,
            tuple,
            self._bind,
            settings=TransportSettings(),
            on_message=lambda sender, data, lane: None,
            on_link=lambda event: None,
            clock=now_us,
            rng=random.Random(secrets.randbits(64)),
            desk=desk,
        )
        async with contextlib.AsyncExitStack() as parts:
            try:
                parts.push_async_callback(transport.close, LINGER_MS)
                self.address = await transport.start()
                parts.push_async_callback(desk.close)
                await self.opened(parts)
            except BaseException as error:
                self._failure = error
                return
            finally:
                self._ready.set()
            await self._ending.wait()
