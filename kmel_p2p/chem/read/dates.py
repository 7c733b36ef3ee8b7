"""Dates of measurements, for a test fold of what came last."""

from __future__ import annotations

import datetime
import re

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.read.cells import CellError, is_missing

_YEAR = re.compile(r"^(\d{4})(?:\.0)?$")
_MONTH = re.compile(r"^(\d{4})-(\d{2})$")


def read_date(cell: str, written: str = "") -> datetime.date | None:
    """A day: ISO 8601 (`2024-05-31`, with or without a time), or a month (`2024-05`) or year, meaning its first day.

    Args:
        written: another way of writing, in `strptime`'s words: `%d/%m/%Y`. Then no other is read.

    Returns:
        None for an empty cell.

    Raises:
        CellError: it is neither; 03/04/2024 is not guessed at.
    """
    text = cell.strip()
    if is_missing(text):
        return None
    if written:
        try:
            return datetime.datetime.strptime(text, written).date()
        except ValueError:
            raise CellError(f"not a date written as data.time.format says ({written})") from None
    try:
        if match := _YEAR.match(text):
            return datetime.date(int(match[1]), 1, 1)
        if match := _MONTH.match(text):
            return datetime.date(int(match[1]), int(match[2]), 1)
        return datetime.datetime.fromisoformat(text).date()
    except ValueError:
        raise CellError(
            "not a date; write it as 2024-05-31, 2024-05 or 2024, or say how it is written with data.time.format"
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
