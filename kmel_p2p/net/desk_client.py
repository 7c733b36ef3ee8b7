"""Asks the desk of another peer (`net.desk`) one question, without a daemon of one's own: blocks until the answer.

Each question has its own connection. Whatever goes wrong is said in one sentence with what to do.
"""

from __future__ import annotations

import contextlib
import socket as sockets
import time
from collections.abc import Mapping
from typing import Any

import msgpack
import zmq
from zmq.utils.monitor import parse_monitor_message

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.identity import SiteKey, curve_public
from kmel_p2p.agreement.shown import one_line
from kmel_p2p.core.wire import PROTOCOL, versions_differ
from kmel_p2p.net.address import Address, parse_address
from kmel_p2p.net.connection import WATCHED
from kmel_p2p.net.connection_failure import ConnectionFailure, classify_handshake, explain
from kmel_p2p.net.desk import DESK_VERSION, MAX_DESK_ANSWER_BYTES, UNSAID_PROTOCOL
from kmel_p2p.net.doorkeeper import Unfinished
from kmel_p2p.net.sockets import CurveKeys, make_monitor
from kmel_p2p.net.socks import ProxyError, tunnel_in_a_thread

ANSWER_SLACK = 4096
"""Bytes of a frame beside the answer."""

LOOK_MS = 20
"""Between two looks at what came; also, how long an answer without an end can go on unseen."""

UNFINISHED_BYTES = 1024 * 1024
"""That may arrive without completing an answer. ZeroMQ bounds its frames, and not their number."""

MESSAGES_WAITING = 2
"""That ZeroMQ may take in before the first is read."""


class DeskRefusedError(LocalError):
    """The desk answered that it does not do what was asked; the text is the other site's."""


class DeskUnreachableError(LocalError):
    """No desk answered; `failure` says how far it came."""

    def __init__(self, failure: ConnectionFailure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


class DeskBusyError(DeskUnreachableError):
    """The desk answers no more questions now; it may well do so later."""


def encode_question(name: str, arguments: Mapping[str, Any] | None = None) -> bytes:
    """A question as it travels. `arguments`: plain data."""
    question = {"v": DESK_VERSION, "do": name, "with": dict(arguments or {}), "protocol": PROTOCOL}
    packed: bytes = msgpack.packb(question, use_bin_type=True)
    return packed


def ask_desk(
    keys: CurveKeys,
    key: SiteKey,
    address: str,
    question: bytes,
    timeout_s: float = 10.0,
    proxy: str = "",
    any_protocol: bool = True,
) -> Any:
    """Ask one question.

    Args:
        keys: the pair that the desk admits us by.
        key: the site that is asked; nobody else can answer.
        address: where.
        question: what is asked (`encode_question`).
        timeout_s: for connection and answer.
        proxy: host:port of the SOCKS5 proxy that the connection goes through; empty: none.
        any_protocol: whether the answer of a program counts that speaks another protocol of the run.

    Raises:
        DeskUnreachableError: no answer that counts; says why and what to do.
        DeskBusyError: it has too much to do now.
        DeskRefusedError: the desk refused.
        LocalError: the address is wrong.
    """
    parsed = parse_address(address)
    deadline = time.monotonic() + timeout_s
    if not proxy:
        return _value(_ask_at(_resolved(parsed), keys, key, question, deadline, parsed), parsed, any_protocol)
    try:
        with tunnel_in_a_thread(proxy, parsed, timeout_s) as begins:
            data = _ask_at(str(begins), keys, key, question, deadline, parsed)
    except ProxyError as error:
        text = explain(ConnectionFailure.PROXY, key, str(parsed), key, detail=str(error))
        raise DeskUnreachableError(ConnectionFailure.PROXY, text) from None
    return _value(data, parsed, any_protocol)


def _ask_at(target: str, keys: CurveKeys, key: SiteKey, question: bytes, deadline: float, parsed: Address) -> bytes:
    # The process's one, for the reason that `site.control.client` gives.
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with contextlib.ExitStack() as parts:
        socket = _socket(context, keys, curve_public(key))
        monitor = make_monitor(context, socket, WATCHED)
        parts.callback(monitor.close, 0)
        parts.callback(socket.close, 0)
        # Before both: ZeroMQ's thread hands on what happens to a socket that is closing, and waits for ever where
        # nobody takes it any more. All commands and questions of this process share that thread.
        parts.callback(socket.disable_monitor)
        socket.connect(target)
        return _answer(socket, monitor, question, deadline, parsed)


def _resolved(address: Address) -> str:
    """A numeric address, so that a name that does not resolve is told as that."""
    try:
        found = sockets.getaddrinfo(address.host, address.port, type=sockets.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = f"the name in {address} does not resolve here ({error}): check the spelling, and this machine's DNS"
        raise DeskUnreachableError(ConnectionFailure.NO_NAME, text) from None
    return str(Address(str(found[0][4][0]), address.port))


def _socket(context: zmq.Context[Any], keys: CurveKeys, server: bytes) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_DESK_ANSWER_BYTES + ANSWER_SLACK)
    socket.setsockopt(zmq.RCVHWM, MESSAGES_WAITING)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.CURVE_SERVERKEY, server)
    return socket


def _answer(
    socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes], question: bytes, deadline: float, address: Address
) -> bytes:
    connected = sent = False
    unfinished: Unfinished | None = None
    while time.monotonic() < deadline:
        if monitor.poll(0):
            happened = parse_monitor_message(monitor.recv_multipart())
            event = int(happened["event"])
            if event == zmq.EVENT_CONNECTED:
                connected, unfinished = True, Unfinished(int(happened["value"]))
            if (failure := _failure(event, int(happened["value"]), connected, sent)) is not None:
                raise DeskUnreachableError(failure, _explained(failure, address))
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                socket.send(question)
                sent = True
            continue
        if socket.poll(LOOK_MS):
            data = socket.recv()
            if socket.getsockopt(zmq.RCVMORE):
                raise DeskUnreachableError(ConnectionFailure.MISBEHAVED, f"{address} answered in several frames")
            return data
        if unfinished is not None and unfinished.is_endless(UNFINISHED_BYTES):
            raise DeskUnreachableError(ConnectionFailure.MISBEHAVED, f"{address} sent an answer without an end")
    failure = ConnectionFailure.NO_ANSWER
    if connected:
        failure = ConnectionFailure.STUCK_PROGRAM if sent else ConnectionFailure.STUCK_HANDSHAKE
    raise DeskUnreachableError(failure, _explained(failure, address))


def _failure(event: int, value: int, connected: bool, sent: bool) -> ConnectionFailure | None:
    if event in (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    ):
        return classify_handshake(event, value)
    if event == zmq.EVENT_DISCONNECTED:
        return ConnectionFailure.CLOSED if sent else ConnectionFailure.WRONG_KEY
    if event == zmq.EVENT_CLOSED and not connected:
        return ConnectionFailure.NOBODY
    return None


def _explained(failure: ConnectionFailure, address: Address) -> str:
    match failure:
        case ConnectionFailure.NOT_ADMITTED:
            return f"the peer at {address} does not let this one in"
        case ConnectionFailure.WRONG_KEY:
            return (
                f"whoever listens at {address} closed the connection in the handshake: most often it does not hold "
                "the key that was expected; ask its operator whether its key or address has changed"
            )
        case ConnectionFailure.NOT_CURVE:
            return f"another program than a peer listens at {address}; check the address"
        case ConnectionFailure.NOBODY:
            return f"nobody listens at {address}: the peer there does not run, or its port differs; ask its operator"
        case ConnectionFailure.NO_ANSWER:
            return f"no answer from {address}: the machine is off, or a firewall drops the connection"
        case ConnectionFailure.STUCK_HANDSHAKE:
            return f"{address} accepts connections but does not finish the handshake: its program is stuck or stopped"
        case ConnectionFailure.STUCK_PROGRAM:
            return f"{address} took the question but did not answer in time; it is busy, or runs another version"
        case _:
            return f"the connection with {address} ended before the answer; ask again"


def _value(data: bytes, address: Address, any_protocol: bool) -> Any:
    try:
        reply = unpack_bounded(data, MAX_DESK_ANSWER_BYTES)
    except WireError as error:
        raise DeskUnreachableError(ConnectionFailure.MISBEHAVED, f"{address} answered nonsense: {error}") from None
    they = f"the peer at {address}"
    if type(reply) is not dict or reply.get("v") != DESK_VERSION:
        version = reply.get("v") if type(reply) is dict else None
        text = versions_differ("the desk's version", version, DESK_VERSION, they)
        text = text or f"{they} answered what no version of kmel-peer does; ask its operator what listens there"
        raise DeskUnreachableError(ConnectionFailure.OTHER_VERSION, text)
    differ = versions_differ("protocol", reply.get("protocol", UNSAID_PROTOCOL), PROTOCOL, they)
    if differ and not any_protocol:
        raise DeskUnreachableError(ConnectionFailure.OTHER_VERSION, differ)
    if reply.get("busy") is True:
        text = f"the peer at {address} has too much to do, or something to mend, and answers later"
        raise DeskBusyError(ConnectionFailure.STUCK_PROGRAM, text)
    if "error" in reply:
        raise DeskRefusedError(one_line(str(reply["error"])) + (f"; {differ}" if differ else ""))
    return reply.get("value")
