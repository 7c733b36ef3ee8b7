"""What an examination found, in one line each, in English or in another language."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

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
    """One examined thing, in words with places such as `{site}` for what differs, so that they can be translated.

    Attributes:
        title: of the check, such as "key" or "to {site}".
        says: what was found.
        advice: what to do about it; empty where nothing is.
        values: what stands in the places.
    """

    area: Area
    level: Level
    title: str
    says: str
    advice: str = ""
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def check(self) -> str:
        """Name of the check, in English."""
        return self.in_words()[0]

    @property
    def text(self) -> str:
        """What was found, in English."""
        return self.in_words()[1]

    @property
    def todo(self) -> str:
        """What to do, in English."""
        return self.in_words()[2]

    def in_words(self, translated: Callable[[str], str] = str) -> tuple[str, str, str]:
        """Check, what was found and what to do."""
        # gettext translates an empty text into the head of its catalogue.
        check, text, todo = (
            (translated(words) if words else "").format(**self.values) for words in (self.title, self.says, self.advice)
        )
        return check, text, todo

    def plain(self) -> dict[str, str]:
        """For programs, in English."""
        check, text, todo = self.in_words()
        return {"area": self.area.value, "check": check, "level": self.level, "text": text, "todo": todo}


def good(area: Area, title: str, says: str, **values: object) -> Finding:
    """Nothing to do."""
    return Finding(area, "good", title, says, values=values)


def note(area: Area, title: str, says: str, **values: object) -> Finding:
    """It could not be examined, and need not be."""
    return Finding(area, "note", title, says, values=values)


def warning(area: Area, title: str, says: str, advice: str, **values: object) -> Finding:
    """Something to do before long."""
    return Finding(area, "warning", title, says, advice, values)


def problem(area: Area, title: str, says: str, advice: str, **values: object) -> Finding:
    """Something to do, now."""
    return Finding(area, "problem", title, says, advice, values)
