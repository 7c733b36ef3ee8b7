"""The egress log as a chain over several files: the one being written, and closed segments beside it.

    egress.jsonl              written now
    egress-0000000001.jsonl   closed; named by the number of its first record

The chain goes on across files: the first record of each follows the last of the one before. Closed segments may be
moved to other folders, which are named again to read or verify the whole. Segments that the program itself deleted
(`egress.keep_days`) are accounted for by a record of kind `removed`, which holds the hash of their last record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.observe.egress_record import REMOVED, START, EgressHead, Total, head_of, lines_of, parse

EGRESS_NAME = "egress.jsonl"

_CLOSED = re.compile(r"egress-(\d{10,})\.jsonl")


@dataclass(slots=True)
class EgressVerdict:
    """Result of checking a log."""

    head: EgressHead = field(default_factory=lambda: EgressHead(0, START))
    totals: dict[tuple[str, str], Total] = field(default_factory=dict)
    """By destination and kind."""
    problem: str = ""
    """Empty when the chain holds; otherwise line and reason."""
    torn_bytes: int = 0
    """Bytes of an unfinished last line: a crash, not an alteration."""
    first: int = 1
    """Number of the oldest record here; those before were deleted as configured."""
    segments: int = 0
    """Files read."""


def closed_name(first: int) -> str:
    """Name of the closed segment that begins with record `first`."""
    return f"egress-{first:010}.jsonl"


def closed_segments(folder: Path) -> dict[int, Path]:
    """Closed segments in a folder by the number of their first record, ascending."""
    try:
        found = {int(match[1]): path for path in folder.iterdir() if (match := _CLOSED.fullmatch(path.name))}
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read: {error.strerror}") from error
    return dict(sorted(found.items()))


def segments(path: Path, archives: Sequence[Path] = ()) -> list[Path]:
    """All files of a log, oldest first; `path`, which is being written, is the last.

    Args:
        path: the file being written.
        archives: folders that closed segments were moved to.

    Raises:
        ConfigError: a folder cannot be read, or there is no log.
    """
    found: dict[int, Path] = {}
    for folder in (*archives, path.parent):
        if not folder.is_dir():
            raise ConfigError(f"{path}: there is no egress log; has this site ever run?")
        for first, segment in closed_segments(folder).items():
            found.setdefault(first, segment)
    # Between closing one segment and opening the next, a crash leaves closed ones alone.
    return [found[first] for first in sorted(found)] + ([path] if path.exists() or not found else [])


def read(path: Path, archives: Sequence[Path] = ()) -> Iterator[dict[str, Any]]:
    """The records of a log, oldest first; stops before an unfinished or foreign line.

    Raises:
        ConfigError: cannot be read.
    """
    for _, fields in read_lines(path, archives):
        yield fields


def read_lines(path: Path, archives: Sequence[Path] = ()) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """`read` with each line as it is in the file."""
    for segment in segments(path, archives):
        for line in lines_of(segment):
            fields = parse(line[:-1]) if line.endswith(b"\n") else "unfinished"
            if isinstance(fields, str):
                return
            yield line, fields


def verify(path: Path, expected: EgressHead | None = None, archives: Sequence[Path] = ()) -> EgressVerdict:
    """Check a log over all its segments, from its first line.

    Args:
        path: the file being written.
        expected: a head noted earlier that must be a line of it.
        archives: folders that closed segments were moved to.

    Raises:
        ConfigError: cannot be read.
    """
    chain = _Chain(expected)
    files = segments(path, archives)
    for place, segment in enumerate(files):
        chain.begin(segment.name if segment != path else "")
        for line in lines_of(segment):
            if not chain.take(line, may_be_torn=place == len(files) - 1):
                return chain.verdict
    return chain.end()


class _Chain:
    """Checks one line after another."""

    def __init__(self, expected: EgressHead | None) -> None:
        self.verdict = EgressVerdict()
        self._expected = expected
        self._met = expected is None or expected.number == 0
        self._before_first = START
        self._removed: set[str] = set()
        self._segment = ""
        self._at_start = True

    def begin(self, segment: str) -> None:
        """Lines of another file follow; `segment`: its name, empty for the one being written."""
        self._segment, self._at_start = segment, True
        self.verdict.segments += 1

    def take(self, line: bytes, *, may_be_torn: bool) -> bool:
        """Check a line; False when nothing after it can be judged."""
        verdict, number = self.verdict, self.verdict.head.number + 1
        if not line.endswith(b"\n") and may_be_torn:
            verdict.torn_bytes = len(line)
            return True
        fields = parse(line[:-1]) if line.endswith(b"\n") else "unfinished or too long"
        if isinstance(fields, str):
            return self._wrong(number, fields)
        if number == 1 and fields["n"] > 1:
            # Whether what is missing was deleted by the program is known only at the end.
            number, self._before_first = fields["n"], fields["previous"]
            verdict.first, verdict.head = number, EgressHead(number - 1, fields["previous"])
        if fields["n"] != number:
            missing = self._at_start and fields["n"] > number
            return self._wrong(
                number,
                f"is not here, nor are the lines up to {fields['n'] - 1}: a segment is missing"
                if missing
                else f"numbered {fields['n']}; lines were removed, inserted or reordered",
            )
        if fields["previous"] != verdict.head.hash:
            return self._wrong(number, "does not follow the line before it; one of the two was altered")
        self._at_start = False
        verdict.head = head_of(line[:-1], number)
        self._met = self._met or verdict.head == self._expected
        if fields["kind"] == REMOVED:
            self._removed.add(fields["digest"])
        if fields["messages"]:
            before = verdict.totals.get((fields["to"], fields["kind"]), Total(0, 0))
            verdict.totals[fields["to"], fields["kind"]] = before.plus(fields["messages"], fields["bytes"])
        return True

    def _wrong(self, number: int, reason: str) -> bool:
        self.verdict.problem = f"line {number}{f' ({self._segment})' if self._segment else ''}: {reason}"
        return False

    def end(self) -> EgressVerdict:
        """After the last line."""
        verdict, expected = self.verdict, self._expected
        if verdict.first > 1 and self._before_first not in self._removed:
            verdict.problem = (
                f"lines 1 to {verdict.first - 1} are not here, and the log does not say that they were deleted; "
                "if you moved segments away, name their folder with --archive"
            )
        elif not self._met and expected is not None and expected.number >= verdict.first:
            verdict.problem = (
                f"line {expected.number} with hash {expected.hash[:16]}… was noted in the store but is not here"
            )
        return verdict
