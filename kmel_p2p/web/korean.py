"""Korean for what comes in English: the catalogue, and texts of a peer whose fields are filled in already.

A peer's document, log and events are English, whoever reads them. Pages and the command line in Korean look its texts
up here: as they stand, or among those with fields, which the catalogue has as `site {1} is not reachable`.
"""

from __future__ import annotations

import functools
import gettext
import re
from collections.abc import Sequence
from pathlib import Path

DOMAIN = "kmel_p2p"
CATALOGUES = Path(__file__).resolve().parent.parent / "locale"

FIELD = re.compile(r"\{\d\}")

DEPTH = 3
"""Fields within fields that are looked up: an alarm has a reason, which has a reason."""

LONGEST = 4000
"""Characters of a text that is looked up; a peer says nothing longer."""


@functools.cache
def catalogue() -> gettext.NullTranslations:
    """The Korean texts; those of no language where they are missing."""
    return gettext.translation(DOMAIN, CATALOGUES, languages=["ko"], fallback=True)


def in_korean(text: str, depth: int = DEPTH) -> str:
    """A text that a peer made; as it is where the catalogue lacks it. So are fields: names, numbers, addresses."""
    exact = catalogue().gettext(text)
    if exact != text or depth == 0 or len(text) > LONGEST or not text:
        return exact if text else ""
    for parts, korean in _templates():
        fields = _fields(parts, text)
        if fields is not None:
            return korean.format("", *(in_korean(field, depth - 1) for field in fields))
    return text


@functools.cache
def _templates() -> Sequence[tuple[Sequence[str], str]]:
    """What stands around the fields of each text that has some, and its Korean; the text that says most comes first."""
    # gettext offers no list of what a catalogue holds.
    held = getattr(catalogue(), "_catalog", {})
    found = [(FIELD.split(english), korean) for english, korean in held.items() if FIELD.search(english)]
    return sorted(found, key=lambda one: -sum(map(len, one[0])))


def _fields(parts: Sequence[str], text: str) -> list[str] | None:
    """What stands in a text between `parts`, each as early as it can; None: it is another text."""
    at, end = len(parts[0]), len(text) - len(parts[-1])
    if at > end or not text.startswith(parts[0]) or not text.endswith(parts[-1]):
        return None
    found = []
    for part in parts[1:-1]:
        place = text.find(part, at, end)
        if place < 0:
            return None
        found.append(text[at:place])
        at = place + len(part)
    return [*found, text[at:end]]
