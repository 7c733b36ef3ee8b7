"""The pages name files that exist, fit a screen, and use the words of the glossary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmel_p2p.agreement.amendment import signatures_needed

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
WIDTH = 120

NAMED_FILE = re.compile(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|toml|md|csv|html|sh))`")
"""A path of the repository, or of the package, in backticks."""


def _prose(page: Path) -> list[str]:
    """Lines that can be wrapped: neither code, tables, pictures nor single links."""
    lines, code = [], False
    for line in page.read_text("utf-8").splitlines():
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.lstrip().startswith(("|", "!", "<")) and " " in line.strip():
            lines.append(line)
    return lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_fits_a_screen(page: Path) -> None:
    assert [line for line in _prose(page) if len(line) > WIDTH] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = {name for name in NAMED_FILE.findall(page.read_text("utf-8")) if not name.startswith(("state/", "north/"))}
    roots = (ROOT, ROOT / "kmel_p2p", ROOT / "docs")
    missing = {name for name in named if not any((root / name).exists() for root in roots)}
    assert missing - GENERATED == set()


GENERATED = {"runs/trial/sites/north/site.toml", "cli/NAME.py", "benchmarks/NAME.py", "site/modes/NAME.py"}
"""Paths that stand for something a run writes or a reader chooses."""


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_tests_that_a_page_names_exist() -> None:
    named = {found for page in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text("utf-8"))}
    assert len(named) > 40
    missing = {
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or f"def {name}(" not in (ROOT / file).read_text("utf-8")
    }
    assert missing == set()


def test_a_row_about_an_attack_names_a_test() -> None:
    rows = [row for row in (ROOT / "docs" / "threats.md").read_text("utf-8").splitlines() if row.startswith("| ")]
    attacks = [row for row in rows if row.count(" | ") == 2 and not row.startswith("| can, or tries")]
    assert len(attacks) > 50
    assert [row for row in attacks if "`tests/" not in row.rpartition(" | ")[2]] == []


def test_the_page_of_the_consortium_counts_votes_as_the_program_does() -> None:
    page = (ROOT / "docs" / "consortium.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert len(rows) >= 5
    for sites, *votes in ([int(cell) for cell in row] for row in rows):
        assert votes == [signatures_needed(sites, quorum) for quorum in ("majority", "two-thirds", "all")]
