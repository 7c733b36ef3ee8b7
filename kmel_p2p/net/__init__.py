"""ZeroMQ under the protocol: sockets, keys, dialling, chunk transfer, and the driver that runs a state machine.

Guarantees: every message handed up carries the key that CURVE authenticated; nothing a remote peer does raises, blocks
the event loop or makes memory grow past a setting. Not guaranteed: delivery. See docs/transport.md.
"""

from kmel_p2p.net.address import Address, check_advertised, parse_address
from kmel_p2p.net.driver import Driver
from kmel_p2p.net.link_events import (
    AuthRejected,
    DialFailed,
    Egress,
    LinkEvent,
    LinkFault,
    LinkPhase,
    LinkState,
    PeerMisbehaved,
    StrangerRefused,
)
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.net.transport import Transport

__all__ = [
    "Address",
    "AuthRejected",
    "DialFailed",
    "Driver",
    "Egress",
    "LinkEvent",
    "LinkFault",
    "LinkPhase",
    "LinkState",
    "PeerMisbehaved",
    "StrangerRefused",
    "Transport",
    "TransportSettings",
    "check_advertised",
    "parse_address",
]
