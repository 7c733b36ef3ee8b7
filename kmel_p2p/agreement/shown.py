"""Text of others as people see it: nothing in it may steer a terminal, and nothing in a cell may run in a spreadsheet.

Names, reasons, addresses and cells of tables come from other sites and from files. A terminal obeys control characters
in them, and a spreadsheet runs a cell that begins like a formula.
"""

from __future__ import annotations

import re

CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Control characters, line separators, and marks that turn the direction of writing, as a part of a pattern."""

PRINTABLE = rf"^[^{CONTROL}]*$"
"""Pattern of a text without any of them."""

PRINTABLE_WORDS = "text without control characters"

_SHOWN_ESCAPED = re.compile(rf"(?![\n\t]|\r\n)[{CONTROL}]")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?", re.ASCII)


def shown(text: str) -> str:
    """`text` with its control characters written out (`\\u001b`), except ends of lines and tabs."""
    return _SHOWN_ESCAPED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def one_line(text: str, most: int = 300) -> str:
    """A text of others within a line of ours: without ends of lines and runs of blanks, at most `most` characters."""
    line = shown(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def cell(value: object) -> str:
    """A cell of a table that people open in a spreadsheet.

    Control characters are written out. What a spreadsheet would run gets an apostrophe in front, which it shows as
    text; numbers stay as they are.
    """
    text = shown("" if value is None else str(value))
    runs = text.startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return f"'{text}" if runs else text
