"""The store: what is confirmed is there after any crash, and nothing is there by half."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.site.state.database import SCHEMA_VERSION
from kmel_p2p.site.state.store import Store
from tests.support.stored_entries import A, B, Crash, encoded


def vector(path: Path) -> dict[SiteKey, int]:
    store = Store(path)
    try:
        return store.vector()
    finally:
        store.close()


def test_entries_come_back_as_given_in_both_orders(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    given_order = [(B, 1), (A, 1), (B, 2), (A, 2), (A, 3)]
    for author, number in given_order:
        store.append_entry(author, number, encoded(author, number), f"round-{number}" if author == A else None)
    assert [(e.author, e.number) for e in store.load_entries("arrival")] == given_order
    assert [(e.author, e.number) for e in store.load_entries()] == sorted(given_order)
    for entry in store.load_entries():
        assert entry.encoded == encoded(entry.author, entry.number)
        assert entry.hash == digest(entry.header)
    assert store.vector() == {A: 3, B: 2}
    assert store.own_state_file(A) == "round-3"
    assert store.own_state_file(B) is None
    assert store.own_state_file(SiteKey(b"c" * 32)) is None
    store.close()


def test_a_gap_or_a_repeated_entry_is_our_own_fault(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.append_entry(A, 1, encoded(A, 1))
    for number in (1, 3):
        with pytest.raises(Bug, match="does not follow"):
            store.append_entry(A, number, encoded(A, number))
    assert store.vector() == {A: 1}
    store.close()


def test_a_log_may_begin_above_a_snapshot(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.append_entry(A, 41, encoded(A, 41))
    store.append_entry(A, 42, encoded(A, 42))
    assert [e.number for e in store.load_entries()] == [41, 42]
    store.close()


POINTS = ["append:begin", "append:written", "append:committed"]


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_keeps_all_or_nothing(tmp_path: Path, point: str) -> None:
    path = tmp_path / "s"
    armed = False

    def fault(at: str) -> None:
        if armed and at == point:
            raise Crash

    store = Store(path, fault=fault)
    store.append_entry(A, 1, encoded(A, 1), "round-1")
    armed = True
    with pytest.raises(Crash):
        store.append_entry(A, 2, encoded(A, 2), "round-2")
    store.close()
    store = Store(path)
    expected = 2 if point == "append:committed" else 1
    assert store.vector() == {A: expected}
    assert store.own_state_file(A) == f"round-{expected}"
    store.append_entry(A, expected + 1, encoded(A, expected + 1))
    store.close()


KILLED = """
import os, pathlib, sys
from tests.support.stored_entries import A, encoded
from kmel_p2p.site.state.store import Store
point, path = sys.argv[1], pathlib.Path(sys.argv[2])
count = 0
def fault(at):
    global count
    if at == point:
        count += 1
        if count == 3:
            os._exit(9)
store = Store(path, fault=fault)
for number in range(1, 10):
    store.append_entry(A, number, encoded(A, number), f"round-{number}")
"""


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_process_leaves_a_sound_store(tmp_path: Path, point: str) -> None:
    path = tmp_path / "s"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, point, str(path)], cwd=Path(__file__).parents[3], check=False, timeout=300
    )
    assert done.returncode == 9
    store = Store(path)
    expected = 3 if point == "append:committed" else 2
    assert store.vector() == {A: expected}
    assert store.own_state_file(A) == f"round-{expected}"
    assert store.check() == []
    store.close()


@settings(deadline=None, max_examples=25)
@given(
    groups=st.lists(st.lists(st.sampled_from([A, B]), min_size=1, max_size=4), max_size=6),
    stop=st.integers(0, 30),
)
def test_a_group_is_kept_whole_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[SiteKey]], stop: int
) -> None:
    path = tmp_path_factory.mktemp("store") / "s"
    passed = 0

    def fault(at: str) -> None:
        nonlocal passed
        if not at.startswith("prepare"):
            passed += 1
            if passed > stop:
                raise Crash

    store = Store(path, fault=fault)
    heads: dict[SiteKey, int] = {}
    confirmed: dict[SiteKey, int] = {}
    attempted: dict[SiteKey, int] = {}
    try:
        for group in groups:
            attempted = dict(heads)
            for author in group:
                attempted[author] = attempted.get(author, 0) + 1
            with store.transaction("group"):
                for author in group:
                    heads[author] = heads.get(author, 0) + 1
                    store.append_entry(author, heads[author], encoded(author, heads[author]))
            confirmed = dict(heads)
    except Crash:
        pass
    store.close()
    # After the commit, but before the caller heard of it, the whole group may be there.
    assert vector(path) in (confirmed, attempted)


def test_an_inner_failure_undoes_only_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    with store.transaction("group"):
        store.append_entry(A, 1, encoded(A, 1))
        with pytest.raises(Bug):
            store.append_entry(A, 5, encoded(A, 5))
        store.append_entry(A, 2, encoded(A, 2))
    assert store.vector() == {A: 2}
    store.close()


def test_retraction_moves_entries_to_the_evidence(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    for number in range(1, 5):
        store.append_entry(A, number, encoded(A, number))
    store.append_entry(B, 1, encoded(B, 1))
    store.retract(A, 3, "two entries numbered 3", [encoded(A, 3), b"other"])
    assert store.vector() == {A: 2, B: 1}
    assert store.log_ends() == {A: (3, "two entries numbered 3")}
    kinds = [(number, kind) for number, kind, _ in store.evidence(A)]
    assert kinds == [(3, "retracted"), (4, "retracted"), (3, "proof"), (3, "proof")]
    assert store.evidence(A)[0][2] == encoded(A, 3)
    store.retract(A, 2, "earlier still", [])
    store.retract(A, 4, "later: changes nothing", [])
    assert store.log_ends() == {A: (2, "earlier still")}
    assert store.vector() == {A: 1, B: 1}
    store.close()


def test_counters_blobs_peers_and_history_last(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for expected in (1, 2, 3):
        store = Store(path)
        assert store.bump_generation() == expected
        store.close()
    store = Store(path)
    store.put_blob("egress head", b"1")
    store.put_blob("egress head", b"2")
    assert store.get_blob("egress head") == b"2"
    assert store.get_blob("none") is None
    store.put_peer(B, b"old")
    store.put_peer(B, b"new")
    assert store.peers() == {B: b"new"}
    store.add_history("entry", 10.5, {"loss": 0.25, "vector": {"a": 3}})
    store.add_history("traffic", 11.0, {"out": 5})
    store.add_history("entry", 12.5, {"loss": 0.125, "vector": {"a": 4}})
    store.close()
    store = Store(path, read_only=True)
    assert [row["at"] for row in store.history("entry")] == [10.5, 12.5]
    assert store.history("entry")[1]["vector"] == {"a": 4}
    store.close()


def test_reading_beside_a_running_daemon_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = Store(path)
    writer.append_entry(A, 1, encoded(A, 1))
    reader = Store(path, read_only=True)
    assert reader.vector() == {A: 1}
    writer.append_entry(A, 2, encoded(A, 2))
    assert reader.vector() == {A: 2}
    with pytest.raises(ConfigError):
        reader.append_entry(A, 3, encoded(A, 3))
    reader.close()
    writer.close()


def test_a_full_disk_loses_nothing_that_was_confirmed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = Store(path)
    store.append_entry(A, 1, encoded(A, 1))
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 20}")

    def fill() -> None:
        for number in range(2, 100):
            store.append_entry(A, number, encoded(A, number, size=9000))

    with pytest.raises(ConfigError, match="disk is full") as caught:
        fill()
    assert str(path) in str(caught.value)
    kept = store.vector()[A]
    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.append_entry(A, kept + 1, encoded(A, kept + 1))
    store.close()
    assert vector(path) == {A: kept + 1}


def test_a_locked_store_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    Store(path).close()
    monkeypatch.setattr("kmel_p2p.site.state.store.BUSY_TIMEOUT_S", 0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ConfigError, match="locked by another process"):
        Store(path)
    other.close()


def test_damage_foreign_files_and_newer_schemas_are_told_apart(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="not a database"):
        Store(text)

    foreign = tmp_path / "foreign"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(ConfigError, match="another program"):
        Store(foreign)

    newer = tmp_path / "newer"
    store = Store(newer)
    store._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    store.close()
    with pytest.raises(ConfigError, match="upgrade kmel-peer"):
        Store(newer)

    damaged = tmp_path / "damaged"
    store = Store(damaged)
    for number in range(1, 200):
        store.append_entry(A, number, encoded(A, number, size=500))
    store.close()
    content = bytearray(damaged.read_bytes())
    content[4096 * 2 :] = b"\xff" * (len(content) - 4096 * 2)
    damaged.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"):
        Store(damaged)
    store = Store(damaged, read_only=True)
    with pytest.raises(ConfigError, match="damaged"):
        list(store.load_entries())
    store.close()

    renamed = tmp_path / "renamed"
    store = Store(renamed)
    store._connection.execute("ALTER TABLE entries RENAME COLUMN number TO nunber")
    store._connection.commit()
    with pytest.raises(ConfigError, match=r"not this version's, or the file is damaged.*no such column"):
        list(store.load_entries())
    store.close()

    with pytest.raises(ConfigError, match="no store here"):
        Store(tmp_path / "none", read_only=True)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Store(tmp_path / "no" / "such" / "directory")


def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    store.put_blob("amendment 0000\x7f00001", b"")
    store.add_history("round", 1.0, {"loss": 0.5})
    store.close()
    with sqlite3.connect(tmp_path / "store.sqlite") as connection:
        connection.execute("UPDATE history SET body = ?", (b"\x81\xa5a\xffive\x01",))
    store = Store(tmp_path / "store.sqlite")
    for read in (store.amendments, lambda: store.history("round")):
        with pytest.raises(ConfigError, match=r"store\.sqlite: .* is damaged: .*from a backup"):
            read()
    store.close()
