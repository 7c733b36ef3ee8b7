"""Writes the record of every byte that left: append-only JSON lines, each holding the hash of the line before.

`egress_record` says what a line is, `egress_segments` how files follow each other and how they are checked. Removing
lines from the end is found by comparing with a head kept elsewhere (`egress_head` keeps it in the store). A line cut
short by a crash is cut off, and the next line records that.

What is large is recorded one by one before it leaves. Small, frequent messages are summed per destination and kind,
and a sum is written when it is old or large: a crash can take the sums of the last minutes with it.

Times and bytes are those at the socket; encryption and TCP overhead come on top.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.files import sync_directory
from kmel_p2p.site.observe.egress_record import (
    MAX_LINE_BYTES,
    RECOVERED,
    REMOVED,
    SEGMENT,
    START,
    EgressHead,
    Total,
    head_of,
    line_of,
    parse,
)
from kmel_p2p.site.observe.egress_segments import closed_name, closed_segments

SUM_S = 600.0
"""A sum is written when it is so old. With 400 bytes a line, 17 kinds of message come to 1 MB a day and site."""

SUM_BYTES = 1024 * 1024
"""A sum of so many bytes is written at the next look: of a busy site, little is unwritten when it crashes."""

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a segment is closed and a new one begins, and how long closed ones are kept."""

    bytes: int = 64 * 1024 * 1024
    age_s: float = 30 * DAY_S
    keep_s: float = 0.0
    """Closed segments are deleted when their newest record is so old; 0: never."""


@dataclass(slots=True)
class _Sum:
    since: float
    total: Total
    digest: bytes


class EgressLog:
    """The open log of a running daemon. A line is in the file (of the kernel) before the call returns."""

    def __init__(self, path: Path, now: float, rotation: Rotation | None = None) -> None:
        """Open or create the log and continue after its last whole line.

        Raises:
            ConfigError: cannot be written, or its last line is not ours.
        """
        self.path = path
        self.head = EgressHead(0, START)
        self._rotation = rotation or Rotation()
        self._former: int | None = None
        try:
            self._reopen_closed()
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: cannot open the egress log: {error.strerror}") from error
        try:
            self._first, self._began = 1, now
            torn = self._recover()
        except BaseException:
            os.close(self._handle)
            raise
        self._sums: dict[tuple[str, str], _Sum] = {}
        self.totals: dict[tuple[str, str], Total] = {}
        """Since this daemon started, by (destination, kind)."""
        if torn:
            self._note(now, RECOVERED, f"an unfinished line of {len(torn)} bytes was cut off", digest(torn))

    # ---- records ------------------------------------------------------------------------------------------------

    def record(self, now: float, to: str, kind: str, what: str, size: int, message_digest: bytes) -> None:
        """Record one message before it is handed to the transport.

        Args:
            now: wall clock, seconds since 1970.
            to: destination site, by name.
            kind: what sort of message, for example "Bodies".
            what: what is in it, for people: how many entries, which tensors.
            size: bytes handed over.
            message_digest: BLAKE2b-256 of those bytes.

        Raises:
            ConfigError: the line cannot be written; the message must then not be sent. The log is as before.
        """
        self._append(now, to, kind, what, Total(1, size), message_digest)

    def add(self, now: float, to: str, kind: str, size: int, message_digest: bytes) -> None:
        """Record one small, frequent message in memory; `write_sums` writes the sum. Digests are chained."""
        held = self._sums.get((to, kind))
        if held is None:
            self._sums[to, kind] = _Sum(now, Total(1, size), message_digest)
        else:
            held.total = held.total.plus(1, size)
            held.digest = digest(held.digest, message_digest)

    def write_sums(self, now: float, *, all_of_them: bool = False) -> bool:
        """Write a line for each sum that is old or large; whether there was one. Durable after the next `sync`.

        Raises:
            ConfigError: as `record`. What could not be written is still summed up.
        """
        due = [
            place
            for place, held in self._sums.items()
            # A clock that was set back makes every sum due, rather than none for hours.
            if all_of_them or not 0 <= now - held.since < SUM_S or held.total.bytes >= SUM_BYTES
        ]
        for to, kind in due:
            held = self._sums[to, kind]
            self._append(now, to, kind, f"summed over {max(0.0, now - held.since):.0f} s", held.total, held.digest)
            del self._sums[to, kind]
        return bool(due)

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
        """Write all sums and make them durable; returns the head to keep elsewhere.

        Raises:
            ConfigError: as both.
        """
        self.write_sums(now, all_of_them=True)
        self.sync()
        return self.head

    def close(self, now: float) -> None:
        """Flush and close."""
        try:
            self.flush(now)
        finally:
            os.close(self._handle)
            if self._former is not None:
                os.close(self._former)

    # ---- segments -----------------------------------------------------------------------------------------------

    def is_full(self, now: float) -> bool:
        """Whether the present segment is large or old enough to be closed."""
        size = os.fstat(self._handle).st_size
        return size > 0 and (size >= self._rotation.bytes or now - self._began >= self._rotation.age_s)

    def rotate(self, now: float) -> None:
        """Close the present segment and go on in a new one. Quick when `sync` was called just before.

        Raises:
            ConfigError: not possible now; the present segment is gone on with.
        """
        beside = self.path.with_name(f"{self.path.name}.new")
        closed = self.path.with_name(closed_name(self._first))
        line = line_of(
            self.head, now, "", SEGMENT, f"follows {closed.name}", Total(0, 0), bytes.fromhex(self.head.hash)
        )
        try:
            # All of the old is durable before any of the new: a power loss never takes lines from the middle.
            os.fsync(self._handle)
            handle = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            try:
                _write(handle, line + b"\n")
                os.rename(self.path, closed)
                try:
                    os.rename(beside, self.path)
                except OSError:
                    os.rename(closed, self.path)
                    raise
            except OSError:
                os.close(handle)
                with contextlib.suppress(OSError):
                    beside.unlink()
                raise
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot begin a new segment: {error.strerror}") from error
        with contextlib.suppress(OSError):
            # Should a power loss undo the renames, `_reopen_closed` or the old names serve as well.
            sync_directory(self.path.parent)
        if self._former is not None:
            os.close(self._former)
        # Another thread may be waiting for the disk with it; it is closed at the next turn.
        self._former, self._handle = self._handle, handle
        self._first, self._began = self.head.number + 1, now
        self.head = head_of(line, self.head.number + 1)

    def expire(self, now: float) -> Callable[[], None] | None:
        """Record that old closed segments are deleted; returns the work that deletes them, for another thread.

        None when nothing is to be deleted.

        Raises:
            ConfigError: as `record`; then nothing may be deleted.
        """
        old: list[Path] = []
        if self._rotation.keep_s > 0:
            for path in closed_segments(self.path.parent).values():
                last = _last_record(path)
                if last is None or now - last[1]["time"] < self._rotation.keep_s:
                    break  # those after it are younger, and the chain has no holes
                old.append(path)
                newest = last
        if not old:
            return None
        head, days = head_of(newest[0], newest[1]["n"]), self._rotation.keep_s / DAY_S
        self._note(now, REMOVED, f"lines up to {head.number}, older than {days:.0f} days", bytes.fromhex(head.hash))

        def delete() -> None:
            self.sync()
            for path in old:
                path.unlink(missing_ok=True)

        return delete

    # ---- inner --------------------------------------------------------------------------------------------------

    def _note(self, now: float, kind: str, what: str, mark: bytes) -> None:
        self._append(now, "", kind, what, Total(0, 0), mark)

    def _append(self, now: float, to: str, kind: str, what: str, total: Total, mark: bytes) -> None:
        line = line_of(self.head, now, to, kind, what, total, mark)
        try:
            _write(self._handle, line + b"\n")
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot write the egress log ({error.strerror}); "
                "what must be on record does not leave until it can be written"
            ) from error
        self.head = head_of(line, self.head.number + 1)
        if total.messages:
            before = self.totals.get((to, kind), Total(0, 0))
            self.totals[to, kind] = before.plus(total.messages, total.bytes)

    def _reopen_closed(self) -> None:
        """After a crash between two segments: go on in the newest closed one, which then has the last line."""
        if (self.path.exists() and self.path.stat().st_size) or not self.path.parent.is_dir():
            return
        if closed := closed_segments(self.path.parent):
            os.rename(closed[max(closed)], self.path)

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
            fields = parse(line)
            if isinstance(fields, str):
                raise ConfigError(
                    f"{self.path}: the last line is not one of an egress log ({fields}); "
                    "move the file away, a new one begins, and keep it: it shows an alteration"
                )
            self.head = head_of(line, fields["n"])
            first = parse(os.pread(self._handle, MAX_LINE_BYTES, 0).partition(b"\n")[0])
            if not isinstance(first, str):
                self._first, self._began = first["n"], first["time"]
        return torn


def _write(handle: int, line: bytes) -> None:
    """Append a line whole, or leave the file as it was and raise OSError."""
    position = os.lseek(handle, 0, os.SEEK_END)
    written = os.write(handle, line)
    if written != len(line):
        os.ftruncate(handle, position)
        raise OSError(0, "the disk is full")


def _last_record(path: Path) -> tuple[bytes, dict[str, Any]] | None:
    """The last line of a closed segment with its fields; None when it is not whole."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2 * MAX_LINE_BYTES))
            line = file.read()[:-1].rpartition(b"\n")[2]
    except OSError:
        return None
    fields = parse(line)
    return None if isinstance(fields, str) else (line, fields)
