"""Why a connection failed, in words an operator can act on.

ZeroMQ tells of failures only through monitor events. What each one means was found by experiment
(docs/transport.md): 400 is a refusal by ZAP, a closed pipe in the handshake a wrong server key, EAGAIN there a peer
that accepts and stays silent.
"""

from __future__ import annotations

import enum
import errno

import zmq

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import SECOND, Micros


class ConnectionFailure(enum.Enum):
    """How a connection ended or did not come about."""

    NOT_ADMITTED = "not-admitted"
    WRONG_KEY = "wrong-key"
    NOT_CURVE = "not-curve"
    OTHER_VERSION = "other-version"
    NO_NAME = "no-name"
    NOBODY = "nobody"
    NO_ANSWER = "no-answer"
    PROXY = "proxy"
    STUCK_HANDSHAKE = "stuck-handshake"
    CLOSED = "closed"
    NO_HEARTBEAT = "no-heartbeat"
    STUCK_PROGRAM = "stuck-program"
    MISBEHAVED = "misbehaved"
    LOCAL = "local"


NEEDS_OPERATOR = frozenset(
    {
        ConnectionFailure.NOT_ADMITTED,
        ConnectionFailure.WRONG_KEY,
        ConnectionFailure.NOT_CURVE,
        ConnectionFailure.OTHER_VERSION,
    }
)
"""Failures that only an operator can resolve."""


def classify_handshake(event: int, value: int) -> ConnectionFailure:
    """What a failed-handshake event of a dealer's monitor means."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return ConnectionFailure.NOT_ADMITTED
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return ConnectionFailure.NOT_CURVE
    return ConnectionFailure.STUCK_HANDSHAKE if value == errno.EAGAIN else ConnectionFailure.WRONG_KEY


def explain(
    failure: ConnectionFailure, key: SiteKey, address: str, own_key: SiteKey, silent_us: Micros = 0, detail: str = ""
) -> str:
    """One sentence on what happened and what to do.

    Args:
        failure: what happened.
        key: the site dialled.
        address: where.
        own_key: ours.
        silent_us: how long nothing was heard.
        detail: text of an exception, if there was one.
    """
    seconds = f"{silent_us / SECOND:.0f} s"
    match failure:
        case ConnectionFailure.NOT_ADMITTED:
            return (
                f"the peer at {address} refused our key: ask its operator whether its charter lists {own_key.hex()}, "
                "and whether it has blocked this site"
            )
        case ConnectionFailure.WRONG_KEY:
            return (
                f"the peer at {address} closed the connection during the handshake: most often it does not hold "
                f"the key {key.hex()} that our charter gives this site; ask its operator for `kmel-peer init`'s key"
            )
        case ConnectionFailure.NOT_CURVE:
            return f"{address} does not speak CURVE: another program listens there; check the address"
        case ConnectionFailure.OTHER_VERSION:
            return f"the peer at {address} runs an incompatible version: {detail}"
        case ConnectionFailure.NO_NAME:
            return f"the name in {address} does not resolve: {detail}"
        case ConnectionFailure.NOBODY:
            return f"nobody listens at {address}: the peer is not running, or its port differs"
        case ConnectionFailure.NO_ANSWER:
            return f"no answer from {address}: the machine is off, or a firewall drops the connection"
        case ConnectionFailure.PROXY:
            return f"no way to {address} through the proxy {detail}"
        case ConnectionFailure.STUCK_HANDSHAKE:
            return f"{address} accepts connections but does not finish the handshake: its program is stuck or stopped"
        case ConnectionFailure.CLOSED:
            return f"the peer at {address} closed the connection"
        case ConnectionFailure.NO_HEARTBEAT:
            return f"no heartbeat from {address} for {seconds}: the machine is frozen or the path is down"
        case ConnectionFailure.STUCK_PROGRAM:
            return f"{address} is connected, but its program has not answered for {seconds}"
        case ConnectionFailure.MISBEHAVED:
            return f"the connection with {address} was cut: {detail}"
        case ConnectionFailure.LOCAL:
            return f"cannot dial {address}: {detail}"
