"""The port of a site that has no charter yet: it admits the invited and nobody else.

Holds the site's lock, and its control socket takes the operator's decisions from another terminal.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.files import private_directory
from kmel_p2p.net.desk import DeskGuest
from kmel_p2p.site.control.server import ControlServer
from kmel_p2p.site.desk.invitations import InvitationBook
from kmel_p2p.site.desk.newcomers import NewcomersDesk
from kmel_p2p.site.desk.room import DeskRoom
from kmel_p2p.site.state.lockfile import SiteLock


class FoundingRoom(DeskRoom):
    """See the module docstring.

    Args:
        identity: of the site.
        bind: where to listen.
        state_dir: of the site.
        book: read and written in the room's thread only, through `do`.
        desk: answers the newcomers.
        operator: answers the control socket: request and arguments.
        troubled: as of `DeskRoom`.
    """

    def __init__(
        self,
        identity: Identity,
        bind: str,
        state_dir: Path,
        book: InvitationBook,
        desk: NewcomersDesk,
        operator: Callable[[str, Mapping[str, Any]], Any],
        troubled: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(
            identity, bind, self._newcomer, invitations=lambda: book.secrets(time.time()), troubled=troubled
        )
        self._lock = SiteLock(private_directory(state_dir))
        self._state_dir = state_dir
        self._desk = desk
        self._operator = operator

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            ConfigError: the port cannot be bound, or another process of this site runs.
        """
        self._lock.acquire()
        try:
            return super().__enter__()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._lock.release()

    async def opened(self, parts: contextlib.AsyncExitStack) -> None:
        """The control socket."""
        control = ControlServer(self._state_dir, self._operate)
        await control.start()
        parts.push_async_callback(control.close)

    async def _newcomer(self, guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        return self._desk.answer(guest.invitation, name, arguments)

    async def _operate(self, name: str, arguments: Mapping[str, Any]) -> Any:
        return self._operator(name, arguments)
