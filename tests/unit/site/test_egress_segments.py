"""The egress log over several files: closed, kept, deleted as configured, and one chain throughout."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.core.ledger.sync.messages import SCHEMAS
from kmel_p2p.core.membership.messages import SCHEMAS as MEMBERSHIP
from kmel_p2p.site.observe.egress import DAY_S, EgressLog, Rotation
from kmel_p2p.site.observe.egress_record import MAX_LINE_BYTES, EgressHead, Total
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, closed_segments, read, segments, verify

MARK = digest(b"message")
SMALL = Rotation(bytes=1500, age_s=1e9)


def send(log: EgressLog, now: float, count: int = 1) -> None:
    for _ in range(count):
        log.record(now, "south", "Bodies", "1 entry; trunk", 1000, MARK)
        if log.is_full(now):
            log.sync()
            log.rotate(now)


def filled(folder: Path, count: int = 20, rotation: Rotation = SMALL) -> EgressHead:
    log = EgressLog(folder / EGRESS_NAME, 0.0, rotation)
    for number in range(count):
        send(log, 10.0 * number)
    head = log.head
    log.close(10.0 * count)
    return head


def test_segments_are_one_chain(tmp_path: Path) -> None:
    head = filled(tmp_path)
    path = tmp_path / EGRESS_NAME
    files = segments(path)
    assert len(files) > 3
    assert files[-1] == path
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    verdict = verify(path, head)
    assert (verdict.problem, verdict.head, verdict.segments) == ("", head, len(files))
    assert verdict.totals == {("south", "Bodies"): Total(20, 20_000)}
    records = list(read(path))
    assert [record["n"] for record in records] == list(range(1, head.number + 1))
    notes = [record for record in records if record["kind"] == "segment"]
    assert [note["what"] for note in notes] == [f"follows {file.name}" for file in files[:-1]]
    assert all(note["digest"] == note["previous"] for note in notes)


def test_a_head_in_a_closed_segment_is_found(tmp_path: Path) -> None:
    log = EgressLog(tmp_path / EGRESS_NAME, 0.0, SMALL)
    log.record(1.0, "south", "Bodies", "", 1, MARK)
    early = log.head
    send(log, 2.0, 10)
    log.close(3.0)
    assert verify(tmp_path / EGRESS_NAME, early).problem == ""
    assert "line 1 with hash" in verify(tmp_path / EGRESS_NAME, EgressHead(1, "0" * 64)).problem


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_missing_segment_is_found(tmp_path: Path, place: int) -> None:
    head = filled(tmp_path)
    path = tmp_path / EGRESS_NAME
    segments(path)[place].unlink()
    problem = verify(path, head).problem
    assert problem.startswith({0: "lines 1 to", 1: "line ", -1: f"line {head.number}"}[place])


@pytest.mark.parametrize("place", [0, 1, -1])
def test_an_altered_line_is_found_in_any_segment(tmp_path: Path, place: int) -> None:
    head = filled(tmp_path)
    path = tmp_path / EGRESS_NAME
    file = segments(path)[place]
    file.write_bytes(file.read_bytes().replace(b'"bytes": 1000', b'"bytes": 1', 1))
    assert verify(path, head).problem


def test_segments_moved_to_an_archive_are_read_from_there(tmp_path: Path) -> None:
    head = filled(tmp_path)
    path, archive = tmp_path / EGRESS_NAME, tmp_path / "2026"
    archive.mkdir()
    for file in segments(path)[:2]:
        shutil.move(file, archive)
    assert "name their folder with --archive" in verify(path, head).problem
    assert verify(path, head, [archive]).problem == ""
    assert len(list(read(path, [archive]))) == head.number
    with pytest.raises(ConfigError, match="no egress log"):
        verify(path, head, [tmp_path / "nowhere"])


def test_nothing_is_deleted_unless_configured(tmp_path: Path) -> None:
    filled(tmp_path)
    log = EgressLog(tmp_path / EGRESS_NAME, 1e12, SMALL)
    assert log.expire(1e12) is None
    log.close(1e12)


def test_what_is_deleted_as_configured_is_accounted_for(tmp_path: Path) -> None:
    rotation = Rotation(bytes=1500, age_s=1e9, keep_s=5 * DAY_S)
    log = EgressLog(tmp_path / EGRESS_NAME, 0.0, rotation)
    for day in range(12):
        send(log, day * DAY_S, 2)
    before = closed_segments(tmp_path)
    delete = log.expire(12 * DAY_S)
    assert delete is not None
    assert closed_segments(tmp_path) == before
    delete()
    assert log.expire(12 * DAY_S) is None
    log.close(12 * DAY_S)
    path = tmp_path / EGRESS_NAME
    kept = list(read(path))
    assert 1 < kept[0]["n"] < kept[-1]["n"]
    verdict = verify(path, log.head)
    assert (verdict.problem, verdict.first) == ("", kept[0]["n"])
    segments(path)[0].unlink()
    assert "does not say that they were deleted" in verify(path, log.head).problem


def test_a_crash_between_two_segments_goes_on_in_the_old_one(tmp_path: Path) -> None:
    filled(tmp_path, 3, Rotation())
    path = tmp_path / EGRESS_NAME
    path.rename(tmp_path / "egress-0000000001.jsonl")
    assert verify(path).problem == ""
    log = EgressLog(path, 50.0)
    send(log, 51.0)
    log.close(52.0)
    assert [record["n"] for record in read(path)] == [1, 2, 3, 4]
    assert closed_segments(tmp_path) == {}


def failing(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> None:
    """`os.<name>` of the log fails for lack of room from its call number `after` on, three times."""
    real, calls = getattr(os, name), itertools.count()

    def call(*arguments: Any, **named: Any) -> Any:
        if after <= next(calls) < after + 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, call)


@given(name=st.sampled_from(["write", "rename", "open", "fsync"]), after=st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_a_full_disk_at_any_moment_leaves_the_chain_whole(
    tmp_path_factory: pytest.TempPathFactory, name: str, after: int
) -> None:
    folder = tmp_path_factory.mktemp("egress")
    log = EgressLog(folder / EGRESS_NAME, 0.0, SMALL)
    recorded = 0
    with pytest.MonkeyPatch.context() as patch:
        failing(patch, name, after)
        for number in range(30):
            log.add(float(number), "north", "Have", 10, MARK)
            for step in (
                lambda number=number: log.record(number, "south", "Bodies", "", 7, MARK),
                lambda number=number: log.write_sums(number, all_of_them=True),
                lambda number=number: log.rotate(number) if log.is_full(number) else None,
            ):
                try:
                    step()
                except ConfigError:
                    continue
            recorded = log.totals.get(("south", "Bodies"), Total(0, 0)).messages
    log.close(99.0)
    verdict = verify(folder / EGRESS_NAME, log.head)
    assert verdict.problem == ""
    assert verdict.totals["south", "Bodies"].messages == recorded >= 27
    assert verdict.totals["north", "Have"] == Total(30, 300)


def test_a_quiet_day_stays_below_a_megabyte_for_each_partner(tmp_path: Path) -> None:
    """Every kind of message of mode ledger and membership, each every few seconds, all day."""
    kinds = [schema.cls.__name__ for schema in (*MEMBERSHIP, *SCHEMAS)]
    path = tmp_path / EGRESS_NAME
    log = EgressLog(path, 0.0)
    for second in range(0, int(DAY_S), 10):
        for kind in kinds:
            log.add(float(second), "a-site-with-a-name-of-usual-length", kind, 600, MARK)
        log.write_sums(float(second))
    log.close(DAY_S)
    assert path.stat().st_size < 1_000_000 * max(1, len(kinds) / 17)
    assert sum(total.messages for total in verify(path).totals.values()) == 8640 * len(kinds)


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / EGRESS_NAME
    path.write_bytes(b"x" * (3 * MAX_LINE_BYTES) + b"\n")
    assert "unfinished or too long" in verify(path).problem or verify(path).torn_bytes == MAX_LINE_BYTES
    assert list(read(path)) == []
