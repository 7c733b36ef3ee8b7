"""docs/limits.md has every limit of the code, with the value that it has."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "kmel_p2p"

_ROW = re.compile(r"^\| `([a-z_/0-9]+\.py)` \| `([A-Z_0-9]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_VALUE = re.compile(r"([\d.,]+)(?: (KiB|MiB|GiB|ms|s))?")
BYTES = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

Limit = tuple[str, str]
"""File within the package, and name of the constant."""


def documented() -> dict[Limit, str]:
    rows = _ROW.findall((ROOT / "docs" / "limits.md").read_text("utf-8"))
    return {(file, name): value for file, name, value, _, _ in rows}


def named_max() -> set[Limit]:
    """Public constants of modules whose name says that they are a limit."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name) and re.search(r"(^|[A-Z]_)MAX(_|$)", target.id):
                    found.add((str(path.relative_to(PACKAGE)), target.id))
    return found


def expected(name: str, text: str) -> float:
    """The constant that a cell of the table stands for; times are in the unit of the constant's name, or in µs."""
    match = _VALUE.fullmatch(text.strip())
    assert match is not None, f"{name}: {text!r} is no value"
    number, unit = float(match[1].replace(",", "")), match[2]
    if unit in BYTES:
        return number * BYTES[unit]
    if unit is None:
        return number
    seconds = number / (1000 if unit == "ms" else 1)
    return seconds * (1 if name.endswith("_S") else 1000 if name.endswith("_MS") else 1_000_000)


def test_every_limit_has_a_row() -> None:
    missing = sorted(named_max() - documented().keys())
    assert missing == [], "docs/limits.md: add a row with value and reason"


@pytest.mark.parametrize(("limit", "text"), documented().items(), ids=lambda x: x[1] if isinstance(x, tuple) else "")
def test_a_row_has_the_value_of_the_code(limit: Limit, text: str) -> None:
    file, name = limit
    module = importlib.import_module(f"kmel_p2p.{file.removesuffix('.py').replace('/', '.')}")
    assert float(getattr(module, name)) == expected(name, text)
