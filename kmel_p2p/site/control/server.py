"""The daemon's side of the control socket: answers requests, pushes events to subscribers.

One ROUTER on an ipc path that only the owner can open. A request is the msgpack map
`{"v": 1, "id": int, "do": str, "with": map}`, its answer `{"v": 1, "id": int, "value": any}` or
`{"v": 1, "id": int, "error": {"kind": str, "text": str}}`. After the request `subscribe`, events arrive as
`{"v": 1, "event": map}`; a subscriber that does not read loses events and never delays the daemon.

A unix socket path has to fit 107 bytes. Where the state directory is too deep, the socket lies in a private run-time
directory instead, and a file in the state directory says where.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack
import structlog
import zmq
import zmq.asyncio

from kmel_p2p.agreement.errors import ConfigError, DataError, KmelError, LocalError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.files import write_whole

SOCKET_NAME = "control.sock"
NOTE_NAME = "control.path"
MAX_SOCKET_PATH = 100
"""`sun_path` holds 107 bytes and a zero on Linux, 103 elsewhere."""

VERSION = 1
MAX_REQUEST_BYTES = 64 * 1024
MAX_OPEN_REQUESTS = 64
MAX_SUBSCRIBERS = 32
QUEUED_MESSAGES = 1000

Handler = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""Given the request's name and arguments; returns plain data, or raises `LocalError` to refuse."""


def encode(value: Any) -> bytes:
    """Plain data as it travels on the control socket."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def decode(data: bytes) -> dict[str, Any]:
    """Read a control message.

    Raises:
        LocalError: not a map of this version.
    """
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise LocalError(f"not a control message: {error}") from None
    if type(value) is not dict or value.get("v") != VERSION:
        raise LocalError(f"control messages are maps of version {VERSION}; use the kmel-peer this daemon came with")
    return value


class ControlServer:
    """Serves one state directory. Lives on the daemon's event loop."""

    def __init__(self, state_dir: Path, handler: Handler) -> None:
        self._state_dir = state_dir
        self._handler = handler
        self._context: zmq.asyncio.Context | None = None
        self._socket: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._subscribers: dict[bytes, None] = {}
        self.events_lost = 0
        self.path: Path | None = None

    async def start(self) -> Path:
        """Bind the socket; returns its path.

        Raises:
            ConfigError: no usable path, or it cannot be bound.
        """
        path = choose_path(self._state_dir)
        self._context = zmq.asyncio.Context()
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, QUEUED_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, QUEUED_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        # The file must never be open to others, not even between bind and chmod.
        before = os.umask(0o177)
        try:
            socket.bind(f"ipc://{path}")
        except zmq.ZMQError as error:
            socket.close()
            self._context.term()
            raise ConfigError(f"{path}: cannot open the control socket: {error}") from error
        finally:
            os.umask(before)
        self._socket, self.path = socket, path
        self._reader = asyncio.create_task(self._read(), name="control")
        return path

    def publish(self, event: Mapping[str, Any]) -> None:
        """Push an event to every subscriber that keeps up."""
        if self._socket is None or not self._subscribers:
            return
        data = encode({"v": VERSION, "event": dict(event)})
        for identity in list(self._subscribers):
            self._push(identity, data)

    async def close(self) -> None:
        """Answer nothing more and remove the socket file."""
        tasks = [task for task in (self._reader, *self._open) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close(linger=200)
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()

    async def _read(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            identity, data = frames[0], frames[-1]
            if len(self._open) >= MAX_OPEN_REQUESTS:
                self._refuse(identity, 0, "busy", "too many requests at once")
                continue
            task = asyncio.create_task(self._answer(identity, data))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _answer(self, identity: bytes, data: bytes) -> None:
        number = 0
        try:
            request = decode(data)
            number, name, arguments = _request(request)
            if name == "subscribe":
                value: Any = self._subscribe(identity)
            else:
                value = await self._handler(name, arguments)
            self._push(identity, encode({"v": VERSION, "id": number, "value": value}))
        except KmelError as error:
            self._refuse(identity, number, _kind(error), str(error))
        except Exception as error:
            structlog.get_logger().exception("control_request_failed")
            self._refuse(identity, number, "bug", f"{type(error).__name__}: {error}")

    def _subscribe(self, identity: bytes) -> bool:
        self._subscribers.pop(identity, None)
        while len(self._subscribers) >= MAX_SUBSCRIBERS:
            self._subscribers.pop(next(iter(self._subscribers)))
        self._subscribers[identity] = None
        return True

    def _refuse(self, identity: bytes, number: int, kind: str, text: str) -> None:
        self._push(identity, encode({"v": VERSION, "id": number, "error": {"kind": kind, "text": text}}))

    def _push(self, identity: bytes, data: bytes) -> None:
        """Send without waiting: on the plain socket, because the asyncio one would queue."""
        try:
            zmq.Socket.send_multipart(self._plain, [identity, data], zmq.NOBLOCK)
        except zmq.Again:
            self.events_lost += 1
        except zmq.ZMQError:
            # The client is gone.
            self._subscribers.pop(identity, None)

    @property
    def _plain(self) -> Any:
        return zmq.Socket.shadow(self._socket.underlying)


def _request(message: Mapping[str, Any]) -> tuple[int, str, Mapping[str, Any]]:
    number, name, arguments = message.get("id"), message.get("do"), message.get("with", {})
    if type(number) is not int or type(name) is not str or type(arguments) is not dict:
        raise LocalError('a request has "id" (integer), "do" (string) and "with" (map)')
    return number, name, arguments


def _kind(error: KmelError) -> str:
    if isinstance(error, ConfigError):
        return "config"
    if isinstance(error, DataError):
        return "data"
    return "refused" if isinstance(error, LocalError) else "bug"


def choose_path(state_dir: Path, runtime_dir: str | None = None) -> Path:
    """Pick the socket path of a daemon that is starting, and note it.

    Args:
        state_dir: absolute state directory.
        runtime_dir: where to put the socket when the state directory is too deep; None: XDG_RUNTIME_DIR,
            else the directory for temporary files.

    Raises:
        ConfigError: no place is short and private enough.
    """
    path = state_dir.absolute() / SOCKET_NAME
    if _too_long(path):
        path = _private_place(state_dir, runtime_dir) / SOCKET_NAME
        if _too_long(path):
            raise ConfigError(
                f"{state_dir}: too deep for a control socket (its path has at most {MAX_SOCKET_PATH} bytes), "
                f"and {path} is too long too; choose a shorter state_dir, or set XDG_RUNTIME_DIR to a short "
                "private directory"
            )
    write_whole(state_dir / NOTE_NAME, os.fsencode(path))
    return path


def find_path(state_dir: Path) -> Path | None:
    """The socket path noted by the daemon of this state directory."""
    try:
        return Path(os.fsdecode((state_dir / NOTE_NAME).read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{state_dir / NOTE_NAME}: cannot be read: {error.strerror}") from error


def _too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > MAX_SOCKET_PATH


def _private_place(state_dir: Path, runtime_dir: str | None) -> Path:
    base = runtime_dir or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    mark = digest(os.fsencode(state_dir.resolve()))[:8].hex()
    place = Path(base) / f"kmel-{os.geteuid()}-{mark}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        facts = place.lstat()
    except OSError as error:
        raise ConfigError(f"{place}: cannot create a directory for the control socket: {error.strerror}") from error
    # A name in a shared directory may have been taken by somebody else first.
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise ConfigError(f"{place}: not a private directory of this user; remove it, or set XDG_RUNTIME_DIR")
    return place
