"""`kmel-peer contribution`: what the store holds, for people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.notice import PREFIX, ContributionStatement, encode_content
from kmel_p2p.agreement.reward import RewardRule
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.board.messages import NoticeRecord
from kmel_p2p.core.board.notice import sign
from kmel_p2p.core.rounds import Stretch, StretchPart
from kmel_p2p.learn.worker.session import EndpointWorth
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.notice_board import today
from kmel_p2p.site.state.recording import work_of
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.trainer.contribution_book import BLOB, ContributionBook
from tests.support.cli_harness import FakeDaemon, Run

SOUTH = Identity(bytes(32))


@pytest.fixture
def measured(site: Path) -> Path:
    """A site that measured 16 entries of north and of south."""
    north, south = load_key(site.parent / "site.key"), SOUTH
    charter = Charter(
        federation="demo",
        sites=(SiteRule(name="north", key=north.key.hex()), SiteRule(name="south", key=south.key.hex())),
        assay_endpoints=(AssayEndpoint(name="solubility"),),
        model=ModelRule(hidden=(8,)),
        reward=RewardRule(shares="stated", equal_percent=20),
    )
    document = CharterDocument(charter=charter).signed_by(north).signed_by(south)
    (site.parent / "charter.toml").write_text(document.render())
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    parts = tuple(StretchPart(who.key, 1, 16, 8.0, 32_000, 0, 0, *nothing) for who in (north, south))
    book = ContributionBook()
    worth = tuple((0.3 + 0.001 * group, 0.1 + 0.001 * group) for group in range(6))
    stretch = Stretch({north.key: 16, south.key: 16}, np.zeros(1, np.float32), parts)
    for _ in range(4):
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


def test_a_statement_is_shown_asked_for_and_posted_by_the_running_peer(
    measured: Path, daemon: FakeDaemon, run: Run
) -> None:
    daemon.answers["board"] = {"id": "north/3", "version": 9, "until": "2027-01-01"}
    done = run("contribution", "declare", "--yes", "-c", measured)
    assert "south  100 %" in done.out
    assert done.out.endswith("declared as north/3, until 2027-01-01\n")
    name, arguments = daemon.asked[-1]
    assert (name, arguments["do"]) == ("board", "post")
    assert arguments["notice"]["given"] == [[SOUTH.key.hex()[:PREFIX], 100]]
    asked = len(daemon.asked)
    assert run("contribution", "declare", "-c", measured).code != ExitCode.OK  # nobody answers the question
    assert len(daemon.asked) == asked


def test_shares_are_shown_written_and_checked(measured: Path, run: Run, tmp_path: Path) -> None:
    nothing = run("contribution", "shares", "-c", measured)
    assert nothing.code == ExitCode.REFUSED
    assert "contribution declare" in nothing.err
    site, north = load_site(load_config(measured)), load_key(measured.parent / "site.key")
    body = encode_content(
        ContributionStatement(measure="second half", entries=128, given=((north.key.hex()[:PREFIX], 60),))
    )
    notice = sign(SOUTH, site.charter.id, 0, 1, today() + 1, body)
    store = Store(measured.parent / "state" / STORE_NAME)
    work_of(NoticeRecord(notice.author, 0, notice.encode()), site)(store)
    store.close()
    report = tmp_path / "shares.json"
    shown = run("contribution", "shares", "-c", measured, "-o", report)
    assert [line.split() for line in shown.out.splitlines()[2:4]] in (
        [["north", "90.00", "%", "no"], ["south", "10.00", "%", "yes"]],
        [["south", "10.00", "%", "yes"], ["north", "90.00", "%", "no"]],
    )
    checked = run("contribution", "verify", report, "-c", measured)
    assert "signed by north; the shares follow from the statements" in checked.out
    digest = json.loads(run("contribution", "verify", report, "-c", measured, "--json").out)["digest"]
    assert f"digest {digest}" in shown.out
    report.write_text(report.read_text().replace("9000", "9001"))
    assert run("contribution", "verify", report, "-c", measured).code == ExitCode.REFUSED
    (row,) = json.loads(run("board", "list", "-c", measured, "--json").out)
    assert (row["kind"], row["site"]) == ("statement", "south")
    listed = run("board", "list", "-c", measured).out
    assert {"statement", "contributions,", "128"} <= set(listed.split())
