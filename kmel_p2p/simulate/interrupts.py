"""Ctrl-C and SIGTERM end a simulation, wherever they catch it.

Python raises `KeyboardInterrupt` where the main thread happens to be. That can be inside a library which makes another
error of it (pydantic while it builds a schema, a class's `__set_name__` before Python 3.12) or drops it (a callback
from C). So the signal is noted here as well, and what it became does not matter.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """A context: a signal inside raises `KeyboardInterrupt`, and the context ends with `KeyboardInterrupt`, whatever
    error came of it. SIGINT stays ignored where it is, as for a command in the background of a script.
    """

    def __init__(self) -> None:
        self._came = False
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python has no handlers elsewhere
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._came and isinstance(error, Exception):
            raise KeyboardInterrupt from error

    def check(self) -> None:
        """Raise what a library has dropped.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        if self._came:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt
