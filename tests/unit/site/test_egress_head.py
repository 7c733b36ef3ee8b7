"""Lines cut off the end of the egress log are missed, from the moment an entry leaves until after a clean stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.observe.egress import EgressLog
from kmel_p2p.site.observe.egress_head import HeadKeeper, kept_head
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, verify
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.state.store_writer import StoreWriter
from tests.support.net_peers import until

NOW = 1_764_000_000.0


async def opened(folder: Path, failures: list[BaseException]) -> tuple[EgressLog, StoreWriter, HeadKeeper]:
    writer = StoreWriter(folder / STORE_NAME)
    await writer.start()
    log = EgressLog(folder / EGRESS_NAME, NOW)

    def submit(work: Callable[[Store], None]) -> None:
        def done(future: asyncio.Future[None]) -> None:
            if (error := future.exception()) is not None:
                failures.append(error)

        writer.submit(work).add_done_callback(done)

    return log, writer, HeadKeeper(log, writer, submit)


def send(log: EgressLog, count: int) -> None:
    for _ in range(count):
        log.record(NOW, "south", "Bodies", "trunk", 1000, bytes(32))


def cut(path: Path, lines: int) -> None:
    kept = path.read_bytes().splitlines(keepends=True)[:-lines]
    path.write_bytes(b"".join(kept))


async def test_an_entry_that_left_is_noted_without_waiting_for_the_next_look(tmp_path: Path) -> None:
    log, writer, heads = await opened(tmp_path, [])
    for _ in range(5):
        send(log, 1)
        heads.note()
    await until(lambda: kept_head(tmp_path) == log.head)
    cut(tmp_path / EGRESS_NAME, 1)
    assert "line 5" in verify(tmp_path / EGRESS_NAME, kept_head(tmp_path)).problem
    await heads.close(NOW)
    await writer.close()


async def test_the_last_lines_are_noted_at_a_clean_stop(tmp_path: Path) -> None:
    log, writer, heads = await opened(tmp_path, [])
    send(log, 8)
    log.add(NOW, "south", "Have", 300, bytes(32))
    await heads.close(NOW)
    await writer.close()
    head = kept_head(tmp_path)
    assert head == log.head
    assert head is not None
    assert head.number == 9
    assert not verify(tmp_path / EGRESS_NAME, head).problem
    cut(tmp_path / EGRESS_NAME, 1)
    assert "line 9" in verify(tmp_path / EGRESS_NAME, head).problem


async def test_a_disk_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[BaseException] = []
    log, writer, heads = await opened(tmp_path, failures)

    def sync() -> None:
        raise ConfigError("the disk reports an error")

    monkeypatch.setattr(log, "sync", sync)
    send(log, 1)
    heads.note()
    await until(lambda: failures)
    assert "the disk reports an error" in str(failures[0])
    monkeypatch.undo()
    log.close(NOW)
    await writer.close()
