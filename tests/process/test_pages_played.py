"""Every command block of the README and the tutorials runs as it stands, and shows what the page shows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.support.played_pages import ROOT, Reader, parts
from tests.support.small_learners import path_with_small_learners

pytestmark = [pytest.mark.process, pytest.mark.timeout(1200)]

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [ROOT / "README.md", *TUTORIALS]
CONTINUED = {page.parent / part.rest for page in PAGES for part in parts(page) if part.kind == "continues"}
"""Played as the beginning of another page."""

NOT_RUN = {"README.md": 2}
"""Blocks of a page that no test can run; each says why in the page."""


@pytest.mark.parametrize("page", [page for page in PAGES if page not in CONTINUED], ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    with contextlib.closing(Reader(tmp_path, path_with_small_learners(""))) as reader:
        reader.play(page)


def test_what_is_not_run_is_counted() -> None:
    counts = {page.name: sum(part.kind == "not run" for part in parts(page)) for page in PAGES}
    assert {name: count for name, count in counts.items() if count} == NOT_RUN
