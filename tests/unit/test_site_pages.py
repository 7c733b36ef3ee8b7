"""The documentation site builds strictly and loads nothing from elsewhere; its reference is what the code says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.net.connection_failure import ConnectionFailure, explain
from tests.support.scripts import script

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs" / "runbook.md"
OPEN = "…"


@pytest.fixture(scope="module")
def texts() -> Any:
    return script("source_texts.py")


def test_the_reference_is_what_the_code_says() -> None:
    # In a process of its own: click keeps a command's options of help as they were first asked for, by whatever test.
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference"), "--check"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reference = script("reference")
    assert {path.name for path in reference.PAGES.glob("*.md")} == set(reference.PAGE_MAKERS)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site"))
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 25
    loads = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*\bhref=\"?https?://[^>]*>"
    )
    canonical = re.compile(r'rel="?(?:canonical|prev|next)')
    for page in pages:
        from_elsewhere = [one for one in loads.findall(page.read_text("utf-8")) if not canonical.search(one)]
        assert from_elsewhere == [], page
        # The theme would fetch the program that draws such a diagram.
        assert 'class="mermaid"' not in page.read_text("utf-8")
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text("utf-8"))
    assert any("bulk" in entry["text"] and "runbook" in entry["location"] for entry in index["docs"])
    shutil.rmtree(tmp_path / "site")


def first_cells(page: Path) -> list[str]:
    """What stands in the first column of the page's tables between backticks."""
    rows = re.findall(r"^\| `([^`]+)` \|", page.read_text("utf-8"), re.MULTILINE)
    return [row for row in rows if row]


def test_the_runbook_has_the_texts_of_the_program(texts: Any) -> None:
    said = texts.texts_of_the_package() | set(texts.alarms())
    rows = first_cells(RUNBOOK)
    assert len(rows) > 60
    assert [row for row in rows if not any(row in text for text in said)] == []


def test_the_runbook_knows_every_alarm(texts: Any) -> None:
    assert set(texts.alarms()) - set(first_cells(RUNBOOK)) == set()


def test_the_runbook_knows_every_reason_why_a_site_is_not_reached() -> None:
    rows = [re.escape(row).replace(OPEN, ".*") for row in first_cells(RUNBOOK)]
    key = SiteKey(bytes(32))
    told = [explain(failure, key, "tcp://north.example:7700", key, 0, "why") for failure in ConnectionFailure]
    assert [text for text in told if not any(re.match(row, text) for row in rows)] == []
