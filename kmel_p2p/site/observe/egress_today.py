"""What left a site today (UTC), by destination and kind: counted as it leaves, and read from the log after a start."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.observe.egress import DAY_S
from kmel_p2p.site.observe.egress_record import Total, parse
from kmel_p2p.site.observe.egress_segments import closed_segments

BLOCK_BYTES = 64 * 1024

Totals = Mapping[tuple[str, str], Total]
"""(destination, kind) -> messages and bytes."""


class EgressToday:
    """See the module docstring. `clock`: seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._day = day_of(clock())
        self._totals: dict[tuple[str, str], Total] = {}

    @property
    def totals(self) -> Totals:
        """Of today so far."""
        self._turn()
        return self._totals

    def add(self, to: str, kind: str, size: int) -> None:
        """A message of `size` bytes leaves."""
        self._turn()
        self._totals[to, kind] = self._totals.get((to, kind), Total(0, 0)).plus(1, size)

    def recall(self, totals: Totals, day: float) -> None:
        """Count what left before this start, on the day that begins at `day`."""
        self._turn()
        if day == self._day:
            for place, total in totals.items():
                before = self._totals.get(place, Total(0, 0))
                self._totals[place] = before.plus(total.messages, total.bytes)

    def _turn(self) -> None:
        today = day_of(self._clock())
        if today != self._day:
            self._day = today
            self._totals.clear()


def day_of(seconds: float) -> float:
    """When the day (UTC) of a moment began."""
    return seconds - seconds % DAY_S


def recorded_since(path: Path, start: float) -> Totals:
    """Sums of the records from `start` on, read from the end of the log. For another thread than the event loop's.

    What cannot be read ends it: `kmel-peer egress verify` is there to say so.

    Args:
        path: the file being written.
        start: seconds since 1970.
    """
    found: dict[tuple[str, str], Total] = {}
    try:
        files = [path, *reversed(closed_segments(path.parent).values())]
        for file in files:
            for line in _lines_backwards(file):
                fields = parse(line)
                if isinstance(fields, str) or fields["time"] < start:
                    return found
                if fields["messages"]:
                    place = (fields["to"], fields["kind"])
                    found[place] = found.get(place, Total(0, 0)).plus(fields["messages"], fields["bytes"])
    except (OSError, ConfigError):
        pass
    return found


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """Whole lines, the last one first; what follows the last line end is left out."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest, last = b"", True
        while position:
            size = min(BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            first, *lines = (file.read(size) + rest).split(b"\n")
            if lines and last:
                lines.pop()
                last = False
            yield from reversed(lines)
            rest = first
        if not last:
            yield rest
