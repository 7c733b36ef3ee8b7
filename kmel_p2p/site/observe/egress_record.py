"""One record of the egress log, and where in the chain it stands.

    {"n": 7, "time": 1764000000.125, "to": "site-b", "kind": "Bodies", "what": "1 entry; trunk 3f2a…", "bytes": 18211,
     "messages": 1, "digest": "…", "previous": "…"}

`previous` is BLAKE2b-256 of the previous line without its newline, so that a changed, removed or inserted line breaks
the chain at that place. A record of 0 messages is a note about the log itself: `recovered`, `segment` or `removed`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.agreement.strict import parse_json

START = digest(b"kmel egress 1").hex()
"""In place of the hash of a line before the first."""

MAX_LINE_BYTES = 64 * 1024
"""Of one record; a longer line was not written by this program, and is not read into memory."""

RECOVERED, SEGMENT, REMOVED = "recovered", "segment", "removed"
"""Kinds of notes about the log itself: a line cut short by a crash, a new segment, and old segments deleted."""

FIELDS = {"n": int, "time": float, "to": str, "kind": str, "what": str, "bytes": int, "messages": int,
          "digest": str, "previous": str}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EgressHead:
    """The newest line: its number (0: none) and hash."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Total:
    """What went to one destination as one kind of message."""

    messages: int
    bytes: int

    def plus(self, messages: int, size: int) -> Total:
        """With `messages` more of `size` bytes together."""
        return Total(self.messages + messages, self.bytes + size)


def line_of(head: EgressHead, now: float, to: str, kind: str, what: str, total: Total, mark: bytes) -> bytes:
    """The line after `head`, without its newline."""
    values = (head.number + 1, float(now), to, kind, what, total.bytes, total.messages, mark.hex(), head.hash)
    return json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=False).encode()


def head_of(line: bytes, number: int) -> EgressHead:
    """The head after a line, given without its newline."""
    return EgressHead(number, digest(line).hex())


def parse(line: bytes) -> dict[str, Any] | str:
    """The fields of a line, or what is wrong with it."""
    try:
        fields = parse_json(line)
    except ValueError:
        return "not JSON"
    if not isinstance(fields, dict) or fields.keys() != FIELDS.keys():
        return "has other fields than an egress record"
    for name, kind in FIELDS.items():
        if type(fields[name]) is not kind:
            return f"field {name!r} is {fields[name]!r:.40}"
    return fields


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of one file with their newlines; the last may lack it.

    Raises:
        ConfigError: cannot be read.
    """
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                yield line
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no egress log; has this site ever run?") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
