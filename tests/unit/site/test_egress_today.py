"""What left today: the same before and after a restart, and nothing of yesterday."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.site.observe.egress import DAY_S, EgressLog, Rotation
from kmel_p2p.site.observe.egress_record import Total
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME
from kmel_p2p.site.observe.egress_today import EgressToday, _lines_backwards, day_of, recorded_since

MIDNIGHT = 20_000 * DAY_S


def test_a_restart_counts_what_left_before_it_and_midnight_ends_the_day(tmp_path: Path) -> None:
    path = tmp_path / EGRESS_NAME
    log = EgressLog(path, MIDNIGHT - 100, Rotation(bytes=2000))
    for number in range(40):
        now = MIDNIGHT - 100 + 10 * number
        log.record(now, "south" if number % 2 else "east", "Bodies", "1 entry; trunk", 1000 + number, bytes(32))
        if log.is_full(now):
            log.rotate(now)
    log.add(MIDNIGHT + 300, "south", "Ping", 70, bytes(32))
    log.close(MIDNIGHT + 301)
    found = recorded_since(path, MIDNIGHT)
    assert found["south", "Ping"] == Total(1, 70)
    assert sum(total.messages for total in found.values()) == 1 + 30
    assert found["east", "Bodies"].bytes == sum(1000 + number for number in range(10, 40, 2))
    clock = [MIDNIGHT + 310.0]
    today = EgressToday(lambda: clock[0])
    today.add("south", "Ping", 30)
    today.recall(found, day_of(clock[0]))
    assert today.totals["south", "Ping"] == Total(2, 100)
    clock[0] = MIDNIGHT + DAY_S + 1
    assert today.totals == {}
    # What was read before midnight and comes after it is of another day.
    today.recall(found, MIDNIGHT)
    assert today.totals == {}


def test_a_log_that_is_missing_torn_or_foreign_counts_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    assert recorded_since(tmp_path / "nowhere" / EGRESS_NAME, 0.0) == {}
    path = tmp_path / EGRESS_NAME
    log = EgressLog(path, MIDNIGHT)
    log.record(MIDNIGHT + 1, "south", "Bodies", "1 entry; trunk", 5, bytes(32))
    log.record(MIDNIGHT + 2, "south", "Bodies", "1 entry; trunk", 6, bytes(32))
    log.close(MIDNIGHT + 3)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n": 3, "ti')
    assert recorded_since(path, MIDNIGHT) == {("south", "Bodies"): Total(2, 11)}
    path.write_bytes(b"not a record\n" + whole)
    assert recorded_since(path, MIDNIGHT) == {("south", "Bodies"): Total(2, 11)}


@given(st.lists(st.binary(max_size=300).filter(lambda line: b"\n" not in line), max_size=30), st.binary(max_size=5))
def test_lines_are_read_backwards_whatever_their_length(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes
) -> None:
    torn = torn.replace(b"\n", b"")
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + torn)
    assert list(_lines_backwards(path)) == lines[::-1]


def test_lines_longer_than_a_block_are_whole(tmp_path: Path) -> None:
    lines = [b"a" * 200_000, b"", b"b" * 70_000, b"c"]
    (tmp_path / "file").write_bytes(b"\n".join(lines) + b"\n")
    assert list(_lines_backwards(tmp_path / "file")) == lines[::-1]
