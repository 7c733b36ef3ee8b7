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

BLANKS = re.compile(" +")

WORD = re.compile(r"[a-zA-Z]{4}")
"""What a text has that is recognised by itself. Without it, as in `{1} of {2}`, its fields have to be numbers, or in
Korean themselves: else half of an unknown sentence would be."""

NUMBER = re.compile(r"([\d.,]+( \S{1,3})?)?")
"""A number, perhaps with its unit, or nothing."""

LETTER = re.compile("[a-zA-Z]")

LONGEST = 4000
"""Characters of a text that is looked up; a peer says nothing longer."""


@functools.cache
def catalogue() -> gettext.NullTranslations:
    """The Korean texts; those of no language where they are missing."""
    return gettext.translation(DOMAIN, CATALOGUES, languages=["ko"], fallback=True)


def in_korean(text: str) -> str:
    """A text that a peer made; as it is where the catalogue lacks it. So are fields: names, numbers, addresses."""
    return text if len(text) > LONGEST else _looked_up(text, DEPTH)[0]


@functools.lru_cache(maxsize=4096)
def _looked_up(text: str, depth: int) -> tuple[str, int]:
    """A text in Korean, and how many letters of it stayed English. Blanks around it stay, too."""
    # The catalogue has single blanks, and none around a text.
    plain = BLANKS.sub(" ", text).strip()
    if not plain:
        return text, 0
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    exact = catalogue().gettext(plain)
    if exact != plain:
        return f"{before}{exact}{after}", 0
    best, left = text, len(LETTER.findall(text))
    what, separator, rest = plain.partition(": ")
    if depth and separator and " " not in what:
        # A file, a name or an address, and what is said of it.
        told, stayed = _looked_up(rest, depth - 1)
        if stayed < len(LETTER.findall(rest)):
            best, left = f"{before}{what}: {told}{after}", stayed + len(LETTER.findall(what))
    for parts, korean in _templates() if depth else ():
        fields = _fields(parts, plain)
        if fields is None:
            continue
        made = [_looked_up(field, depth - 1) for field in fields]
        stayed = sum(letters for _, letters in made)
        known = any(map(WORD.search, parts)) or all(
            NUMBER.fullmatch(field) or field != korean_field
            for field, (korean_field, _) in zip(fields, made, strict=True)
        )
        if known and stayed < left:
            best, left = f"{before}{korean.format('', *(field for field, _ in made))}{after}", stayed
    return best, left


@functools.cache
def _templates() -> Sequence[tuple[Sequence[str], str]]:
    """What stands around the fields of each text that has some, and its Korean; of two that know as much
    of a text, the one whose beginning is known counts, then the one that says more."""
    # gettext offers no list of what a catalogue holds.
    held = getattr(catalogue(), "_catalog", {})
    found = [(FIELD.split(english), korean) for english, korean in held.items() if FIELD.search(english)]
    return sorted(found, key=lambda one: (not one[0][0], -sum(map(len, one[0]))))


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
