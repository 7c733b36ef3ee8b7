"""ledger and egress, read offline."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from cli_harness import Run

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.charter import AssayEndpointRule, Charter, CharterDocument, ModelRule, SiteRule
from kmel_p2p.core.identity import Identity, digest
from kmel_p2p.core.ledger.entry import NO_PREVIOUS, Basis, create
from kmel_p2p.site.egress import EGRESS_NAME, EgressLog
from kmel_p2p.site.egress_head import keep_head
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.store import STORE_NAME, Store


@pytest.fixture
def filled(site: Path) -> Path:
    """A site with a charter in force, two entries of its own and an egress log."""
    north = load_key(site.parent / "site.key")
    south = Identity(bytes(32))
    charter = Charter(
        federation="demo",
        sites=(SiteRule(name="north", key=north.key.hex()), SiteRule(name="south", key=south.key.hex())),
        assay_endpoints=(AssayEndpointRule(name="solubility"),),
        model=ModelRule(hidden=(8,)),
    )
    document = CharterDocument(charter=charter).signed_by(north).signed_by(south)
    (site.parent / "charter.toml").write_text(document.render())
    state = site.parent / "state"
    store = Store(state / STORE_NAME)
    previous = NO_PREVIOUS
    for seq in (1, 2):
        entry = create(
            north, charter_id=charter.id, seq=seq, previous=previous,
            basis=Basis({south.key: 3} if seq == 2 else {}, bytes(32), {}, 0), weight=2**15, steps=20, norm_squared=1,
            codec_id=1, payload=bytes(9),
        )  # fmt: skip
        store.append_entry(north.key, seq, entry.encode(), f"round-{seq}.safetensors")
        previous = entry.hash
    log = EgressLog(state / EGRESS_NAME, 1_760_000_000.5)
    log.record(1_760_000_000.75, "south", "entry", "trunk, 4 tensors", 321, digest(b"x"))
    log.add("south", "control", 60, digest(b"y"))
    keep_head(store, log.flush(1_760_000_001.0))
    log.close(1_760_000_002.0)
    store.close()
    return site


def test_the_log_lists_entries(filled: Path, run: Run) -> None:
    lines = run("ledger", "log", "-c", filled).out.splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:2] == ["north", "2"]
    assert lines[1].endswith("on south:3")
    rows = [json.loads(line) for line in run("ledger", "log", "-c", filled, "--json").out.splitlines()]
    assert [(row["author"], row["seq"], row["weight"], row["base"]) for row in rows] == [
        ("north", 1, 0.5, {}),
        ("north", 2, 0.5, {"south": 3}),
    ]
    assert run("ledger", "log", "-c", filled, "--site", "south").out == ""


def test_one_entry_is_shown_in_full(filled: Path, run: Run) -> None:
    facts = json.loads(run("ledger", "show", "north", "2", "-c", filled, "--json").out)
    assert facts["signature_good"] is True
    assert facts["own_state_file"] == "round-2.safetensors"
    assert facts["previous"] == json.loads(run("ledger", "show", "north", "1", "-c", filled, "--json").out)["hash"]
    assert "payload_bytes" in run("ledger", "show", "north", "1", "-c", filled).out
    missing = run("ledger", "show", "south", "1", "-c", filled)
    assert missing.code == ExitCode.REFUSED
    assert "ledger log" in missing.err


def test_egress_is_shown_and_verified(filled: Path, run: Run) -> None:
    shown = run("egress", "show", "-c", filled).out.splitlines()
    assert len(shown) == 2
    assert "trunk, 4 tensors" in shown[0]
    assert shown[0].split()[1:3] == ["2025-10-09", "08:53:20.750Z"]
    assert len(run("egress", "show", "-c", filled, "--last", 1).out.splitlines()) == 1
    assert run("egress", "show", "-c", filled, "--to", "west").out == ""
    done = run("egress", "verify", "-c", filled)
    assert done.code == 0
    assert "2 records, chain unbroken" in done.out
    assert json.loads(run("egress", "verify", "-c", filled, "--json").out)["totals"][1]["bytes"] == 321


def test_a_record_cut_off_the_end_is_found_through_the_store(filled: Path, run: Run) -> None:
    path = filled.parent / "state" / EGRESS_NAME
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    done = run("egress", "verify", "-c", filled)
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert "line 2" in done.err


@pytest.mark.parametrize("arguments", [("ledger", "log"), ("egress", "show"), ("egress", "verify")])
def test_a_site_that_never_ran_says_so(site: Path, run: Run, arguments: tuple[str, str], filled: Path) -> None:
    for name in (STORE_NAME, EGRESS_NAME):
        (filled.parent / "state" / name).unlink()
    done = run(*arguments, "-c", site)
    assert done.code == ExitCode.CONFIG
    assert "ever run" in done.err


def test_an_entry_that_does_not_decode_is_a_finding_not_a_defect(filled: Path, run: Run) -> None:
    path = filled.parent / "state" / STORE_NAME
    connection = sqlite3.connect(path)
    connection.execute("UPDATE entries SET payload = x'00' WHERE seq = 2")
    connection.commit()
    connection.close()
    done = run("ledger", "log", "-c", filled)
    assert done.code == ExitCode.CONFIG
    assert "entry 2 of" in done.err
    done = run("ledger", "verify", "-c", filled)
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert str(path) in done.err
