"""`kmel-peer contribution`: what the store holds, for people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.rounds import Stretch, StretchPart
from kmel_p2p.learn.worker.session import EndpointWorth
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.trainer.contribution_book import BLOB, ContributionBook
from tests.support.cli_harness import Run


@pytest.fixture
def measured(site: Path) -> Path:
    """A site that measured 16 entries of north and of south."""
    north, south = load_key(site.parent / "site.key"), Identity(bytes(32))
    charter = Charter(
        federation="demo",
        sites=(SiteRule(name="north", key=north.key.hex()), SiteRule(name="south", key=south.key.hex())),
        assay_endpoints=(AssayEndpoint(name="solubility"),),
        model=ModelRule(hidden=(8,)),
    )
    document = CharterDocument(charter=charter).signed_by(north).signed_by(south)
    (site.parent / "charter.toml").write_text(document.render())
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    parts = tuple(StretchPart(who.key, 1, 16, 8.0, 32_000, 0, 0, *nothing) for who in (north, south))
    book = ContributionBook()
    worth = tuple((0.3 + 0.001 * group, 0.1 + 0.001 * group) for group in range(6))
    stretch = Stretch({north.key: 16, south.key: 16}, np.zeros(1, np.float32), parts)
    book.add(stretch, {0: EndpointWorth(60, 0.5, worth)})
    store = Store(site.parent / "state" / STORE_NAME)
    store.put_blob(BLOB, book.encode())
    store.close()
    return site


def test_contributions_are_shown_as_table_as_document_and_as_page(measured: Path, run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    document = json.loads(run("contribution", "-c", measured, "--json", "--html", page).out)
    assert document["endpoints"]["solubility"]["compounds"] == 60
    assert {name: author["worth"]["solubility"]["share"] for name, author in document["authors"].items()} == {
        "north": pytest.approx(0.75, abs=0.01),
        "south": pytest.approx(0.25, abs=0.01),
    }
    assert '<th scope="row">south' in page.read_text()
    shown = run("contribution", "-c", measured).out
    assert "solubility: worth to north, on 60 held-out compounds" in shown
    assert "75 %" in shown


def test_before_anything_was_measured_it_says_so(site: Path, run: Run) -> None:
    missing = run("contribution", "-c", site)
    assert missing.code == ExitCode.REFUSED
    assert "kmel-peer run" in missing.err


def test_a_damaged_account_is_named_with_what_to_do(measured: Path, run: Run) -> None:
    store = Store(measured.parent / "state" / STORE_NAME)
    store.put_blob(BLOB, b"\x00")
    store.close()
    failed = run("contribution", "-c", measured)
    assert failed.code == ExitCode.CONFIG
    assert "backup" in failed.err
