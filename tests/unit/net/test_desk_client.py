"""A question to a desk leaves nothing behind that could stop the next one."""

from __future__ import annotations

import socket as sockets
from typing import Any

import pytest
import zmq
from zmq.utils import z85

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.net.connection_failure import ConnectionFailure
from kmel_p2p.net.desk_client import DeskUnreachableError, ask_desk, encode_question
from kmel_p2p.net.sockets import CurveKeys

calls: list[tuple[str, int]] = []


class Recording(zmq.Socket[bytes]):
    """Notes in which order sockets end."""

    def disable_monitor(self) -> None:
        calls.append(("not watched any more", int(self.type)))
        super().disable_monitor()

    def close(self, linger: int | None = None) -> None:
        if not self.closed:
            calls.append(("closed", int(self.type)))
        super().close(linger)


class RecordingContext(zmq.Context[Any]):
    _socket_class = Recording


def test_a_connection_is_watched_no_more_before_it_ends_and_before_nobody_listens_to_what_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # ZeroMQ's thread waits for ever to hand on an event where the other end is closed. All questions of a process
    # share it, so one that ended in another order stopped all that came after.
    context = RecordingContext()
    monkeypatch.setattr(zmq.Context, "instance", lambda: context)
    calls.clear()
    public, secret = (z85.decode(key) for key in zmq.curve_keypair())
    with sockets.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(DeskUnreachableError) as refused:
            ask_desk(CurveKeys(public, secret), Identity(b"s" * 32).key, address, encode_question("look"))
    assert refused.value.failure is ConnectionFailure.NOBODY
    assert calls == [("not watched any more", zmq.DEALER), ("closed", zmq.DEALER), ("closed", zmq.PAIR)]
    context.term()
