"""The command line's side of the control socket; distinguishes *not running* from *not answering*."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.site.control.server import VERSION, decode, encode, find_path
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.state import lockfile

TIMEOUT_S = 1.0


class NotRunningError(LocalError):
    """No daemon owns the state directory."""


class NotAnsweringError(LocalError):
    """A daemon owns the state directory, but does not answer in time."""


class StartingError(NotAnsweringError):
    """A daemon owns the state directory, but does not take requests yet."""


class RefusedError(LocalError):
    """The daemon answered with an error."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ControlClient:
    """Talks to the daemon of one state directory. Use as a context manager."""

    def __init__(self, state_dir: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._state_dir = state_dir
        self._timeout_s = timeout_s
        self._numbers = itertools.count(1)
        # The process's one: terminating a context waits for ever for a socket that an interrupt (Ctrl-C, SIGTERM)
        # caught half made, before anybody holds it.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._socket: zmq.Socket[bytes] | None = None

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._drop()

    def request(self, name: str, arguments: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> Any:
        """Ask the daemon and wait for its answer.

        Raises:
            NotRunningError: no daemon owns the directory.
            StartingError: it does not take requests yet.
            NotAnsweringError: no answer within the time limit.
            RefusedError: the daemon answered with an error.
        """
        number = next(self._numbers)
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        socket = self._connect(deadline)
        socket.send(encode({"v": VERSION, "id": number, "do": name, "with": dict(arguments or {})}))
        while True:
            message = self._receive(socket, deadline)
            if message is None:
                # A late answer must not pass for that to the next request.
                self._drop()
                raise self._silence()
            if message.get("id") in (number, 0):
                return _value(message)

    def status(self) -> StatusDocument:
        """The status document.

        Raises:
            NotRunningError, NotAnsweringError, RefusedError: as `request`.
            LocalError: the daemon is of another version and sends another document.
        """
        return StatusDocument.parse(self.request("status"))

    def events(self, wait_s: float | None = None) -> Iterator[dict[str, Any] | None]:
        """Subscribe and yield events as they come; None whenever `wait_s` passed without one.

        Raises:
            NotRunningError, NotAnsweringError: as `request`; also when the daemon goes away.
        """
        self.request("subscribe")
        while True:
            socket = self._connect(time.monotonic())
            limit = None if wait_s is None else time.monotonic() + wait_s
            message = self._receive(socket, limit if limit is not None else time.monotonic() + self._timeout_s)
            if message is not None and "event" in message:
                yield message["event"]
            elif message is None:
                if lockfile.holder(self._state_dir) is None:
                    raise self._silence()
                if wait_s is not None:
                    yield None

    def _connect(self, deadline: float) -> zmq.Socket[bytes]:
        if self._socket is not None:
            return self._socket
        path = None
        while path is None or not path.exists():
            if lockfile.holder(self._state_dir) is None:
                raise self._silence()
            path = find_path(self._state_dir)
            if path is not None and path.exists():
                break
            # A daemon that is just starting has the lock but not the socket yet.
            if time.monotonic() >= deadline:
                raise self._silence()
            time.sleep(0.01)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"ipc://{path}")
        return self._socket

    def _receive(self, socket: zmq.Socket[bytes], deadline: float) -> dict[str, Any] | None:
        left = max(0.0, deadline - time.monotonic())
        if not socket.poll(int(left * 1000), zmq.POLLIN):
            return None
        return decode(socket.recv())

    def _silence(self) -> LocalError:
        pid = lockfile.holder(self._state_dir)
        if pid is None:
            return NotRunningError(f"no daemon runs on {self._state_dir}; start it with: kmel-peer run")
        path = find_path(self._state_dir)
        if path is None or not path.exists():
            return StartingError(
                f"the daemon of {self._state_dir} (process {pid or 'unknown'}) is starting and takes no requests yet; "
                "ask again in some seconds"
            )
        return NotAnsweringError(
            f"the daemon of {self._state_dir} (process {pid or 'unknown'}) does not answer within {self._timeout_s:g} s"
        )

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None


def _value(message: Mapping[str, Any]) -> Any:
    if "error" in message:
        error = message["error"]
        raise RefusedError(str(error.get("kind", "bug")), str(error.get("text", "")))
    return message.get("value")
