"""The trainer process: reads commands from its pipe, answers them in order, and ends when its daemon does.

Importing this module is cheap; the process itself imports torch and RDKit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection
from types import FrameType

from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError
from kmel_p2p.chem.structures.parallel import end_with_parent
from kmel_p2p.files import lacks_room
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.learn.worker.session import Answer, Command, Failed, Progress, Stop

REPORT_INTERVAL_S = 0.2


class _Ended(BaseException):
    """The daemon closed the pipe or asked to stop. No handler of errors on the way takes it for one."""


class DaemonPipe:
    """The pipe to the daemon: commands in, answers out, and checks in between whether to stop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[Command] = deque()
        self._last_report = 0.0

    def next(self) -> Command:
        """Wait for the next command.

        Raises:
            _Ended: there are no more.
        """
        if self._waiting:
            return self._waiting.popleft()
        return self._receive()

    def check(self) -> None:
        """Called often while working.

        Raises:
            _Ended: work is no longer wanted.
        """
        try:
            while self._connection.poll():
                self._waiting.append(self._receive())
        except OSError:
            raise _Ended from None

    def answer(self, message: Answer) -> None:
        """Tell the daemon.

        Raises:
            _Ended: it is gone.
        """
        try:
            self._connection.send(message)
        except OSError:
            raise _Ended from None

    def report(self, progress: Progress) -> None:
        """Report progress, at most a few times per second, and check whether to stop."""
        self.check()
        now = time.monotonic()
        if progress.done == progress.total or now - self._last_report >= REPORT_INTERVAL_S:
            self._last_report = now
            self.answer(progress)

    def _receive(self) -> Command:
        try:
            command: Command = self._connection.recv()
        except (EOFError, OSError):
            raise _Ended from None
        if isinstance(command, Stop):
            raise _Ended
        return command


def main(connection: Connection, plan: TrainerPlan) -> None:
    """Entry point of the process; runs until the daemon stops it."""
    be_a_trainer()
    code = serve(connection, plan)
    connection.close()
    if code:
        sys.exit(code)


def be_a_trainer() -> None:
    """What every process of a trainer does first: end with the daemon, and on SIGTERM, but not on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the daemon handles it
    signal.signal(signal.SIGTERM, _terminate)
    end_with_parent()


def serve(connection: Connection, plan: TrainerPlan) -> int:
    """Answer the daemon's commands until it stops this process or one fails; returns the exit code."""
    try:
        return _serve(DaemonPipe(connection), plan)
    except _Ended:
        return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _serve(pipe: DaemonPipe, plan: TrainerPlan) -> int:
    """Answer commands until one fails; returns the exit code."""
    trainer = None
    with contextlib.ExitStack() as stack:
        while True:
            command = pipe.next()
            try:
                if trainer is None:
                    from kmel_p2p.learn.worker.trainer import Trainer

                    be_nice(plan.nice)
                    trainer = stack.enter_context(contextlib.closing(Trainer(plan, pipe)))
                reply = trainer.handle(command)
            except _Ended:
                raise
            except DataError as error:
                pipe.answer(Failed("data", str(error)))
                return 1
            except ConfigError as error:
                pipe.answer(Failed("room" if lacks_room(error) else "config", str(error)))
                return 1
            except KmelError as error:
                pipe.answer(Failed("bug", f"{type(error).__name__}: {error}"))
                return 1
            except Exception:
                pipe.answer(Failed("bug", traceback.format_exc()))
                return 1
            if reply is not None:
                pipe.answer(reply)


def be_nice(by: int) -> None:
    """Give up so much of this process's priority; without the right to, none."""
    with contextlib.suppress(OSError):
        os.nice(by)
