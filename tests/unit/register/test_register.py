"""The register: what is kept once, what counts as predicted ahead, its bound, and files that are not it."""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.register.register import FILE, Recorded, Register, Registered

ONE = Registered(
    compound="AAAA", endpoint="logd", version="v1", at_s=100, value=2.0, lower=1.0, upper=3.0, classes="", level=0.9,
    best_local=2.5, median=1.5, similarity=0.4, applicability="inside",
)  # fmt: skip


def test_a_prediction_is_kept_once_for_each_version(tmp_path: Path) -> None:
    with Register(tmp_path / "state" / FILE, 10) as register:
        assert register.keep([ONE]) == Recorded(new=1)
        assert register.keep([replace(ONE, at_s=200, value=9.0), replace(ONE, version="v2", at_s=300)]) == Recorded(
            1, 1
        )
        assert register.counts() == {"v1": (1, 100), "v2": (1, 300)}
    with Register(tmp_path / "state" / FILE, 10) as register:
        assert [one.version for one in register.ahead()] == ["v2"], "the newest is what was acted upon"
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600


def test_what_was_measured_when_it_was_predicted_does_not_count(tmp_path: Path) -> None:
    with Register(tmp_path / FILE, 10) as register:
        assert register.seen is None
        register.keep([ONE])
        register.see({("AAAA", "logd")}, {"d.csv": [1, 2]})
        register.keep([replace(ONE, version="v2", at_s=200), replace(ONE, endpoint="herg", at_s=200)])
        assert register.seen == {"d.csv": [1, 2]}
        assert [(one.version, one.endpoint) for one in register.ahead()] == [("v1", "logd"), ("v1", "herg")]
        register.see(set(), {})
        register.keep([replace(ONE, version="v3", at_s=300)])
        assert [one.version for one in register.ahead()] == ["v1", "v3"], "a withdrawn value is measured no longer"


def test_a_full_register_says_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [replace(ONE, compound=str(place), at_s=place) for place in range(5)]
    with Register(tmp_path / FILE, 3) as register:
        assert register.keep(rows) == Recorded(new=3, left_out=2)
        assert register.keep(rows) == Recorded(again=3, left_out=2)
        assert register.forget(2) == 2
        assert register.keep(rows) == Recorded(new=2, again=1, left_out=2)
        assert len(register) == 3


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("vw"), st.booleans()), max_size=12))
def test_every_prediction_is_new_or_there_already(steps: list[tuple[str, str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder, Register(Path(folder) / "register", 1000) as register:
        held: set[tuple[str, str]] = set()
        ahead: dict[str, str] = {}
        measured: set[str] = set()
        for at, (compound, version, measure) in enumerate(steps):
            kept = register.keep([replace(ONE, compound=compound, version=version, at_s=at)])
            assert kept == (Recorded(again=1) if (compound, version) in held else Recorded(new=1))
            if kept.new and compound not in measured:
                ahead[compound] = version
            held.add((compound, version))
            if measure:
                measured.add(compound)
                register.see({(name, "logd") for name in measured}, at)
        assert {one.compound: one.version for one in register.ahead()} == ahead
        assert len(register) == len(held)


def test_other_files_are_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match=f"{FILE}: the register of predictions cannot be used"):
        Register(path, 10)
    assert path.read_bytes().startswith(b"not a database")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    with pytest.raises(ConfigError, match="a database of another program"):
        Register(other, 10)
    newer = tmp_path / "newer.sqlite"
    Register(newer, 10).__exit__(None, None, None)
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(ConfigError, match="written by another version"):
        Register(newer, 10)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        Register(tmp_path / "file" / FILE, 10)
