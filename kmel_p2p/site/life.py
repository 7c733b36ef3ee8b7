"""What keeps a peer going and what ends it: an order to stop, or something at this site that rules out going on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from kmel_p2p.agreement.errors import ConfigError, KmelError
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.store_writer import StoreWriter

log = structlog.get_logger()


class Life:
    """See the module docstring.

    Attributes:
        fatal: why the peer could not go on; None where it was told to stop, or goes on.
    """

    def __init__(self, activity: Activity, writer: StoreWriter) -> None:
        self.fatal: KmelError | None = None
        self._activity = activity
        self._writer = writer
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End in order."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait for an order to stop, or for something that rules out going on; from then on failures end nothing."""
        await self._stop.wait()
        self._activity.stopping = True
        self._writer.wait_for_room = False

    def fail(self, error: KmelError) -> None:
        """Something at this site rules out going on: leave, end, and let the caller see why."""
        if self.fatal is None:
            log.error("cannot go on", reason=str(error))
            self._activity.last_error = str(error)
            self.fatal = error
            self._activity.fatal = str(error)
        self.stop()

    def fault(self, where: str, error: BaseException) -> None:
        """A defect of ours, or the store: the first is survived and counted, the second ends the peer."""
        log.error("fault", where=where, error=repr(error), exc_info=error)
        self._activity.last_error = f"{where}: {error}"
        self._activity.alarm(f"fault {where}", f"{where}: {error!r}; please report it")
        if where == "store":
            self.fail(error if isinstance(error, KmelError) else ConfigError(f"the store failed: {error!r}"))

    def note(self, work: Callable[[Store], None]) -> None:
        """Store something nobody waits for; a failure ends the peer like that of any other write."""
        self._writer.submit(work).add_done_callback(self._noted)

    def _noted(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None and not self._activity.stopping:
            self.fault("store", error)
