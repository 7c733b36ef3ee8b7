"""TCP connections that ZeroMQ owns, looked at and ended through their descriptors, which it tells in monitor events.

ZeroMQ closes a descriptor on its own thread at any moment, and the number may be in use again: so every look works on a
duplicate that is closed at once, and what is at the number now is checked before anything is done to it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

BYTES_RECEIVED = slice(128, 136)
"""`tcpi_bytes_received` in Linux's `struct tcp_info` (since 4.2): bytes of the stream that arrived, read or not."""

UNLIMITED = 1 << 20
"""Stands for a process without a limit on open files."""


@contextlib.contextmanager
def connection(descriptor: int) -> Iterator[socket.socket | None]:
    """A duplicate of the socket at `descriptor`; None when there is none."""
    found: socket.socket | None = None
    try:
        duplicate = os.dup(descriptor)
        try:
            found = socket.socket(fileno=duplicate)
        except OSError:
            os.close(duplicate)
    except OSError:
        found = None
    try:
        yield found
    finally:
        if found is not None:
            found.close()


def remote_host(descriptor: int, port: int) -> str | None:
    """The host that is connected to our `port` over this descriptor; None when it is no such connection any more."""
    with connection(descriptor) as found:
        try:
            if found is None or found.getsockname()[1] != port:
                return None
            return str(found.getpeername()[0]).removeprefix("::ffff:")
        except (OSError, IndexError, TypeError):
            return None


def bytes_received(descriptor: int) -> int | None:
    """Bytes that arrived over the connection since it began; None where the system does not say."""
    with connection(descriptor) as found:
        if found is None:
            return None
        try:
            info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED.stop)
        except OSError:
            return None
    return int.from_bytes(info[BYTES_RECEIVED], "little") if len(info) >= BYTES_RECEIVED.stop else None


def shut_down(descriptor: int, port: int = 0) -> None:
    """End the TCP connection, which ZeroMQ has no call for. `port`: only if it is one to this port of ours."""
    with connection(descriptor) as found:
        if found is None:
            return
        with contextlib.suppress(OSError, IndexError, TypeError):  # it ended by itself
            if not port or found.getsockname()[1] == port:
                found.shutdown(socket.SHUT_RDWR)


def open_files_limit() -> int:
    """Descriptors that this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return UNLIMITED if soft == resource.RLIM_INFINITY else int(soft)
