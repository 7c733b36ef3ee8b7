"""The record of every byte that left: append-only JSON lines, each holding the hash of the line before.

    {"n": 7, "time": 1764000000.125, "to": "site-b", "kind": "entry", "what": "trunk 3f2a…", "bytes": 18211,
     "messages": 1, "digest": "…", "previous": "…"}

`previous` is BLAKE2b-256 of the previous line without its newline, so that a changed, removed or inserted line
breaks the chain at that place. Removing lines from the end is found by comparing with a head kept elsewhere
(`verify(expected=...)`; `egress_head` keeps it in the store). A line cut short by a crash is cut off, and the next
line records that. Frequent small messages are summed per destination and kind between flushes.

Times and bytes are those at the socket; encryption and TCP overhead come on top.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest

EGRESS_NAME = "egress.jsonl"
START = digest(b"kmel egress 1").hex()
MAX_LINE_BYTES = 64 * 1024
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


@dataclass(frozen=True, slots=True)
class EgressVerdict:
    """Result of checking a log."""

    head: EgressHead
    totals: dict[tuple[str, str], Total]
    problem: str
    """Empty when the chain holds; otherwise line and reason."""
    torn_bytes: int
    """Bytes of an unfinished last line: a crash, not an alteration."""


@dataclass(slots=True)
class _Sum:
    messages: int
    size: int
    digest: bytes


class EgressLog:
    """The open log of a running daemon. A line is in the file (of the kernel) before the call returns."""

    def __init__(self, path: Path, now: float) -> None:
        """Open or create the log and continue after its last whole line.

        Raises:
            ConfigError: cannot be written, or its last line is not ours.
        """
        self.path = path
        self.head = EgressHead(0, START)
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: cannot open the egress log: {error.strerror}") from error
        try:
            torn = self._recover()
        except BaseException:
            os.close(self._handle)
            raise
        self._sums: dict[tuple[str, str], _Sum] = {}
        self.totals: dict[tuple[str, str], Total] = {}
        """Since this daemon started, by (destination, kind)."""
        if torn:
            self._append(
                now,
                "",
                "recovered",
                f"an unfinished line of {len(torn)} bytes was cut off",
                0,
                0,
                digest(torn),
            )

    def record(self, now: float, to: str, kind: str, what: str, size: int, message_digest: bytes) -> None:
        """Record one message before it is handed to the transport.

        Args:
            now: wall clock, seconds since 1970.
            to: destination site, by name.
            kind: what sort of message, for example "entry".
            what: which tensors, for people (names, or a layout and its hash).
            size: bytes handed over.
            message_digest: BLAKE2b-256 of those bytes.

        Raises:
            ConfigError: the line cannot be written; the message must then not be sent.
        """
        self._append(now, to, kind, what, size, 1, message_digest)

    def add(self, to: str, kind: str, size: int, message_digest: bytes) -> None:
        """Record one small, frequent message; its sum appears at the next `flush`. Digests are chained."""
        total = self._sums.get((to, kind))
        if total is None:
            self._sums[to, kind] = _Sum(1, size, message_digest)
        else:
            total.messages += 1
            total.size += size
            total.digest = digest(total.digest, message_digest)

    def write_sums(self, now: float) -> EgressHead:
        """Write a line for each sum and return the head. Quick; the lines are durable after the next `sync`.

        Raises:
            ConfigError: as `record`.
        """
        for (to, kind), total in self._sums.items():
            self._append(now, to, kind, "summed", total.size, total.messages, total.digest)
        self._sums.clear()
        return self.head

    def sync(self) -> None:
        """Make every line written so far durable. Waits for the disk: an event loop calls it in a thread.

        Raises:
            ConfigError: the disk reports an error.
        """
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot make the egress log durable: {error.strerror}") from error

    def flush(self, now: float) -> EgressHead:
        """`write_sums`, then `sync`; returns the head to keep elsewhere.

        Raises:
            ConfigError: as both.
        """
        head = self.write_sums(now)
        self.sync()
        return head

    def close(self, now: float) -> None:
        """Flush and close."""
        try:
            self.flush(now)
            self.sync()
        finally:
            os.close(self._handle)

    def _append(self, now: float, to: str, kind: str, what: str, size: int, messages: int, mark: bytes) -> None:
        values = (
            self.head.number + 1,
            float(now),
            to,
            kind,
            what,
            size,
            messages,
            mark.hex(),
            self.head.hash,
        )
        line = json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=False).encode()
        position = os.lseek(self._handle, 0, os.SEEK_END)
        try:
            written = os.write(self._handle, line + b"\n")
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot write the egress log ({error.strerror}); nothing more is sent"
            ) from error
        if written != len(line) + 1:
            os.ftruncate(self._handle, position)
            raise ConfigError(f"{self.path}: the disk is full, the egress log cannot be written; nothing more is sent")
        self.head = EgressHead(values[0], digest(line).hex())
        before = self.totals.get((to, kind), Total(0, 0)) if messages else None
        if before is not None:
            self.totals[to, kind] = Total(before.messages + messages, before.bytes + size)

    def _recover(self) -> bytes:
        """Find the head; cut off and return an unfinished last line."""
        size = os.lseek(self._handle, 0, os.SEEK_END)
        start = max(0, size - 2 * MAX_LINE_BYTES)
        tail = os.pread(self._handle, size - start, start)
        whole, newline, torn = tail.rpartition(b"\n")
        if torn:
            os.ftruncate(self._handle, size - len(torn))
        if newline:
            line = whole.rpartition(b"\n")[2]
            fields = _parse(line)
            if isinstance(fields, str):
                raise ConfigError(
                    f"{self.path}: the last line is not one of an egress log ({fields}); "
                    "move the file away, a new one begins, and keep it: it shows an alteration"
                )
            self.head = EgressHead(fields["n"], digest(line).hex())
        return torn


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a log, as written; stops before an unfinished or foreign line.

    Raises:
        ConfigError: cannot be read.
    """
    for line in _lines(path):
        fields = _parse(line[:-1]) if line.endswith(b"\n") else "unfinished"
        if isinstance(fields, str):
            return
        yield fields


def verify(path: Path, expected: EgressHead | None = None) -> EgressVerdict:
    """Check a log from its first line.

    Args:
        path: the log.
        expected: a head noted earlier that must be a line of it.

    Raises:
        ConfigError: cannot be read.
    """
    head, totals, problem, torn, met = EgressHead(0, START), dict[tuple[str, str], Total](), "", 0, expected is None
    met = met or (expected is not None and expected.number == 0)
    for number, line in enumerate(_lines(path), start=1):
        if not line.endswith(b"\n"):
            torn = len(line)
            break
        fields = _parse(line[:-1])
        if isinstance(fields, str):
            problem = f"line {number}: {fields}"
        elif fields["n"] != number:
            problem = f"line {number}: numbered {fields['n']}; lines were removed, inserted or reordered"
        elif fields["previous"] != head.hash:
            problem = f"line {number}: does not follow the line before it; one of the two was altered"
        if problem or isinstance(fields, str):
            break
        head = EgressHead(number, digest(line[:-1]).hex())
        met = met or head == expected
        if fields["messages"]:
            before = totals.get((fields["to"], fields["kind"]), Total(0, 0))
            totals[fields["to"], fields["kind"]] = Total(
                before.messages + fields["messages"], before.bytes + fields["bytes"]
            )
    if not problem and not met and expected is not None:
        problem = f"line {expected.number} with hash {expected.hash[:16]}… was noted in the store but is not here"
    return EgressVerdict(head, totals, problem, torn)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                yield line
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no egress log; has this site ever run?") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(line: bytes) -> dict[str, Any] | str:
    """The fields of a line, or what is wrong with it."""
    try:
        fields = json.loads(line)
    except ValueError:
        return "not JSON"
    if not isinstance(fields, dict) or fields.keys() != FIELDS.keys():
        return "has other fields than an egress record"
    for name, kind in FIELDS.items():
        if type(fields[name]) is not kind:
            return f"field {name!r} is {fields[name]!r:.40}"
    return fields
