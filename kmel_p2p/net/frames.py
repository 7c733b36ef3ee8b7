"""The transport's own frames.

One message is one frame; only a chunk has a second one, so that its data go out and come in without a copy.

    frame            := kind:u8 body
    HELLO            := version:u8 lane:u8 boot:8 dial:u64 session:8 window:u64   first on a connection, by the dialler
    WELCOME          := version:u8 lane:u8 boot:8 dial:u64 session:8 window:u64   its answer, on the same connection
    MESSAGE          := control message
    KEEPALIVE        := token:u64
    KEEPALIVE_ANSWER := token:u64                                        given by the event loop, not by ZeroMQ
    CHUNK            := session:8 id:16 size:u64 offset:u64, then the data frame   bulk lane only
    GRANT            := session:8 limit:u64                              credit since the session began
    DONE             := id:16
    HELD_QUERY       := id:16 size:u64 probe:u8                          how much of this message do you hold?
    HELD_ANSWER      := id:16 offset:u64 digest:32                       this many bytes; see NO_DIGEST
    REFUSE           := id:16 reason:u8
    OPEN             :=                                                  please open your bulk connection to us

Numbers are big-endian. A message id is the sender's boot (8 random bytes) and a counter. `decode` raises `WireError`
and nothing else.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import zmq

from kmel_p2p.agreement.errors import ProtocolError, WireError
from kmel_p2p.agreement.identity import HASH_BYTES
from kmel_p2p.core.types import Lane
from kmel_p2p.core.wire import PROTOCOL, versions_differ
from kmel_p2p.net.settings import CONTROL_BYTES_MAX

VERSION = PROTOCOL
"""The protocol's version, of which these frames are a part. A peer with another one is told, and the link stays down.
"""

BOOT_BYTES = 8
SESSION_BYTES = 8
ID_BYTES = 16
NUMBER_MAX = 2**63 - 1
NO_DIGEST = bytes(HASH_BYTES)
"""In HELD_ANSWER: the bytes came under the id asked about, so they are the asker's own and need no comparison."""


class Kind(enum.IntEnum):
    """First byte of a frame. Append-only."""

    HELLO = 1
    WELCOME = 2
    MESSAGE = 3
    KEEPALIVE = 4
    KEEPALIVE_ANSWER = 5
    CHUNK = 6
    GRANT = 7
    DONE = 8
    HELD_QUERY = 9
    HELD_ANSWER = 10
    REFUSE = 11
    OPEN = 12


class Reason(enum.IntEnum):
    """Why a receiver does not take a transfer."""

    TOO_LARGE = 1
    BUSY = 2
    """No room now; ask again later."""
    MISPLACED = 3
    """A chunk that does not continue what is held; ask what is held."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """HELLO and WELCOME."""

    lane: Lane
    boot: bytes
    dial: int
    """Counts the dialler's connections, so that an old HELLO read late does not displace a newer one."""
    session: bytes
    window: int
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame on a connection."""

    greeting: Greeting


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answer to `Hello`; the connection is usable from here on."""

    greeting: Greeting


@dataclass(frozen=True, slots=True)
class Payload:
    """A control message of the layer above."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    token: int


@dataclass(frozen=True, slots=True)
class KeepaliveAnswer:
    token: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Header of a data frame."""

    session: bytes
    id: bytes
    size: int
    """Of the whole message."""
    offset: int


@dataclass(frozen=True, slots=True)
class Grant:
    session: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class Done:
    id: bytes


@dataclass(frozen=True, slots=True)
class HeldQuery:
    id: bytes
    size: int
    probe: bool
    """Asked for safety while chunks may be under way: an answer could have been lost with a control connection."""


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    id: bytes
    offset: int
    digest: bytes
    """BLAKE2b-256 of the bytes held, if they came under another id; else `NO_DIGEST`."""


@dataclass(frozen=True, slots=True)
class Refuse:
    id: bytes
    reason: Reason


@dataclass(frozen=True, slots=True)
class Open:
    """HeldQuery an outbound-only peer for its bulk connection."""


Frame: TypeAlias = (
    Hello
    | Welcome
    | Payload
    | Keepalive
    | KeepaliveAnswer
    | Chunk
    | Grant
    | Done
    | HeldQuery
    | HeldAnswer
    | Refuse
    | Open
)

_GREETING = struct.Struct(f">BBB{BOOT_BYTES}sQ{SESSION_BYTES}sQ")
_TOKEN = struct.Struct(">BQ")
_CHUNK = struct.Struct(f">B{SESSION_BYTES}s{ID_BYTES}sQQ")
_GRANT = struct.Struct(f">B{SESSION_BYTES}sQ")
_DONE = struct.Struct(f">B{ID_BYTES}s")
_HELD_QUERY = struct.Struct(f">B{ID_BYTES}sQB")
_HELD_ANSWER = struct.Struct(f">B{ID_BYTES}sQ{HASH_BYTES}s")
_REFUSE = struct.Struct(f">B{ID_BYTES}sB")
_OPEN = struct.Struct(">B")

GREETING_BYTES = _GREETING.size

_LAYOUT = {
    Kind.HELLO: _GREETING,
    Kind.WELCOME: _GREETING,
    Kind.KEEPALIVE: _TOKEN,
    Kind.KEEPALIVE_ANSWER: _TOKEN,
    Kind.CHUNK: _CHUNK,
    Kind.GRANT: _GRANT,
    Kind.DONE: _DONE,
    Kind.HELD_QUERY: _HELD_QUERY,
    Kind.HELD_ANSWER: _HELD_ANSWER,
    Kind.REFUSE: _REFUSE,
    Kind.OPEN: _OPEN,
}

_LANES = {Lane.CONTROL: 0, Lane.BULK: 1}
_LANE_OF = {number: lane for lane, number in _LANES.items()}

MESSAGE_PREFIX = bytes([Kind.MESSAGE])


def encode(frame: Frame) -> bytes:
    """The bytes of `frame`; of a chunk, its header."""
    match frame:
        case Payload(data):
            return MESSAGE_PREFIX + data
        case Chunk(session, message_id, size, offset):
            return _CHUNK.pack(Kind.CHUNK, session, message_id, size, offset)
        case Grant(session, limit):
            return _GRANT.pack(Kind.GRANT, session, limit)
        case Done(message_id):
            return _DONE.pack(Kind.DONE, message_id)
        case Keepalive(token):
            return _TOKEN.pack(Kind.KEEPALIVE, token)
        case KeepaliveAnswer(token):
            return _TOKEN.pack(Kind.KEEPALIVE_ANSWER, token)
        case Hello(greeting):
            return _pack_greeting(Kind.HELLO, greeting)
        case Welcome(greeting):
            return _pack_greeting(Kind.WELCOME, greeting)
        case HeldQuery(message_id, size, probe):
            return _HELD_QUERY.pack(Kind.HELD_QUERY, message_id, size, probe)
        case HeldAnswer(message_id, offset, digest):
            return _HELD_ANSWER.pack(Kind.HELD_ANSWER, message_id, offset, digest)
        case Refuse(message_id, reason):
            return _REFUSE.pack(Kind.REFUSE, message_id, reason)
        case Open():
            return _OPEN.pack(Kind.OPEN)


def _pack_greeting(kind: Kind, greeting: Greeting) -> bytes:
    return _GREETING.pack(
        kind,
        greeting.version,
        _LANES[greeting.lane],
        greeting.boot,
        greeting.dial,
        greeting.session,
        greeting.window,
    )


def read(parts: Sequence[zmq.Frame]) -> tuple[Frame, memoryview | None]:
    """A message as ZeroMQ hands it over: a frame, and the data that follow a chunk's header.

    Raises:
        WireError: see `decode`.
        ProtocolError: too many parts or bytes, or data where none belong.
    """
    if len(parts) > 2:
        raise ProtocolError("a message of too many frames")
    if len(parts[0]) > CONTROL_BYTES_MAX + 1:
        raise ProtocolError(f"a control message of {len(parts[0])} bytes")
    frame = decode(parts[0].bytes)
    if isinstance(frame, Chunk) != (len(parts) == 2):
        raise ProtocolError("a data frame where none belongs, or none where one does")
    return frame, parts[1].buffer if len(parts) == 2 else None


def decode(data: bytes) -> Frame:
    """The frame in `data`.

    Raises:
        WireError: unknown kind, wrong length, or a value out of range.
    """
    if not data:
        raise WireError("empty frame")
    if data[0] == Kind.MESSAGE:
        return Payload(data[1:])
    try:
        kind = Kind(data[0])
    except ValueError:
        raise WireError(f"unknown frame kind {data[0]}") from None
    layout = _LAYOUT[kind]
    if kind in (Kind.HELLO, Kind.WELCOME) and len(data) > 1 and data[1] != VERSION:
        raise VersionError(data[1])
    if len(data) != layout.size:
        raise WireError(f"{kind.name} of {len(data)} bytes instead of {layout.size}")
    return _build(kind, layout.unpack(data)[1:])


def _build(kind: Kind, values: tuple[int | bytes, ...]) -> Frame:
    if any(isinstance(value, int) and value > NUMBER_MAX for value in values):
        raise WireError(f"{kind.name} with a number over 2**63")
    match kind, values:
        case (
            (Kind.HELLO | Kind.WELCOME),
            (int(version), int(lane), bytes(boot), int(dial), bytes(session), int(window)),
        ):
            if lane not in _LANE_OF:
                raise WireError(f"{kind.name} for lane {lane}")
            greeting = Greeting(_LANE_OF[lane], boot, dial, session, window, version)
            return Hello(greeting) if kind == Kind.HELLO else Welcome(greeting)
        case Kind.CHUNK, (bytes(session), bytes(message_id), int(size), int(offset)):
            if not offset < size:
                raise WireError(f"CHUNK at {offset} of {size} bytes")
            return Chunk(session, message_id, size, offset)
        case Kind.GRANT, (bytes(session), int(limit)):
            return Grant(session, limit)
        case Kind.DONE, (bytes(message_id),):
            return Done(message_id)
        case Kind.KEEPALIVE, (int(token),):
            return Keepalive(token)
        case Kind.KEEPALIVE_ANSWER, (int(token),):
            return KeepaliveAnswer(token)
        case Kind.HELD_QUERY, (bytes(message_id), int(size), int(probe)):
            if probe > 1:
                raise WireError(f"HELD_QUERY with probe {probe}")
            return HeldQuery(message_id, size, probe == 1)
        case Kind.HELD_ANSWER, (bytes(message_id), int(offset), bytes(digest)):
            return HeldAnswer(message_id, offset, digest)
        case Kind.REFUSE, (bytes(message_id), int(reason)):
            if reason not in set(Reason):
                raise WireError(f"REFUSE for unknown reason {reason}")
            return Refuse(message_id, Reason(reason))
        case _:
            return Open()


class VersionError(WireError):
    """A greeting of another version of the protocol."""

    def __init__(self, version: int) -> None:
        super().__init__(versions_differ("protocol", version, VERSION))
        self.version = version
