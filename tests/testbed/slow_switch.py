"""A switch between hosts whose every frame takes its time: delay and bandwidth where the kernel has no netem.

Each port is a TAP device (Linux `tun` driver) whose other end is read and written here, so what runs on the hosts has
real TCP over a long path: its windows, its slow starts, its retransmissions.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import struct
import threading
import time
from dataclasses import dataclass

from kmel_p2p.agreement.errors import LocalError

TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TAP, _NO_PACKET_INFORMATION = 0x0002, 0x1000
_FRAME_BYTES = 2048
_ADDRESS_BYTES = 6
_GROUP_BIT = 1
"""Of the first byte of a destination that is more than one host."""
BACKLOG_S = 0.1
"""Of frames that wait for a host's link; those beyond are dropped, as a router does."""


@dataclass
class _Port:
    fd: int
    free_s: float = 0.0
    """When its link has carried all that waits for it."""


class SlowSwitch:
    """Carries frames between its ports, `delay_s` after they were sent; each port receives at most its bandwidth.

    Args:
        delay_s: from one host to another, one way.
        megabits: bandwidth towards each host; 0 is unlimited. What a host sends is shaped at the host.
    """

    def __init__(self, delay_s: float, megabits: int = 0) -> None:
        self._delay_s, self._megabits = delay_s, megabits
        self._ports: list[_Port] = []
        self._at: dict[bytes, _Port] = {}
        """Port behind which an address was last seen."""
        self._due: list[tuple[float, int, _Port, bytes]] = []
        self._sent = 0
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="slow switch", daemon=True)
        self.dropped = 0
        """Frames that found their link's backlog full."""

    def plug(self) -> str:
        """A new port, before `start`; the name of its device in this namespace, to be moved to its host's.

        Raises:
            LocalError: no TAP device can be made.
        """
        try:
            fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK)
            asked = struct.pack("16sH22x", b"slow%d", _TAP | _NO_PACKET_INFORMATION)
            name = fcntl.ioctl(fd, _TUNSETIFF, asked)[:16].rstrip(b"\0").decode()
        except OSError as error:
            raise LocalError(f"{TUN_DEVICE}: {error.strerror} (a TAP device needs root and the tun driver)") from error
        self._ports.append(_Port(fd))
        return name

    def start(self) -> None:
        """Carry from now on."""
        self._thread.start()

    def close(self) -> None:
        """Carry nothing more; what is under way is lost, and the ports' devices are gone."""
        os.close(self._waker)
        if self._thread.ident is not None:
            self._thread.join()
        for fd in (self._wake, *(port.fd for port in self._ports)):
            os.close(fd)

    # ---- the switch's thread ------------------------------------------------------------------------------------

    def _carry(self) -> None:
        ports = {port.fd: port for port in self._ports}
        poller = select.poll()
        for fd in (self._wake, *ports):
            poller.register(fd, select.POLLIN)
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, port, frame = heapq.heappop(self._due)
                _write(port.fd, frame)
            wait_ms = max(0.0, self._due[0][0] - now) * 1e3 if self._due else None
            for fd, _ in poller.poll(wait_ms):
                if fd == self._wake:
                    return
                self._take(ports[fd], time.monotonic())

    def _take(self, port: _Port, now: float) -> None:
        """Everything that a host has sent."""
        while frame := _read(port.fd):
            to, sender = frame[:_ADDRESS_BYTES], frame[_ADDRESS_BYTES : 2 * _ADDRESS_BYTES]
            self._at[sender] = port
            known = None if to[0] & _GROUP_BIT else self._at.get(to)
            for target in [known] if known is not None else [each for each in self._ports if each is not port]:
                self._send(target, frame, now + self._delay_s)

    def _send(self, port: _Port, frame: bytes, arrives: float) -> None:
        if self._megabits:
            begins = max(arrives, port.free_s)
            if begins - arrives > BACKLOG_S:
                self.dropped += 1
                return
            arrives = port.free_s = begins + 8 * len(frame) / (self._megabits * 1e6)
        self._sent += 1  # of frames that arrive at one moment, the first sent goes first
        heapq.heappush(self._due, (arrives, self._sent, port, frame))


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _FRAME_BYTES)
    except OSError:  # nothing more, or the host is gone
        return b""


def _write(fd: int, frame: bytes) -> None:
    try:
        os.write(fd, frame)
    except OSError:  # the host's device is down, or gone: the frame is lost, as on a wire
        return
