"""The daemon's handle on its trainer: a spawned process that owns torch.

Commands and answers (`learn.worker.session`) travel over a pipe; the trunk lies in shared memory that the daemon writes
between an answer and the next command. The event loop never waits for the trainer: answers and its death arrive as
callbacks. Only this process and its own child use the pipe, so its pickles are never foreign bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.shared_memory
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError


class SharedTrunk:
    """A float32 vector that both processes see. The daemon owns it and removes it."""

    def __init__(self, size: int) -> None:
        self._memory = multiprocessing.shared_memory.SharedMemory(create=True, size=max(1, size) * 4)
        self.values: NDArray[np.float32] = np.ndarray((size,), dtype=np.float32, buffer=self._memory.buf)

    @property
    def name(self) -> str:
        """What the trainer opens it by."""
        return self._memory.name

    def close(self) -> None:
        """Release and remove it."""
        # The array must let go of the buffer before the mapping can be closed.
        self.values = np.empty(0, dtype=np.float32)
        self._memory.close()
        with contextlib.suppress(FileNotFoundError):
            self._memory.unlink()


class TrainerProcess:
    """One life of the trainer. A new one is made after a crash."""

    def __init__(
        self,
        target: Callable[..., None],
        plan: Any,
        on_message: Callable[[Any], None],
        on_exit: Callable[[int | None], None],
        *,
        several: bool = False,
    ) -> None:
        """`several`: it starts further processes that train (`learn.worker.launch`)."""
        self._loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=target, args=(child_end, plan), name="kmel-trainer", daemon=False
        )
        self._on_message = on_message
        self._on_exit, self._several = on_exit, several
        self._exited = asyncio.Event()
        self._process.start()
        child_end.close()
        self._loop.add_reader(self._connection.fileno(), self._readable)
        self._loop.add_reader(self._process.sentinel, self._ended)

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if not self._exited.is_set() else None

    @property
    def resident_bytes(self) -> int:
        """Resident memory, of all its processes where they are several; 0 when it is gone."""
        try:
            process = psutil.Process(self._process.pid)
            ranks = process.children(recursive=True) if self._several else []
            return sum(int(each.memory_info().rss) for each in (process, *ranks))
        except (psutil.Error, OSError, ValueError):
            return 0

    def send(self, command: Any) -> None:
        """Give a command. Commands are small, so the pipe takes them at once.

        Raises:
            LocalError: the trainer is gone; `on_exit` tells why.
        """
        try:
            self._connection.send(command)
        except (BrokenPipeError, OSError) as error:
            raise LocalError("the trainer has gone") from error

    async def stop(self, grace_s: float) -> None:
        """Close the pipe, which ends the trainer; kill it if it does not end within `grace_s`."""
        self._close_pipe()
        for end in (self._process.terminate, self._process.kill):
            try:
                await asyncio.wait_for(self._exited.wait(), grace_s)
                return
            except TimeoutError:
                end()
        await self._exited.wait()

    def _readable(self) -> None:
        try:
            # One wake-up may announce several messages.
            while self._connection.poll():
                self._on_message(self._connection.recv())
        except (EOFError, OSError):
            self._close_pipe()

    def _ended(self) -> None:
        self._loop.remove_reader(self._process.sentinel)
        self._readable()
        self._close_pipe()
        self._process.join()
        code = self._process.exitcode
        self._exited.set()
        self._process.close()
        self._on_exit(code)

    def _close_pipe(self) -> None:
        if not self._connection.closed:
            self._loop.remove_reader(self._connection.fileno())
            self._connection.close()
