"""ledger and egress, read offline."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import Identity, SiteKey, digest
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Basis, create
from kmel_p2p.core.roster_vector import RosterOrder
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes.ledger import LedgerMode
from kmel_p2p.site.observe.egress import EgressLog
from kmel_p2p.site.observe.egress_head import keep_head
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME
from kmel_p2p.site.site import names_of, stored_constitution
from kmel_p2p.site.state.signed_amendments import SIGNED_NAME
from kmel_p2p.site.state.store import STORE_NAME, TRUSTED, Store
from kmel_p2p.site.state.trust import AGREEMENT, DIVERGENCE, Trusted
from tests.support.cli_harness import Run


@pytest.fixture
def filled(site: Path) -> Path:
    """A site with a charter in force, two entries of its own and an egress log."""
    north = load_key(site.parent / "site.key")
    south = Identity(bytes(32))
    charter = Charter(
        federation="demo",
        sites=(SiteRule(name="north", key=north.key.hex()), SiteRule(name="south", key=south.key.hex())),
        assay_endpoints=(AssayEndpoint(name="solubility"),),
        model=ModelRule(hidden=(8,)),
    )
    document = CharterDocument(charter=charter).signed_by(north).signed_by(south)
    (site.parent / "charter.toml").write_text(document.render())
    state = site.parent / "state"
    store = Store(state / STORE_NAME)
    previous, order = NO_PREVIOUS, RosterOrder(sorted((north.key, south.key)))
    for number in (1, 2):
        entry = create(
            north, charter_id=charter.id, number=number, previous=previous,
            basis=Basis(order.vector({south.key: 3} if number == 2 else {}), bytes(32), {}, 0), weight=2**15, steps=20,
            norm_squared=1, codec_id=1, payload=bytes(9),
        )  # fmt: skip
        store.append_entry(north.key, number, entry.encode(), f"round-{number}.safetensors")
        previous = entry.hash
    log = EgressLog(state / EGRESS_NAME, 1_760_000_000.5)
    log.record(1_760_000_000.75, "south", "entry", "trunk, 4 tensors", 321, digest(b"x"))
    log.add(1_760_000_001.0, "south", "control", 60, digest(b"y"))
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
    assert [(row["author"], row["number"], row["weight"], row["base"]) for row in rows] == [
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
    assert done.out.splitlines()[-1].startswith("to south: control messages")
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


def test_the_records_of_some_days_are_exported_as_they_are(filled: Path, run: Run, tmp_path: Path) -> None:
    log = (filled.parent / "state" / EGRESS_NAME).read_text()
    done = run("egress", "export", "-c", filled, "--since", "2025-10-09", "--until", "2025-10-09")
    assert (done.code, done.out) == (0, log)
    assert "to south: 381 B in 2 messages" in done.err
    out = tmp_path / "export.jsonl"
    done = run("egress", "export", "-c", filled, "--since", "2025-10-09T08:53:20.9", "--out", out, "--json")
    assert done.code == 0
    assert out.read_text() == log.splitlines(keepends=True)[1]
    assert json.loads(done.out)["sites"]["south"] == {
        "entries": 0,
        "messages": 1,
        "bytes": 60,
        "kinds": {"control": {"messages": 1, "bytes": 60}},
    }
    assert run("egress", "export", "-c", filled, "--since", "2025-10-09", "--out", out).code == ExitCode.CONFIG
    assert "Nothing is on record" in run("egress", "export", "-c", filled, "--since", "2026-01-01").err
    for wrong in (("--since", "soon"), ("--since", "2025-10-10", "--until", "2025-10-09")):
        assert run("egress", "export", "-c", filled, *wrong).code == 2


def test_an_export_of_a_broken_chain_says_so(filled: Path, run: Run) -> None:
    path = filled.parent / "state" / EGRESS_NAME
    path.write_text(path.read_text().replace('"bytes": 321', '"bytes": 3'))
    done = run("egress", "export", "-c", filled, "--since", "2025-10-09")
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert "line 2: does not follow" in done.err


def test_closed_segments_may_be_archived(filled: Path, run: Run, tmp_path: Path) -> None:
    state, archive = filled.parent / "state", tmp_path / "archive"
    log = EgressLog(state / EGRESS_NAME, 1_760_000_003.0)
    log.rotate(1_760_000_003.0)
    log.close(1_760_000_004.0)
    archive.mkdir()
    (closed,) = state.glob("egress-*.jsonl")
    closed.rename(archive / closed.name)
    assert run("egress", "verify", "-c", filled).code == ExitCode.DOES_NOT_HOLD
    done = run("egress", "verify", "-c", filled, "--archive", archive)
    assert (done.code, "3 records, chain unbroken over 2 segments" in done.out) == (0, True)
    assert len(run("egress", "show", "-c", filled, "--archive", archive).out.splitlines()) == 3


def test_an_entry_that_does_not_decode_is_a_finding_not_a_defect(filled: Path, run: Run) -> None:
    path = filled.parent / "state" / STORE_NAME
    connection = sqlite3.connect(path)
    connection.execute("UPDATE entries SET payload = x'00' WHERE number = 2")
    connection.commit()
    connection.close()
    done = run("ledger", "log", "-c", filled)
    assert done.code == ExitCode.CONFIG
    assert "entry 2 of" in done.err
    done = run("ledger", "verify", "-c", filled)
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert str(path) in done.err


def test_verify_says_what_was_taken_on_trust_and_fails_while_another_site_differs(filled: Path, run: Run) -> None:
    north, south = load_key(filled.parent / "site.key").key, SiteKey(b"s" * 32)
    connection = sqlite3.connect(filled.parent / "state" / STORE_NAME)
    connection.execute("DELETE FROM entries")
    connection.commit()
    connection.close()
    assert "nothing was taken on trust" in run("ledger", "verify", "-c", filled).out
    store = Store(filled.parent / "state" / STORE_NAME)
    store.put_blob(TRUSTED, Trusted({north: 2}, south, (south,), 1764374400.0).encode())
    store.add_history(DIVERGENCE, 10.0, {"site": south})
    store.close()
    done = run("ledger", "verify", "-c", filled)
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert f"site {south.hex()} claims another sum of the same entries" in done.err
    store = Store(filled.parent / "state" / STORE_NAME)
    store.add_history(AGREEMENT, 20.0, {"site": south})
    store.close()
    done = run("ledger", "verify", "-c", filled)
    assert done.code == 0
    assert f"taken on trust: the sum up to north:2, in a snapshot that {south.hex()} gave on 2025-11-29" in done.out
    facts = json.loads(run("ledger", "verify", "-c", filled, "--json").out)
    assert facts["trusted"]["attested"] == [south.hex()]
    store = Store(filled.parent / "state" / STORE_NAME)
    store.put_blob(TRUSTED, b"{}")
    store.close()
    done = run("ledger", "verify", "-c", filled)
    assert done.code == ExitCode.CONFIG
    assert "whose word the snapshot rests on cannot be read" in done.err


def test_faults_say_whose_log_ended_and_why(filled: Path, run: Run) -> None:
    assert "no author's log was ended" in run("ledger", "faults", "-c", filled).out
    north = load_key(filled.parent / "site.key")
    store = Store(filled.parent / "state" / STORE_NAME)
    store.retract(north.key, 2, "it signed two different entries with one number", [b"one", b"two"])
    store.close()
    (row,) = json.loads(run("ledger", "faults", "-c", filled, "--json").out)
    assert row == {
        "author": "north",
        "number": 2,
        "reason": "it signed two different entries with one number",
        "proofs": 2,
        "retracted": 1,
    }
    assert "north            ends before      2" in run("ledger", "faults", "-c", filled).out


def test_diff_tells_a_shorter_log_from_another_one(filled: Path, run: Run, tmp_path: Path) -> None:
    mine = filled.parent / "state" / STORE_NAME
    other = tmp_path / "other.sqlite"
    shutil.copyfile(mine, other)
    same = run("ledger", "diff", other, "-c", filled)
    assert same.code == 0
    connection = sqlite3.connect(other)
    connection.execute("DELETE FROM entries WHERE number = 2")
    connection.commit()
    (row,) = json.loads(run("ledger", "diff", other, "-c", filled, "--json").out)
    assert (row["author"], row["here"], row["there"], row["differs_from"]) == ("north", 2, 1, None)
    connection.execute("UPDATE entries SET hash = ? WHERE number = 1", (bytes(32),))
    connection.commit()
    connection.close()
    torn = run("ledger", "diff", other, "-c", filled)
    assert torn.code == ExitCode.DOES_NOT_HOLD
    assert "north from 1" in torn.err


def test_an_amendment_is_drafted_signed_and_shown(filled: Path, run: Run, tmp_path: Path) -> None:
    path, east = tmp_path / "amendment.toml", Identity(bytes([7]) * 32)
    drafted = run(
        "amendment", "draft", "-c", filled, "--add", f"east={east.key.hex()}@tcp://192.0.2.9:7700", "-o", path
    )
    assert drafted.code == 0, drafted.err
    unsigned = run("amendment", "show", path, "-c", filled)
    assert unsigned.code == ExitCode.DOES_NOT_HOLD
    assert "0 of 2 needed sites have signed" in unsigned.err
    assert "1 of 2 needed sites have signed" in run("amendment", "sign", path, "-c", filled).out
    (filled.parent / "site.key").write_text(bytes(32).hex() + "\n")
    config = filled.read_text().replace('name = "north"', 'name = "south"')
    filled.write_text(config)
    assert "A quorum has signed" in run("amendment", "sign", path, "-c", filled).out
    shown = json.loads(run("amendment", "show", path, "-c", filled, "--json").out)
    assert shown["problem"] == ""
    assert shown["amendment"]["add"][0]["name"] == "east"
    idle = run("amendment", "enact", path, "-c", filled)
    assert idle.code == ExitCode.NOT_RUNNING
    nonsense = run("amendment", "draft", "-c", filled, "--retire", "west", "-o", tmp_path / "x.toml")
    assert nonsense.code == ExitCode.CONFIG
    assert "no site 'west'" in nonsense.err


def test_sites_that_amendments_brought_have_their_names_and_former_keys_are_told_apart() -> None:
    north, south, new, west = (Identity(bytes([number]) * 32) for number in range(1, 5))
    charter = Charter(
        federation="demo",
        sites=(SiteRule(name="north", key=north.key.hex()), SiteRule(name="south", key=south.key.hex())),
        assay_endpoints=(AssayEndpoint(name="solubility"),),
    )
    constitution = Constitution(charter)
    for changes in (
        {"rekey": [{"name": "south", "key": new.key.hex(), "last": 3}]},
        {"add": [{"name": "west", "key": west.key.hex()}]},
        {"retire": [{"name": "west", "last": 2}]},
    ):
        document = constitution.draft(**changes)
        for identity in (north, new if constitution.number else south):
            document = document.signed_by(identity, constitution)
        constitution = constitution.followed_by(document)
    former = f"south (former key {south.key.hex()[:8]})"
    assert names_of(constitution) == {north.key: "north", south.key: former, new.key: "south", west.key: "west"}


def test_entries_that_an_amendment_in_a_file_ends_are_set_aside_at_the_next_start(filled: Path, tmp_path: Path) -> None:
    config = load_config(filled)
    made = load_site(config).constitution
    document = made.draft(retire=[{"name": "north", "last": 0}])
    for signer in (load_key(filled.parent / "site.key"), Identity(bytes(32))):
        document = document.signed_by(signer, made)
    (tmp_path / "leave.toml").write_text(document.render())
    listed = config.site.model_copy(update={"amendments": (tmp_path / "leave.toml",)})
    site = load_site(config.model_copy(update={"site": listed}))
    north = load_key(filled.parent / "site.key").key
    with contextlib.closing(Store(config.site.state_dir / STORE_NAME)) as store:
        assert store.vector() == {north: 2}
        assert LedgerMode().open(site, store).vector == store.vector() == {}
        assert [(number, kind) for number, kind, _ in store.evidence(north)] == [(1, "retracted"), (2, "retracted")]


def test_what_the_files_list_is_continued_by_what_the_store_heard_later(filled: Path, run: Run, tmp_path: Path) -> None:
    config = load_config(filled)
    site = load_site(config)
    north, south = load_key(filled.parent / "site.key"), Identity(bytes(32))
    made = site.constitution
    for quorum in ("all", "two-thirds", "majority"):
        document = made.draft(quorum=quorum).signed_by(north, made).signed_by(south, made)
        made = made.followed_by(document)
        (tmp_path / f"{quorum}.toml").write_text(document.render())
    with contextlib.closing(Store(config.site.state_dir / STORE_NAME)) as store:
        # As at a site that started with the first one in its files, and heard of the others while it ran.
        for document in made.documents[1:]:
            store.add_amendment(document.amendment.number, document.encode())
        assert stored_constitution(site, store).number == 0
        for listed in (["all"], ["all", "two-thirds"], ["all", "two-thirds", "majority"]):
            config = config.model_copy(
                update={
                    "site": config.site.model_copy(
                        update={"amendments": tuple(tmp_path / f"{name}.toml" for name in listed)}
                    )
                }
            )
            assert stored_constitution(load_site(config), store).head_hash == made.head_hash


def test_a_site_signs_one_amendment_of_a_number_unless_the_other_is_dropped(
    filled: Path, run: Run, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.toml", tmp_path / "other.toml"
    for path, quorum in ((one, "all"), (other, "two-thirds")):
        assert run("amendment", "draft", "-c", filled, "--quorum", quorum, "-o", path).code == 0
    assert run("amendment", "sign", one, "-c", filled).code == 0
    assert run("amendment", "sign", one, "-c", filled).code == 0
    unsigned = other.read_bytes()
    refused = run("amendment", "sign", other, "-c", filled)
    assert refused.code == ExitCode.REFUSED
    assert "--instead" in refused.err
    assert other.read_bytes() == unsigned
    assert run("amendment", "sign", other, "-c", filled, "--instead").code == 0
    assert run("amendment", "sign", one, "-c", filled).code == ExitCode.REFUSED
    record = filled.parent / "state" / SIGNED_NAME
    record.write_text("[1")
    damaged = run("amendment", "sign", other, "-c", filled)
    assert damaged.code == ExitCode.CONFIG
    assert str(record) in damaged.err
