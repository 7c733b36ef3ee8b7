"""The port of a site that has no charter yet: a transport without a roster, which admits the invited and nobody else.

Runs in a thread of its own, so that the operator can be asked questions meanwhile. It holds the site's lock, and its
control socket takes the operator's decisions from another terminal.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.types import Micros
from kmel_p2p.files import private_directory
from kmel_p2p.net.desk import Desk, DeskGuest
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.transport import Transport
from kmel_p2p.site.control.server import ControlServer
from kmel_p2p.site.desk.invitations import InvitationBook
from kmel_p2p.site.desk.newcomers import NewcomersDesk
from kmel_p2p.site.state.lockfile import SiteLock

V = TypeVar("V")

START_WITHIN_S = 30.0
"""For binding the port and the self-test."""


class FoundingRoom:
    """See the module docstring. Use as a context manager; entering it raises what the start raises.

    Args:
        identity: of the site.
        bind: where to listen.
        state_dir: of the site.
        book: read and written in this thread only, through `do`.
        desk: answers the newcomers.
        operator: answers the control socket: request and arguments.
    """

    def __init__(
        self,
        identity: Identity,
        bind: str,
        state_dir: Path,
        book: InvitationBook,
        desk: NewcomersDesk,
        operator: Callable[[str, Mapping[str, Any]], Any],
    ) -> None:
        self._identity = identity
        self._bind = bind
        self._lock = SiteLock(private_directory(state_dir))
        self._state_dir = state_dir
        self._book = book
        self._desk = desk
        self._operator = operator
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="founding room", daemon=True)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self.address = ""
        """Where it listens."""

    def __enter__(self) -> FoundingRoom:
        """Listen.

        Raises:
            ConfigError: the port cannot be bound, or another process of this site runs.
        """
        self._lock.acquire()
        self._thread.start()
        started = self._ready.wait(START_WITHIN_S)
        if self._failure is not None or not started:
            self._lock.release()
            raise self._failure or LocalError(f"{self._bind}: not listening after {START_WITHIN_S:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._ending is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_WITHIN_S)
        self._lock.release()

    def do(self, work: Callable[[], V]) -> V:
        """Run `work` where the desk runs, and give what it gives."""
        assert self._loop is not None

        async def run() -> V:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(START_WITHIN_S)

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        desk = Desk(self._identity, tuple, lambda: self._book.secrets(time.time()), self._answer, _now_us)
        transport = Transport(
            self._identity,
            tuple,
            self._bind,
            settings=TransportSettings(),
            on_message=lambda sender, data, lane: None,
            on_link=lambda event: None,
            clock=_now_us,
            rng=random.Random(secrets.randbits(64)),
            desk=desk,
        )
        control = ControlServer(self._state_dir, self._operate)
        try:
            self.address = await transport.start()
            await control.start()
        except BaseException as error:
            self._failure = error
            await transport.close()
            self._ready.set()
            return
        self._ready.set()
        await self._ending.wait()
        await control.close()
        await desk.close()
        await transport.close(500)

    async def _answer(self, guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        return self._desk.answer(guest.invitation, name, arguments)

    async def _operate(self, name: str, arguments: Mapping[str, Any]) -> Any:
        return self._operator(name, arguments)


def _now_us() -> Micros:
    return time.monotonic_ns() // 1000
