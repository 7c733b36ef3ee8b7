"""Who may connect: our side of ZAP (RFC 27), answered on the event loop.

ZeroMQ asks once per connection, before any message passes. The answer depends on the roster alone. Whatever happens
in here, the gate goes on answering: a gate that stopped would leave this peer deaf without anybody noticing. If the
event loop is too busy to answer, nobody gets in; it fails closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq

from kmel_p2p.agreement.identity import KEY_BYTES
from kmel_p2p.net.sockets import NOWAIT, READABLE, ZAP_DOMAIN, Pump, readiness

ZAP_ADDRESS = "inproc://zeromq.zap.01"
VERSION = b"1.0"
PARTS = 9
"""Routing id, empty frame, version, request id, domain, address, identity, mechanism, one credential."""

PARTS_MAX = 32
TURN_REQUESTS = 64
"""Requests answered before the rest of the loop has its chance; each takes microseconds."""


class Gate:
    """Answers ZAP requests of one context.

    Args:
        context: the one whose server sockets are guarded.
        loop: answers are given on it.
        decide: the User-Id for a CURVE key asking from an address, or None to refuse.
        on_fault: told of every exception; the gate goes on.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        loop: asyncio.AbstractEventLoop,
        decide: Callable[[bytes, str], str | None],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._context = context
        self._loop = loop
        self._decide = decide
        self._on_fault = on_fault
        self.restarts = 0
        self._open()

    def _open(self) -> None:
        # A ROUTER instead of the usual REP: no lock-step that one failed answer could leave in the wrong state.
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ZAP_ADDRESS)
        self._pump = Pump(self._loop, self._socket, self._turn, self._on_fault)

    def _turn(self) -> bool:
        for _ in range(TURN_REQUESTS):
            try:
                if not readiness(self._socket) & READABLE:
                    return False
                request = self._socket.recv_multipart(NOWAIT)
            except zmq.ZMQError as error:
                self._restart(error)
                return False
            answer = self._answer(request)
            if answer is not None:
                try:
                    self._socket.send_multipart(answer, NOWAIT)
                except zmq.ZMQError as error:  # the connection that asked is gone
                    self._on_fault(error)
        return True

    def _answer(self, request: list[bytes]) -> list[bytes] | None:
        """The reply to one request; a refusal whenever anything is odd. None when there is nobody to answer."""
        if not 4 <= len(request) <= PARTS_MAX:
            return None
        user_id: str | None = None
        try:
            if len(request) == PARTS and self._well_formed(request):
                address = request[5].decode("ascii", "replace")
                user_id = self._decide(request[8], address)
        except Exception as error:
            self._on_fault(error)
        status, text = (b"200", b"OK") if user_id else (b"400", b"not in the roster")
        return [request[0], b"", VERSION, request[3], status, text, (user_id or "").encode(), b""]

    @staticmethod
    def _well_formed(request: list[bytes]) -> bool:
        return (
            request[2] == VERSION
            and request[4] == ZAP_DOMAIN
            and request[7] == b"CURVE"
            and len(request[8]) == KEY_BYTES
        )

    def _restart(self, error: zmq.ZMQError) -> None:
        """Replace a socket that cannot be read any more."""
        self._on_fault(error)
        self.close()
        if error.errno != zmq.ETERM:
            self.restarts += 1
            self._open()

    def poke(self) -> None:
        """Look for requests even if no edge was seen."""
        self._pump.nudge()

    def close(self) -> None:
        """Stop answering: from now on every connection is refused."""
        self._pump.close()
        self._socket.close(0)
