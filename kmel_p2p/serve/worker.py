"""The process that loads the models and computes, so that the server's event loop never waits for torch or RDKit.

One request is computed at a time, and few may wait. A structure that takes too long, or on which the process crashes,
costs that process alone: the next request starts a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError, DataError, LocalError
from kmel_p2p.chem.structures.parallel import end_with_parent

MAX_WAITING = 8
"""Requests computed or waiting; a further one is told to come back."""

JOB_TIMEOUT_S = 60.0
"""For one job; a page of 25 explained compounds takes about 8 s."""

START_TIMEOUT_S = 300.0
"""For loading the models."""

STOP_TIMEOUT_S = 5.0


class BusyError(LocalError):
    """Too many requests wait already."""


class LostError(LocalError):
    """The process took too long, or ended, and is started anew."""


def load_jobs(folder: Path) -> Any:
    """The jobs on the models of a directory; imports torch and RDKit, so only the process calls it."""
    from kmel_p2p.serve.jobs import ModelJobs

    return ModelJobs(folder)


def run(pipe: multiprocessing.connection.Connection, make: Callable[[Path], Any], folder: Path) -> None:
    """Body of the process: answers jobs until the pipe closes.

    Args:
        make: of the object whose methods are the jobs; runs here.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server stops this process when it stops
    try:
        jobs = make(folder)
    except ConfigError as error:
        pipe.send((ConfigError, str(error)))
        return
    pipe.send((None, None))
    with contextlib.suppress(EOFError, OSError):
        while True:
            name, arguments = pipe.recv()
            pipe.send(_answer(jobs, name, arguments))


def _answer(jobs: Any, name: str, arguments: dict[str, Any]) -> tuple[type[Exception] | None, Any]:
    try:
        return None, getattr(jobs, name)(**arguments)
    except (ConfigError, DataError) as error:
        return type(error), str(error)
    except Exception as error:
        # Without the arguments: they are structures.
        traceback.print_exc(file=sys.stderr)
        return LocalError, f"this is a bug ({type(error).__name__}); the lines above say where"


class ModelWorker:
    """The process and its queue.

    Attributes:
        free: places in the queue.

    Args:
        folder: model directory.
        make: as for `run`; picklable.
        waiting: requests at most.
        timeout_s: for one job.
    """

    def __init__(
        self,
        folder: Path,
        make: Callable[[Path], Any] = load_jobs,
        *,
        waiting: int = MAX_WAITING,
        timeout_s: float = JOB_TIMEOUT_S,
    ) -> None:
        self._make, self._folder = make, folder
        self.free, self._timeout_s = waiting, timeout_s
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: multiprocessing.connection.Connection | None = None
        # One thread, so that a request whose client went away still ends before the next one begins.
        self._thread = ThreadPoolExecutor(1, "model worker")

    async def start(self) -> None:
        """Start the process and load the models.

        Raises:
            ConfigError: they cannot be loaded.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._start)

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place in the queue, for all jobs of one request.

        Raises:
            BusyError: there is none.
        """
        if self.free <= 0:
            raise BusyError("many requests are waiting; try again in a few seconds")
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1

    async def ask(self, name: str, **arguments: Any) -> Any:
        """The answer of one job.

        Raises:
            DataError, ConfigError: what was asked for cannot be done.
            LostError: it took too long, or the process ended.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._exchange, name, arguments)

    async def close(self) -> None:
        """End the process; what is being computed is lost."""
        process = self._process
        if process is not None:
            process.kill()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._stop()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=run, args=(theirs, self._make, self._folder), name="models", daemon=True)
        process.start()
        theirs.close()
        self._process = process
        try:
            kind, text = self._receive(START_TIMEOUT_S)
        except LostError:
            raise ConfigError(f"{self._folder}: the process that loads the models ended; is memory short?") from None
        if kind is not None:
            self._stop()
            raise kind(text)

    def _exchange(self, name: str, arguments: dict[str, Any]) -> Any:
        if self._process is None:
            self._start()
        assert self._pipe is not None
        with contextlib.suppress(OSError):  # it has ended: receiving says so
            self._pipe.send((name, arguments))
        kind, value = self._receive(self._timeout_s)
        if kind is not None:
            raise kind(value)
        return value

    def _receive(self, timeout_s: float) -> tuple[type[Exception] | None, Any]:
        assert self._pipe is not None
        try:
            if self._pipe.poll(timeout_s):
                found: tuple[type[Exception] | None, Any] = self._pipe.recv()
                return found
            reason = f"it took more than {timeout_s:g} s; leave out what is very large"
        except (EOFError, OSError):
            reason = "the process that computes ended; leave out what is unusual"
        self._stop()
        raise LostError(f"no answer: {reason}")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(STOP_TIMEOUT_S)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None
