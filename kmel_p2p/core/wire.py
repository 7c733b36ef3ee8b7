"""Bytes on the wire: msgpack arrays checked against a table.

Each message is `[protocol, charter tag, type id, field, field, ...]`. A `Schema` lists a message's fields with a
codec that bounds every length and range, so nothing is allocated for a value that is not allowed. Decoding hostile
bytes raises `WireError`, whatever they are. Type ids are append-only: membership 1-19, averaging modes 20-59
(20 for each).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import HASH_BYTES, KEY_BYTES, SIGNATURE_BYTES
from kmel_p2p.core.effects import Message

PROTOCOL = 1
"""Version of the message encoding. A peer speaking another one is refused with both numbers."""

CHARTER_TAG_BYTES = 8
"""Leading bytes of the charter id carried by every message; enough to tell federations apart, not a credential."""

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""A message larger than this is refused before it is decoded: 2 bits of 1.5 % of ten billion values fit."""


@dataclass(frozen=True, slots=True)
class Field:
    """How one value travels. `pack` gives msgpack-able data; `unpack` checks type, length and range."""

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    describe: str


def _same(value: Any) -> Any:
    return value


def uint(maximum: int = 2**63 - 1) -> Field:
    """An integer in [0, maximum]."""

    def unpack(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= maximum:
            raise WireError(f"expected an integer in [0, {maximum}]")
        return value

    return Field(_same, unpack, f"uint<={maximum}")


def blob(maximum: int, minimum: int = 0) -> Field:
    """A byte string of bounded length."""

    def unpack(value: Any) -> bytes:
        if type(value) is not bytes or not minimum <= len(value) <= maximum:
            raise WireError(f"expected {minimum} to {maximum} bytes")
        return value

    return Field(_same, unpack, f"bytes[{minimum}..{maximum}]")


def text(maximum: int) -> Field:
    """A UTF-8 string of at most `maximum` characters."""

    def unpack(value: Any) -> str:
        if type(value) is not str or len(value) > maximum:
            raise WireError(f"expected at most {maximum} characters")
        return value

    return Field(_same, unpack, f"text<={maximum}")


def flag() -> Field:
    """A boolean."""

    def unpack(value: Any) -> bool:
        if type(value) is not bool:
            raise WireError("expected a boolean")
        return value

    return Field(_same, unpack, "bool")


def optional(inner: Field) -> Field:
    """`inner`, or nil."""
    return Field(
        lambda v: None if v is None else inner.pack(v),
        lambda v: None if v is None else inner.unpack(v),
        f"{inner.describe}?",
    )


def listing(inner: Field, maximum: int) -> Field:
    """A tuple of at most `maximum` items."""

    def unpack(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > maximum:
            raise WireError(f"expected a list of at most {maximum} items")
        return tuple(inner.unpack(item) for item in value)

    return Field(lambda v: [inner.pack(item) for item in v], unpack, f"[{inner.describe}]<={maximum}")


def mapping(key: Field, value: Field, maximum: int) -> Field:
    """A mapping, sent with sorted keys so that equal mappings have equal bytes; unsorted ones are refused."""

    def pack(mapped: Any) -> list[Any]:
        return [item for k in sorted(mapped) for item in (key.pack(k), value.pack(mapped[k]))]

    def unpack(flat: Any) -> dict[Any, Any]:
        if type(flat) is not list or len(flat) % 2 or len(flat) > 2 * maximum:
            raise WireError(f"expected at most {maximum} pairs")
        keys = [key.unpack(k) for k in flat[::2]]
        if any(a >= b for a, b in pairwise(keys)):
            raise WireError("mapping keys are not strictly increasing")
        return dict(zip(keys, (value.unpack(v) for v in flat[1::2]), strict=True))

    return Field(pack, unpack, f"{{{key.describe}: {value.describe}}}<={maximum}")


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

    return Field(pack, unpack, getattr(cls, "__name__", "record"))


KEY = blob(KEY_BYTES, KEY_BYTES)
HASH = blob(HASH_BYTES, HASH_BYTES)
SIGNATURE = blob(SIGNATURE_BYTES, SIGNATURE_BYTES)
VECTOR = mapping(KEY, uint(2**40), MAX_SITES)


@dataclass(frozen=True, slots=True)
class Schema:
    """One row of the message table."""

    type_id: int
    cls: type[Message]
    fields: dict[str, Field]


class Wire:
    """Encodes and decodes the messages of one protocol version for one charter."""

    __slots__ = ("_by_class", "_by_id", "charter_tag")

    def __init__(self, charter_id: bytes, schemas: Iterable[Schema]) -> None:
        self.charter_tag = charter_id[:CHARTER_TAG_BYTES]
        self._by_id: dict[int, Schema] = {}
        self._by_class: dict[type[Message], Schema] = {}
        for schema in schemas:
            if schema.type_id in self._by_id:
                raise Bug(f"message type id {schema.type_id} is used twice")
            self._by_id[schema.type_id] = schema
            self._by_class[schema.cls] = schema

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
        parts = unpack_bounded(data, MAX_MESSAGE_BYTES)
        if type(parts) is not list or len(parts) < 3:
            raise WireError("not a message")
        protocol, tag, type_id = parts[:3]
        if protocol != PROTOCOL:
            raise WireError(f"protocol {protocol!r:.12} instead of {PROTOCOL}")
        if type(tag) is not bytes or len(tag) != CHARTER_TAG_BYTES:
            raise WireError("no charter tag")
        if tag != self.charter_tag:
            raise ForeignCharterError(tag)
        schema = self._by_id.get(type_id) if type(type_id) is int else None
        if schema is None:
            raise WireError(f"unknown message type {type_id!r:.12}")
        if len(parts) - 3 != len(schema.fields):
            raise WireError(f"{schema.cls.__name__} has {len(schema.fields)} fields, not {len(parts) - 3}")
        values = {n: f.unpack(v) for (n, f), v in zip(schema.fields.items(), parts[3:], strict=True)}
        return schema.cls(**values)


class ForeignCharterError(WireError):
    """A message under another charter id."""

    def __init__(self, tag: bytes) -> None:
        super().__init__(f"message under charter {tag.hex()}")
        self.tag = tag
