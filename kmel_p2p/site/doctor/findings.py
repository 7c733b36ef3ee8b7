"""What an examination found, in one line each."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["good", "note", "warning", "problem"]
"""`note`: could not be examined, and need not be; `warning`: works now, and may not go on."""


class Area(enum.StrEnum):
    """What kind of thing is wrong; the exit code of `kmel-peer doctor` follows from it."""

    FILES = "files"
    """Key, settings, charter, amendments."""
    DATA = "data"
    MACHINE = "machine"
    """Clock, disk, memory, open files, features, trainer."""
    NETWORK = "network"
    """Ports, and the ways to and from the other sites."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One examined thing.

    Attributes:
        check: its name, such as "key" or "to south".
        text: what was found, in words.
        todo: what to do about it; empty where nothing is.
    """

    area: Area
    check: str
    level: Level
    text: str
    todo: str = ""

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def good(area: Area, check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(area, check, "good", text)


def problem(area: Area, check: str, text: str, todo: str) -> Finding:
    """Something to do, now."""
    return Finding(area, check, "problem", text, todo)
