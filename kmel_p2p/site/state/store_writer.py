"""The store's own thread: writes in the order given, grouped into one transaction while more are waiting.

One `fsync` then serves every entry that arrived during the one before. The first failed write stops the writer
for good: with a hole in an author's log, going on would be worse than stopping (fail-stop). Only a full disk is waited
for, some minutes: nothing of the write is done then, and the same write is tried again.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.files import lacks_room
from kmel_p2p.site.state.store import Fault, Store, no_fault

T = TypeVar("T")

MAX_GROUP = 256
"""Writes in one transaction: the first of them waits for the last."""

FULL_WAIT_S = 600.0
"""How long a full disk is waited for. What is to be stored meanwhile takes memory."""

RETRY_S = 0.5
"""Between two tries to write to a full disk."""


@dataclass(slots=True)
class _Job:
    work: Callable[[Store], Any]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def succeed(self, value: Any) -> None:
        self._settle(lambda: self.done.set_result(value))

    def fail(self, error: BaseException) -> None:
        self._settle(lambda: self.done.set_exception(error))

    def _settle(self, action: Callable[[], None]) -> None:
        def settle() -> None:
            if not self.done.done():
                action()

        try:
            self.loop.call_soon_threadsafe(settle)
        except RuntimeError:
            # The event loop closed first: nobody waits for this answer any more.
            return


class StoreWriter:
    """Asyncio front of a `Store` that lives in a thread of its own."""

    def __init__(self, path: Path, *, fault: Fault = no_fault) -> None:
        self.wait_for_room = False
        """Whether to wait for room on a full disk. Not while a peer starts or stops: then it says why it cannot."""
        self.disk_full = ""
        """Why writes wait; empty while there is room."""
        self._path = path
        self._fault = fault
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._closed = False

    @property
    def failure(self) -> BaseException | None:
        """What stopped the writer; None while it works."""
        return self._failure

    @property
    def waiting(self) -> int:
        """Writes not yet begun."""
        return self._jobs.qsize()

    async def start(self) -> None:
        """Open the store.

        Raises:
            ConfigError: as `Store`.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        first = _Job(lambda store: None, opened, loop)
        self._thread = threading.Thread(target=self._run, args=(first,), name="store", daemon=True)
        self._thread.start()
        await opened

    async def call(self, work: Callable[[Store], T]) -> T:
        """Run `work` on the store after everything submitted before it; returns when its effects are durable.

        Raises:
            LocalError: the writer was closed.
            ConfigError: this or an earlier write failed.
        """
        result: T = await self.submit(work)
        return result

    def submit(self, work: Callable[[Store], Any]) -> asyncio.Future[Any]:
        """Like `call`, without waiting: the order is that of the calls of `submit`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        if self._closed:
            done.set_exception(LocalError("the store is closed"))
        else:
            self._jobs.put(_Job(work, done, loop))
        return done

    async def append(self, author: SiteKey, number: int, encoded: bytes, own_state_file: str | None = None) -> None:
        """Keep an entry. Returns when it is durable."""
        await self.call(lambda store: store.append_entry(author, number, encoded, own_state_file))

    async def close(self) -> None:
        """Finish what was submitted, then close the file."""
        if self._closed or self._thread is None:
            return
        self._closed, self.wait_for_room = True, False
        self._jobs.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _run(self, first: _Job) -> None:
        try:
            store = Store(self._path, fault=self._fault)
        except BaseException as error:
            self._failure = error
            first.fail(error)
            self._refuse_rest()
            return
        first.succeed(None)
        try:
            self._serve(store)
        finally:
            store.close()

    def _serve(self, store: Store) -> None:
        ending = False
        while not ending:
            jobs, ending = self._next_group()
            if not jobs:
                continue
            try:
                answers = self._execute_with_room(store, jobs)
            except BaseException as error:
                self._failure = error
                for job in jobs:
                    job.fail(error)
                self._refuse_rest()
                return
            for job, value in zip(jobs, answers, strict=True):
                job.succeed(value)

    def _execute_with_room(self, store: Store, jobs: list[_Job]) -> list[Any]:
        """Execute, as soon as the disk has room for it. A transaction that failed for lack of room left nothing."""
        began = time.monotonic()
        while True:
            try:
                answers = self._execute(store, jobs)
            except ConfigError as error:
                if not _is_lack_of_room(error) or time.monotonic() - began >= FULL_WAIT_S or not self.wait_for_room:
                    raise
                self.disk_full = str(error)
                time.sleep(RETRY_S)
            else:
                self.disk_full = ""
                return answers

    def _execute(self, store: Store, jobs: list[_Job]) -> list[Any]:
        with store.transaction("group"):
            return [job.work(store) for job in jobs]

    def _next_group(self) -> tuple[list[_Job], bool]:
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == MAX_GROUP:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _refuse_rest(self) -> None:
        """Answer everything that is waiting, or comes later, until `close`."""
        while (job := self._jobs.get()) is not None:
            failure = self._failure
            if isinstance(failure, ConfigError):
                job.fail(failure)
            else:
                job.fail(ConfigError(f"{self._path}: an earlier write failed: {failure!r}"))


def _is_lack_of_room(error: BaseException) -> bool:
    cause = error.__cause__
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return lacks_room(error)
