"""Reading one cell: a relation and a number, a class, a date, or nothing."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.columns import EXCEL_DAYS, EXCEL_DAYS_1904
from kmel_p2p.agreement.errors import ConfigError

MISSING = frozenset({"", "na", "n/a", "n.a.", "nan", "null", "none", "nd", "n.d.", "-", "--", "#n/a"})
"""Cells (lower case) that mean: not measured."""

BELOW, EQUAL, ABOVE = -1, 0, 1
"""Relation of the true value to the one written: `<` is BELOW, `>` is ABOVE."""

RELATIONS = {
    **dict.fromkeys(("", "=", "=="), EQUAL),
    **dict.fromkeys(("<", "<=", "=<", "<<", "≤", "≦", "⩽"), BELOW),
    **dict.fromkeys((">", ">=", "=>", ">>", "≥", "≧", "⩾"), ABOVE),
}
"""Every way a relation is written in assay tables; `>>` and `<<` are ChEMBL's."""

RELATION_SIGNS = frozenset("<>=≤≥≦≧⩽⩾＜＞＝")

_SAME = str.maketrans({"−": "-", "–": "-", "＜": "<", "＞": ">", "＝": "=", "\u00a0": " ", "\u202f": " "})
"""Characters that word processors and East Asian keyboards write in place of plain ones."""

_NUMBERS = {
    "." : re.compile(r"^([<>=≤≥≦≧⩽⩾]*)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$"),
    "," : re.compile(r"^([<>=≤≥≦≧⩽⩾]*)\s*([+-]?(?:\d+,?\d*|,\d+)(?:[eE][+-]?\d+)?)$"),
}  # fmt: skip
_LIMIT_WORDS = re.compile(r"^[<>]?\s*(b?ll?oq|b[lqd]l|blo?[qd]|u?loq|lod|a?ulo?q|aloq|aql)$", re.IGNORECASE)
_NUMBER = r"[+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?"
_HINTS = (
    (rf"{_NUMBER}\s*\+", "if it is a bound, write it as >= and the number"),
    (rf"{_NUMBER}\s*(?:±|\+/?-)\s*[\d.,]+", "write the value alone; replicates in rows of their own show the spread"),
    (rf"{_NUMBER}\s*\(.*", "write the value alone, and repeated measurements in rows of their own"),
    (r"[+-]?\d{1,3}(?:,\d{3})+\.\d*|[+-]?\d{1,3}(?:,\d{3}){2,}", "write it without separators between the thousands"),
    (r"[+-]?\d{1,3}(?:\.\d{3})+,\d*|[+-]?\d{1,3}(?:\.\d{3}){2,}", "write it without separators between the thousands"),
    (r"[+-]?\d{1,3}(?:[ '’]\d{3})+(?:[.,]\d*)?", "write it without separators between the thousands"),
)
"""What else is found in place of a number, and what to do about it."""
_CLASSES = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "positive", "active", "pos", "toxic"), 1.0),
    **dict.fromkeys(("0", "0.0", "false", "no", "negative", "inactive", "neg", "non-toxic"), 0.0),
}


class CellError(ValueError):
    """The cell cannot be read; the text is the reason for `rejects.csv`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a cell says, in the unit of its column."""

    value: float
    relation: int = EQUAL


def is_missing(cell: str, words: Collection[str] = ()) -> bool:
    """Whether the cell says that nothing was measured; `words`: others that say so, in lower case."""
    text = cell.translate(_SAME).strip().lower()
    return text in MISSING or text in words


def is_missing_class(cell: str, words: Collection[str] = ()) -> bool:
    """As `is_missing`, for classes: a lone `-` may mean "negative" there, so it does not count as missing by itself."""
    return is_missing(cell, words) and (cell.translate(_SAME).strip() != "-" or "-" in words)


def read_relation(cell: str) -> str:
    """A relation in a column of its own: empty, or one of the keys of `RELATIONS` without the quotes some tables put.

    Raises:
        CellError: it is none.
    """
    text = cell.translate(_SAME).strip().strip("\"'").strip()
    if is_missing(text):
        return ""
    if text not in RELATIONS:
        hint = "; an approximate value counts only without it" if text in ("~", "≈", "ca.", "AP") else ""
        raise CellError(f"not a relation; write <, <=, =, >= or >{hint}")
    return "" if RELATIONS[text] == EQUAL else text


def read_number(cell: str, decimal: str = ".") -> Reading:
    """A number, perhaps with a relation: `3.2`, `<0.5`, `>= 30`.

    Args:
        decimal: the character before decimals, `.` or `,`.

    Raises:
        CellError: with the reason.
    """
    text = cell.translate(_SAME).strip()
    match = _NUMBERS[decimal].match(text)
    if match is None or match.group(1) not in RELATIONS:
        raise CellError(f"not a number{_hint(text, decimal)}")
    return Reading(float(match.group(2).replace(",", ".")), RELATIONS[match.group(1)])


def _hint(text: str, decimal: str) -> str:
    """What to do about text that is not a number, where known; nothing is guessed."""
    bare = text.lstrip("<>=≤≥ ")
    if re.match(r"^[+-]?\d*,\d+$", bare) and decimal == ".":
        return "; write decimals with a point, or set data.decimal = ',' if the whole file has commas"
    if re.match(r"^[+-]?\d*\.\d+$", bare) and decimal == ",":
        return "; data.decimal is ',' and this has a point"
    if re.match(r"^[~≈]|^ca?\.", text):
        return "; an approximate value counts only if it is written as a plain number"
    if _LIMIT_WORDS.match(text):
        limit = "write the assay's limit itself, as < or > and a number"
        return f'; {limit}; if it means "not measured", list it in data.missing'
    for spelling, hint in _HINTS:
        if re.fullmatch(spelling, bare):
            return f"; {hint}"
    if re.match(r"^[+-]?\d+(?:[.,]\d+)?\s*(?:-|\.\.|to)\s*\d", bare):
        return "; a range: write one number, or a bound"
    if re.match(r"^[+-]?[\d.,]+(?:[eE][+-]?\d+)?\s*[%A-Za-zµμ]", bare):
        return "; the unit belongs in the settings or in a column of its own (unit_column)"
    if text and not any(character.isdigit() for character in text):
        return '; if it means "not measured", list it in data.missing'
    return ""


def read_class(cell: str, classes: Mapping[str, int] | None = None) -> Reading:
    """A class: 1/0, true/false, yes/no, positive/negative, active/inactive.

    Args:
        classes: words of the table, in lower case, and the class each means; they take precedence over the usual ones.

    Raises:
        CellError: with the reason.
    """
    text = cell.translate(_SAME).strip().lower()
    if classes and text in classes:
        return Reading(float(classes[text]))
    value = _CLASSES.get(text)
    if value is None:
        if text == "-":
            raise CellError("'-' may mean negative or not measured; say so: classes = { \"+\" = 1, \"-\" = 0 }, "
                            "or leave the cell empty")  # fmt: skip
        raise CellError(
            "not a class; write 1 or 0, positive or negative, active or inactive, "
            "or say what the table's words mean with 'classes'"
        )
    return Reading(value)


_YEAR = re.compile(r"^(\d{4})(?:\.0)?$")
_MONTH = re.compile(r"^(\d{4})-(\d{2})$")
_DAYS = re.compile(r"^\d{5}(?:\.\d*)?$")
_FIRST_DAYS = {EXCEL_DAYS: datetime.date(1899, 12, 30), EXCEL_DAYS_1904: datetime.date(1904, 1, 1)}
"""Day 0 of Excel: as it counts from March 1900 on, and in workbooks that Excel for Mac once made."""


def read_date(cell: str, written: str = "") -> datetime.date | None:
    """A day: ISO 8601 (`2024-05-31`, with or without a time), or a month (`2024-05`) or year, meaning its first day.

    Args:
        written: a `strptime` format, such as `%d/%m/%Y`, or one of `_FIRST_DAYS`; then no other is read.

    Returns:
        None for an empty cell.

    Raises:
        CellError: it is none of these; 03/04/2024 is ambiguous and not guessed at.
    """
    text = cell.strip()
    if is_missing(text):
        return None
    if written in _FIRST_DAYS:
        if not _DAYS.match(text):
            raise CellError(f"not a number of days with five digits, as data.time.format = {written!r} wants it")
        return _FIRST_DAYS[written] + datetime.timedelta(days=int(float(text)))
    if written:
        try:
            return datetime.datetime.strptime(text, written).date()
        except ValueError:
            raise CellError(f"not a date in the form of data.time.format ({written})") from None
    try:
        if match := _YEAR.match(text):
            return datetime.date(int(match[1]), 1, 1)
        if match := _MONTH.match(text):
            return datetime.date(int(match[1]), int(match[2]), 1)
        return datetime.datetime.fromisoformat(text).date()
    except ValueError:
        days = "; five digits may be a spreadsheet's days: data.time.format = 'excel'" if _DAYS.match(text) else ""
        raise CellError(
            f"not a date; write it as 2024-05-31, 2024-05 or 2024, or give its form in data.time.format{days}"
        ) from None


def read_border(text: str, key: str) -> datetime.date:
    """A date of the settings.

    Raises:
        ConfigError: it is none; names `key`.
    """
    try:
        date = read_date(text)
    except CellError as error:
        raise ConfigError(f"{key} is {text!r}: {error}") from None
    if date is None:
        raise ConfigError(f"{key} is empty; write a date such as 2024-05-31")
    return date
