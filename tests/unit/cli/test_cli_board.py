"""`kmel-peer board` and `projects`: asked of a running peer, read from the store of one that does not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomlkit

from kmel_p2p.agreement.canonical import canonical
from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.notice import Need, NoticeAnswer, encode_content
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.board.messages import NoticeRecord
from kmel_p2p.core.board.notice import sign
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.notice_board import today
from kmel_p2p.site.state.recording import work_of
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.cli_harness import FakeDaemon, Run

SOUTH = Identity(bytes(32))


@pytest.fixture
def kept(site: Path) -> Path:
    """A site that does not run, whose store holds two needs, an answer and what only a later version can read."""
    north = load_key(site.parent / "site.key")
    charter = Charter(
        federation="demo",
        sites=(
            SiteRule(name="north", key=north.key.hex(), addresses=("tcp://192.0.2.1:7700",)),
            SiteRule(name="south", key=SOUTH.key.hex()),
        ),
        assay_endpoints=(AssayEndpoint(name="solubility"),),
        model=ModelRule(hidden=(8,)),
    )
    document = CharterDocument(charter=charter).signed_by(north).signed_by(SOUTH)
    (site.parent / "charter.toml").write_text(document.render())
    store = Store(site.parent / "state" / STORE_NAME)
    loaded = load_site(load_config(site))
    bodies = (
        (north, 0, encode_content(Need(assay_endpoint="logD", unit="log", size_class=9, text="needed"))),
        (SOUTH, 0, encode_content(Need(assay_endpoint="Log D", unit="log", stage="discovery"))),
        (SOUTH, 1, encode_content(NoticeAnswer(to_site=north.key.hex(), to_slot=0, text="we have some"))),
        (SOUTH, 2, b""),
        (SOUTH, 3, canonical({"kind": "auction", "lots": 2})),
    )
    for who, slot, body in bodies:
        notice = sign(who, charter.id, slot, 1, today() + 1, body)
        work_of(NoticeRecord(notice.author, slot, notice.encode()), loaded)(store)
    store.close()
    return site


def test_the_board_is_read_from_the_store_of_a_peer_that_does_not_run(kept: Path, run: Run) -> None:
    rows = json.loads(run("board", "list", "-c", kept, "--json").out)
    assert sorted(row["id"] for row in rows) == ["north/0", "south/0", "south/1"]
    shown = run("board", "list", "-c", kept).out
    assert "logD (log)" in shown
    assert "< 512" in shown
    assert "only a later version can read: south/3 (auction)" in shown
    assert "later version" not in run("board", "list", "--kind", "need", "-c", kept).out
    assert [row["id"] for row in json.loads(run("board", "list", "--kind", "answer", "-c", kept, "--json").out)] == [
        "south/1"
    ]
    assert "we have some" in run("board", "show", "north/0", "-c", kept).out
    assert "north/0" in run("board", "match", "-c", kept).out
    missing = run("board", "show", "east/0", "-c", kept)
    assert missing.code == ExitCode.REFUSED
    assert "board list" in missing.err
    # To post, the peer has to run.
    assert run("board", "withdraw", "north/0", "-c", kept).code == ExitCode.NOT_RUNNING


def test_a_match_becomes_the_draft_of_a_charter(kept: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    done = run(
        "charter", "new", "--federation", "second", "--from-board", "north/0", "--from-board", "south/0",
        "-o", path, "-c", kept,
    )  # fmt: skip
    assert done.code == 0, done.err
    draft = tomlkit.parse(path.read_text()).unwrap()["charter"]
    assert {site["name"]: site["key"] for site in draft["sites"]}["south"] == SOUTH.key.hex()
    assert [endpoint["name"] for endpoint in draft["assay_endpoints"]] == ["logd"]
    assert draft["pace"]["start_sites"] == 2
    nobody = run("charter", "new", "--federation", "second", "-o", tmp_path / "other.toml", "-c", kept)
    assert nobody.code == ExitCode.USAGE
    assert "--from-board" in nobody.err


def test_what_is_posted_goes_to_the_running_peer(site: Path, daemon: FakeDaemon, run: Run) -> None:
    daemon.answers["board"] = {"id": "north/2", "version": 7, "until": "2027-01-01"}
    done = run(
        "board", "post", "need", "--endpoint", "logD", "--measurements", 700, "--for", "south", "--days", 30,
        "--baseline-error", 0.6, "-c", site,
    )  # fmt: skip
    assert done.out == "posted as north/2, until 2027-01-01\n"
    assert daemon.asked[-1] == ("board", {
        "do": "post",
        "notice": {"kind": "need", "assay_endpoint": "logD", "sites": ["south"], "size_class": 10,
                   "baseline_error": 0.6},
        "edit": "",
        "days": 30,
    })  # fmt: skip
    run("board", "answer", "south/0", "--text", "yes", "-c", site)
    assert daemon.asked[-1][1] == {"do": "answer", "id": "south/0", "text": "yes", "interested": True}


def test_projects_are_shown_with_state_and_with_ports_that_clash(
    site: Path, daemon: FakeDaemon, run: Run, tmp_path: Path
) -> None:
    assert run("init", tmp_path / "second", "--name", "north2").code == 0
    rows = json.loads(run("projects", site, tmp_path / "second" / "site.toml", "--json").out)
    assert [row["site"] for row in rows] == ["north", "north2"]
    assert all(any("port" in problem for problem in row["problems"]) for row in rows)
    assert all(any("charter" in problem for problem in row["problems"]) for row in rows)
    assert "north2" in run("projects", site, tmp_path / "second" / "site.toml").out


def test_projects_of_a_running_and_of_a_stopped_peer(kept: Path, run: Run) -> None:
    (row,) = json.loads(run("projects", kept, "--json").out)
    assert (row["federation"], row["state"], row["gain"]) == ("demo", "not running", {})
    assert row["disk_bytes"] > 0
    fake = FakeDaemon(kept.parent / "state")
    fake.start()
    stacked = {"best_local": {"held_out": 0.5}, "stack": {"held_out": 0.48}}
    card = {"result": {"endpoints": [{"name": "a long name of an assay endpoint", "stacked": stacked}]}}
    (kept.parent / "state" / "model").mkdir()
    (kept.parent / "state" / "model" / "card.json").write_text(json.dumps(card))
    try:
        (row,) = json.loads(run("projects", kept, "--json").out)
        shown = run("projects", kept).out
    finally:
        fake.close()
    assert (row["state"], row["entries"], row["entry_limit"], row["reachable"]) == ("training", 3, 40, 1)
    assert row["gain"] == {"a long name of an assay endpoint": -0.04}
    table, below = shown.splitlines()[1:3]
    assert table.split()[2:5] == ["training", "3/40", "1/1"], "no word of a row is broken at 80 columns"
    assert below == "demo, north: a long name of an assay endpoint -4.0 % against best local"
