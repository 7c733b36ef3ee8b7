"""Reading one cell of an assay column: a relation and a number, a class, or nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nd", "n.d.", "-", "#n/a"})
"""Cells (lower case) that mean: not measured."""

BELOW, EQUAL, ABOVE = -1, 0, 1
"""Relation of the true value to the one written: `<` is BELOW, `>` is ABOVE."""

_NUMBER = re.compile(r"^(<=|>=|<|>|=|≤|≥)?\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$")
_RELATION = {"<": BELOW, "<=": BELOW, "≤": BELOW, ">": ABOVE, ">=": ABOVE, "≥": ABOVE, "=": EQUAL, None: EQUAL}
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


def is_missing(cell: str) -> bool:
    """Whether the cell says that nothing was measured."""
    return cell.strip().lower() in MISSING


def read_number(cell: str) -> Reading:
    """A number, perhaps with a relation: `3.2`, `<0.5`, `>= 30`.

    Raises:
        CellError: with the reason.
    """
    text = cell.strip()
    match = _NUMBER.match(text)
    if match is None:
        hint = "; write decimals with a point" if re.match(r"^[<>=]*\s*[+-]?\d+,\d+$", text) else ""
        raise CellError(f"not a number{hint}")
    return Reading(float(match.group(2)), _RELATION[match.group(1)])


def read_class(cell: str) -> Reading:
    """A class: 1/0, true/false, yes/no, positive/negative, active/inactive.

    Raises:
        CellError: with the reason.
    """
    value = _CLASSES.get(cell.strip().lower())
    if value is None:
        raise CellError("not a class; write 1 or 0, positive or negative, active or inactive")
    return Reading(value)
