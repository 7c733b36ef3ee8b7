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

DEPTH = 4
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

LOOKED_UP = 100
"""Parts of a text that are looked up; the longest error has sixteen. What a text of another site has
beyond them, made for it, stays as it is."""


@functools.cache
def catalogue() -> gettext.NullTranslations:
    """The Korean texts; those of no language where they are missing."""
    return gettext.translation(DOMAIN, CATALOGUES, languages=["ko"], fallback=True)


@functools.lru_cache(maxsize=1024)
def in_korean(text: str) -> str:
    """A text that a peer made; as it is where the catalogue lacks it. So are fields: names, numbers, addresses."""
    return text if len(text) > LONGEST else _looked_up(text, DEPTH, {})[0]


def _looked_up(text: str, depth: int, made: dict[tuple[str, int], tuple[str, int]]) -> tuple[str, int]:
    """A text in Korean, and how many letters of it stayed English. Blanks around it stay, too. `made`: what was looked
    up so far."""
    found = made.get((text, depth))
    if found is None:
        if len(made) >= LOOKED_UP:
            return text, len(LETTER.findall(text))
        made[text, depth] = text, len(LETTER.findall(text))  # counts from now on
        found = made[text, depth] = _korean_of(text, depth, made)
    return found


def _korean_of(text: str, depth: int, looked_up: dict[tuple[str, int], tuple[str, int]]) -> tuple[str, int]:
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
        told, stayed = _looked_up(rest, depth - 1, looked_up)
        if stayed < len(LETTER.findall(rest)):
            best, left = f"{before}{what}: {told}{after}", stayed + len(LETTER.findall(what))
    for parts, korean in _templates() if depth else ():
        fields = _fields(parts, plain)
        if fields is None:
            continue
        made = [_looked_up(field, depth - 1, looked_up) for field in fields]
        stayed = sum(letters for _, letters in made)
        korean_fields = [told != field for field, (told, _) in zip(fields, made, strict=True)]
        known = (
            any(map(WORD.search, parts))
            # A short word at the beginning, and behind it what is known: `key {1} is {2}: {3}`.
            or (LETTER.search(parts[0]) is not None and korean_fields[-1])
            or all(NUMBER.fullmatch(field) or told for field, told in zip(fields, korean_fields, strict=True))
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
