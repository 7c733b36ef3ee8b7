"""The egress log: complete, chained, and honest about crashes and alterations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.site.observe.egress import EgressLog
from kmel_p2p.site.observe.egress_record import EgressHead, Total
from kmel_p2p.site.observe.egress_segments import read, verify

MARK = digest(b"message")


def filled(path: Path, count: int = 5) -> EgressHead:
    log = EgressLog(path, 1.0)
    for number in range(count):
        log.record(2.0 + number, f"site-{number % 2}", "entry", "trunk, 3 tensors", 100 + number, MARK)
    head = log.head
    log.close(9.0)
    return head


def test_every_record_is_there_with_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    head = filled(path)
    lines = list(read(path))
    assert [line["n"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[1] | {"previous": ""} == {
        "n": 2, "time": 3.0, "to": "site-1", "kind": "entry", "what": "trunk, 3 tensors", "bytes": 101,
        "messages": 1, "digest": MARK.hex(), "previous": "",
    }  # fmt: skip
    verdict = verify(path, head)
    assert verdict.problem == ""
    assert verdict.head == head
    assert verdict.totals == {("site-0", "entry"): Total(3, 306), ("site-1", "entry"): Total(2, 204)}
    assert path.stat().st_mode & 0o077 == 0


def test_small_messages_are_summed_until_flushed(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    log = EgressLog(path, 1.0)
    for _ in range(1000):
        log.add(1.0, "north", "control", 60, MARK)
    log.add(1.0, "south", "control", 61, MARK)
    log.flush(5.0)
    log.flush(6.0)
    assert log.totals == {("north", "control"): Total(1000, 60_000), ("south", "control"): Total(1, 61)}
    assert [(line["to"], line["messages"], line["bytes"]) for line in read(path)] == [
        ("north", 1000, 60_000),
        ("south", 1, 61),
    ]
    log.add(1.0, "north", "control", 60, MARK)
    log.close(7.0)
    assert verify(path).totals["north", "control"] == Total(1001, 60_060)


def test_the_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    filled(path)
    head = filled(path)
    assert head.number == 10
    assert verify(path, head).problem == ""


@given(cut=st.integers(1, 400))
@settings(deadline=None, max_examples=60)
def test_a_line_cut_short_by_a_crash_is_recorded_and_the_chain_holds(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("egress") / "egress.jsonl"
    filled(path, 4)
    content = path.read_bytes()
    kept = content[: len(content) - cut]
    path.write_bytes(kept)
    torn = len(kept) - (kept.rfind(b"\n") + 1)
    before = verify(path)
    assert (before.problem, before.torn_bytes) == ("", torn)
    log = EgressLog(path, 20.0)
    log.record(21.0, "north", "entry", "trunk", 7, MARK)
    log.close(22.0)
    lines = list(read(path))
    assert verify(path).problem == ""
    assert len(lines) == kept.count(b"\n") + (1 if torn else 0) + 1
    assert [line["what"] for line in lines if line["kind"] == "recovered"] == (
        [f"an unfinished line of {torn} bytes was cut off"] if torn else []
    )


def altered(lines: list[bytes], how: str) -> list[bytes]:
    if how == "changed":
        fields = json.loads(lines[2])
        fields["bytes"] -= 1
        return [*lines[:2], json.dumps(fields).encode(), *lines[3:]]
    if how == "removed":
        return [*lines[:2], *lines[3:]]
    if how == "swapped":
        return [lines[0], lines[2], lines[1], *lines[3:]]
    if how == "doubled":
        return [*lines[:2], lines[1], *lines[2:]]
    if how == "foreign":
        return [*lines[:2], b"hello", *lines[3:]]
    return [*lines[:2], b'{"n": 3}', *lines[3:]]


@pytest.mark.parametrize("how", ["changed", "removed", "swapped", "doubled", "foreign", "fields"])
def test_an_alteration_is_found_with_its_line(tmp_path: Path, how: str) -> None:
    path = tmp_path / "egress.jsonl"
    filled(path)
    path.write_bytes(b"\n".join(altered(path.read_bytes().splitlines(), how)) + b"\n")
    problem = verify(path).problem
    assert problem.startswith(("line 2", "line 3", "line 4"))


def test_lines_removed_from_the_end_are_missed_by_the_head_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    head = filled(path)
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:3]) + b"\n")
    assert verify(path).problem == ""
    assert "line 5" in verify(path, head).problem


def test_a_foreign_last_line_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "egress.jsonl"
    filled(path)
    with path.open("ab") as file:
        file.write(b"something else\n")
    with pytest.raises(ConfigError, match="shows an alteration"):
        EgressLog(path, 1.0)


def test_a_full_disk_stops_the_sending(tmp_path: Path) -> None:
    log = EgressLog(Path("/dev/full"), 1.0)
    with pytest.raises(ConfigError, match="does not leave until"):
        log.record(1.0, "north", "entry", "trunk", 7, MARK)


def test_an_unusable_place_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot open the egress log"):
        EgressLog(tmp_path / "no" / "where", 1.0)
    with pytest.raises(ConfigError, match="no egress log"):
        verify(tmp_path / "none")
