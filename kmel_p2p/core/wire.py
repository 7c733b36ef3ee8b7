"""Bytes on the wire: msgpack arrays checked against a table.

Each message is `[protocol, charter tag, type id, field, field, ...]`. A `Schema` lists a message's fields with a
codec that bounds every length and range. A message is read field by field: a list tells its length before any of its
items is decoded, and where a number is expected no list is, so nothing is allocated for what is not allowed. Decoding
hostile bytes raises `WireError`, whatever they are. Type ids are append-only: membership 1-19, averaging modes 20-79
(20 for each).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgpack

from kmel_p2p.agreement.canonical import reader
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import HASH_BYTES, KEY_BYTES, SIGNATURE_BYTES
from kmel_p2p.core.effects import Message
from kmel_p2p.core.roster_vector import MAX_VECTOR_BYTES, RosterVector

PROTOCOL = 2
"""Version of the message encoding. A peer speaking another one is refused with both numbers."""

CHARTER_TAG_BYTES = 8
"""Leading bytes of the charter id carried by every message; enough to tell federations apart, not a credential."""

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""A message larger than this is refused before it is decoded: 2 bits of 1.5 % of ten billion values fit."""


NUMBER_BYTES = 9
"""Of the largest integer."""

LENGTH_BYTES = 5
"""In front of the longest list, string or byte string."""

HEAD_BYTES = LENGTH_BYTES + NUMBER_BYTES + LENGTH_BYTES + CHARTER_TAG_BYTES + NUMBER_BYTES
"""Before the fields of a message."""


def versions_differ(what: str, theirs: object, ours: int, they: str = "the peer", we: str = "this one") -> str:
    """Says which of two sides has to be upgraded, where they speak different versions; empty where they do not.

    Args:
        what: is spoken, such as "protocol".
        theirs: as the other side gave it; what is no integer says nothing.
        they, we: how the two are called.
    """
    if type(theirs) is not int or theirs == ours:
        return ""
    older = they if theirs < ours else we
    return f"{they} speaks {what} {theirs}, {we} {ours}: {older} has to be upgraded"


@dataclass(frozen=True, slots=True)
class Field:
    """How one value travels. `pack` gives msgpack-able data; `unpack` checks type, length and range.

    Attributes:
        max_bytes: no value takes more.
        read: of a container: takes it from a `canonical.reader`, item by item. None: a single value.
    """

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    describe: str
    max_bytes: int
    read: Callable[[Any], Any] | None = None

    def take(self, unpacker: Any) -> Any:
        """The next value of a `canonical.reader`, checked."""
        return self.read(unpacker) if self.read is not None else self.unpack(unpacker.unpack())


def _same(value: Any) -> Any:
    return value


def uint(maximum: int = 2**63 - 1) -> Field:
    """An integer in [0, maximum]."""

    def unpack(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= maximum:
            raise WireError(f"expected an integer in [0, {maximum}]")
        return value

    return Field(_same, unpack, f"uint<={maximum}", NUMBER_BYTES)


def blob(maximum: int, minimum: int = 0) -> Field:
    """A byte string of bounded length."""

    def unpack(value: Any) -> bytes:
        if type(value) is not bytes or not minimum <= len(value) <= maximum:
            raise WireError(f"expected {minimum} to {maximum} bytes")
        return value

    return Field(_same, unpack, f"bytes[{minimum}..{maximum}]", LENGTH_BYTES + maximum)


def text(maximum: int) -> Field:
    """A UTF-8 string of at most `maximum` characters."""

    def unpack(value: Any) -> str:
        if type(value) is not str or len(value) > maximum:
            raise WireError(f"expected at most {maximum} characters")
        return value

    return Field(_same, unpack, f"text<={maximum}", LENGTH_BYTES + 4 * maximum)


def flag() -> Field:
    """A boolean."""

    def unpack(value: Any) -> bool:
        if type(value) is not bool:
            raise WireError("expected a boolean")
        return value

    return Field(_same, unpack, "bool", 1)


def optional(inner: Field) -> Field:
    """`inner`, a single value, or nil."""
    return Field(
        lambda v: None if v is None else inner.pack(v),
        lambda v: None if v is None else inner.unpack(v),
        f"{inner.describe}?",
        inner.max_bytes,
    )


def listing(inner: Field, maximum: int) -> Field:
    """A tuple of at most `maximum` items."""

    def unpack(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > maximum:
            raise WireError(f"expected a list of at most {maximum} items")
        return tuple(inner.unpack(item) for item in value)

    def read(unpacker: Any) -> tuple[Any, ...]:
        count = unpacker.read_array_header()
        if count > maximum:
            raise WireError(f"expected a list of at most {maximum} items")
        return tuple(inner.take(unpacker) for _ in range(count))

    size = LENGTH_BYTES + maximum * inner.max_bytes
    return Field(lambda v: [inner.pack(item) for item in v], unpack, f"[{inner.describe}]<={maximum}", size, read)


def mapping(key: Field, value: Field, maximum: int) -> Field:
    """A mapping, sent with sorted keys so that equal mappings have equal bytes; unsorted ones are refused."""

    def pack(mapped: Any) -> list[Any]:
        return [item for k in sorted(mapped) for item in (key.pack(k), value.pack(mapped[k]))]

    def unpack(flat: Any) -> dict[Any, Any]:
        if type(flat) is not list or len(flat) % 2 or len(flat) > 2 * maximum:
            raise WireError(f"expected at most {maximum} pairs")
        return joined([key.unpack(k) for k in flat[::2]], [value.unpack(v) for v in flat[1::2]])

    def read(unpacker: Any) -> dict[Any, Any]:
        count = unpacker.read_array_header()
        if count % 2 or count > 2 * maximum:
            raise WireError(f"expected at most {maximum} pairs")
        keys, values = [], []
        for _ in range(count // 2):
            keys.append(key.take(unpacker))
            values.append(value.take(unpacker))
        return joined(keys, values)

    def joined(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
        if any(a >= b for a, b in pairwise(keys)):
            raise WireError("mapping keys are not strictly increasing")
        return dict(zip(keys, values, strict=True))

    size = LENGTH_BYTES + maximum * (key.max_bytes + value.max_bytes)
    return Field(pack, unpack, f"{{{key.describe}: {value.describe}}}<={maximum}", size, read)


def record(cls: Callable[..., Any], **fields: Field) -> Field:
    """A nested dataclass, sent as the array of its fields in the given order."""
    names = tuple(fields)
    codecs = tuple(fields.values())

    def pack(value: Any) -> list[Any]:
        return [codec.pack(getattr(value, name)) for name, codec in fields.items()]

    def unpack(value: Any) -> Any:
        if type(value) is not list or len(value) != len(codecs):
            raise WireError(f"expected {len(codecs)} fields")
        return cls(**{n: c.unpack(v) for n, c, v in zip(names, codecs, value, strict=True)})

    def read(unpacker: Any) -> Any:
        if unpacker.read_array_header() != len(codecs):
            raise WireError(f"expected {len(codecs)} fields")
        return cls(**{name: codec.take(unpacker) for name, codec in fields.items()})

    size = LENGTH_BYTES + sum(codec.max_bytes for codec in codecs)
    return Field(pack, unpack, getattr(cls, "__name__", "record"), size, read)


def either(*kinds: tuple[Callable[..., Any], dict[str, Field]]) -> Field:
    """One of several records, told apart by their numbers of fields, so that no tag is spent on each.

    Args:
        kinds: class and fields of each record.
    """
    by_count = {len(fields): (cls, fields) for cls, fields in kinds}
    records = {cls: record(cls, **fields) for cls, fields in kinds}
    if len(by_count) != len(kinds):
        raise Bug("records that are told apart by their numbers of fields have equal ones")
    names = " or ".join(codec.describe for codec in records.values())

    def kind(count: int) -> tuple[Callable[..., Any], dict[str, Field]]:
        if count not in by_count:
            raise WireError(f"expected {names}")
        return by_count[count]

    def unpack(value: Any) -> Any:
        if type(value) is not list:
            raise WireError(f"expected {names}")
        return records[kind(len(value))[0]].unpack(value)

    def read(unpacker: Any) -> Any:
        cls, fields = kind(unpacker.read_array_header())
        return cls(**{name: codec.take(unpacker) for name, codec in fields.items()})

    size = max(codec.max_bytes for codec in records.values())
    return Field(lambda value: records[type(value)].pack(value), unpack, names, size, read)


KEY = blob(KEY_BYTES, KEY_BYTES)
HASH = blob(HASH_BYTES, HASH_BYTES)
SIGNATURE = blob(SIGNATURE_BYTES, SIGNATURE_BYTES)
VECTOR = Field(lambda vector: vector.packed, RosterVector.read, "vector", LENGTH_BYTES + MAX_VECTOR_BYTES)


@dataclass(frozen=True, slots=True)
class Schema:
    """One row of the message table.

    Attributes:
        at_most: bytes of a message, where that is less than all its fields could take together.
    """

    type_id: int
    cls: type[Message]
    fields: dict[str, Field]
    at_most: int = MAX_MESSAGE_BYTES

    @property
    def max_bytes(self) -> int:
        """No message of this type is larger: checked before any of its fields is decoded."""
        return min(self.at_most, HEAD_BYTES + sum(field.max_bytes for field in self.fields.values()))


class Wire:
    """Encodes and decodes the messages of one protocol version for one charter."""

    __slots__ = ("_by_class", "_by_id", "_max_bytes", "charter_tag")

    def __init__(self, charter_id: bytes, schemas: Iterable[Schema]) -> None:
        self.charter_tag = charter_id[:CHARTER_TAG_BYTES]
        self._by_id: dict[int, Schema] = {}
        self._by_class: dict[type[Message], Schema] = {}
        self._max_bytes: dict[int, int] = {}
        for schema in schemas:
            if schema.type_id in self._by_id:
                raise Bug(f"message type id {schema.type_id} is used twice")
            self._by_id[schema.type_id] = schema
            self._by_class[schema.cls] = schema
            self._max_bytes[schema.type_id] = schema.max_bytes

    def encode(self, message: Message) -> bytes:
        """The bytes of `message`."""
        schema = self._by_class.get(type(message))
        if schema is None:
            raise Bug(f"{type(message).__name__} is not in the message table")
        head: list[Any] = [PROTOCOL, self.charter_tag, schema.type_id]
        body = [field.pack(getattr(message, name)) for name, field in schema.fields.items()]
        packed: bytes = msgpack.packb(head + body, use_bin_type=True)
        return packed

    def decode(self, data: bytes | memoryview) -> Message:
        """The message in `data`.

        Raises:
            WireError: not a message of this protocol version.
            ForeignCharterError: a message of another federation; its tag is in the error.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise WireError(f"{len(data)} bytes where at most {MAX_MESSAGE_BYTES} are allowed")
        unpacker = reader(data)
        try:
            message = self._read(unpacker, len(data))
            if unpacker.tell() != len(data):
                raise WireError("bytes follow the message")
        except (msgpack.exceptions.UnpackException, ValueError, TypeError) as error:
            raise WireError(f"not a message: {type(error).__name__}") from None
        return message

    def _read(self, unpacker: Any, size: int) -> Message:
        count = unpacker.read_array_header()
        if count < 3:
            raise WireError("not a message")
        protocol, tag = unpacker.unpack(), unpacker.unpack()
        if protocol != PROTOCOL:
            raise WireError(
                f"it speaks protocol {_short(protocol)}, this site {PROTOCOL}: both need the same version of kmel-peer"
            )
        if type(tag) is not bytes or len(tag) != CHARTER_TAG_BYTES:
            raise WireError("no charter tag")
        if tag != self.charter_tag:
            raise ForeignCharterError(tag)
        type_id = unpacker.unpack()
        schema = self._by_id.get(type_id) if type(type_id) is int else None
        if schema is None:
            raise WireError(f"unknown message type {_short(type_id)}")
        if count - 3 != len(schema.fields):
            raise WireError(f"{schema.cls.__name__} has {len(schema.fields)} fields, not {count - 3}")
        if size > self._max_bytes[type_id]:
            raise WireError(f"{schema.cls.__name__} of {size} bytes; it has at most {self._max_bytes[type_id]}")
        return schema.cls(**{name: field.take(unpacker) for name, field in schema.fields.items()})


def _short(value: Any) -> str:
    """What stands where a number belongs. Bytes are not written out: they may be as many as the message has."""
    return str(value) if type(value) is int else f"of type {type(value).__name__}"


class ForeignCharterError(WireError):
    """A message under another charter id."""

    def __init__(self, tag: bytes) -> None:
        super().__init__(f"message under charter {tag.hex()}")
        self.tag = tag
