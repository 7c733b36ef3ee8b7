"""One daemon per state directory, held apart by an advisory lock that the kernel drops with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from kmel_p2p.agreement.errors import ConfigError

LOCK_NAME = "lock"
ATTEMPTS = 20
PAUSE_S = 0.01
"""Looking whether a daemon runs takes the lock for an instant; a starting daemon outwaits that."""


class SiteLock:
    """Holds a state directory for this process until `release` or the end of the process."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / LOCK_NAME
        self._handle: int | None = None

    def acquire(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the lock and note our process id in it.

        Raises:
            ConfigError: another daemon owns the directory; names its process id.
        """
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot open the lock file: {error.strerror}") from error
        for attempt in range(ATTEMPTS):
            if _try_lock(handle, fcntl.LOCK_EX):
                break
            if attempt + 1 < ATTEMPTS:
                sleep(PAUSE_S)
        else:
            pid = _read_pid(handle)
            os.close(handle)
            raise ConfigError(
                f"{self.path.parent}: this state directory is in use by a running daemon "
                f"(process {pid or 'unknown'}); stop it first (kmel-peer stop), or give this site another state_dir"
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._handle = handle

    def release(self) -> None:
        """Give the directory back. Harmless when not held."""
        if self._handle is not None:
            # The file stays: removing it would let two processes lock two different files of one name.
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> SiteLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder(state_dir: Path) -> int | None:
    """Process id of the daemon that owns the directory; None: none runs; 0: it has not noted its id yet."""
    try:
        handle = os.open(state_dir / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{state_dir / LOCK_NAME}: cannot look at the lock: {error.strerror}") from error
    try:
        if _try_lock(handle, fcntl.LOCK_SH):
            return None
        return _read_pid(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(handle: int) -> int:
    with contextlib.suppress(ValueError, OSError):
        return int(os.pread(handle, 32, 0).decode("ascii").strip() or "0")
    return 0
