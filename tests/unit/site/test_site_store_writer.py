"""The store's thread: order, grouping, and what a failure does."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.store_writer import StoreWriter
from tests.support.net_peers import until
from tests.support.stored_entries import A, Crash, encoded


def heads(path: Path) -> dict[SiteKey, int]:
    store = Store(path)
    try:
        return dict(store.vector())
    finally:
        store.close()


async def test_writes_keep_their_order_and_are_durable_when_answered(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = StoreWriter(path)
    await writer.start()
    answered: list[int] = []
    pending = [writer.submit(lambda s, n=n: s.append_entry(A, n, encoded(A, n)) or n) for n in range(1, 201)]
    for future in pending:
        future.add_done_callback(lambda f: answered.append(f.result()))
    await asyncio.gather(*pending)
    reader = Store(path, read_only=True)
    assert reader.vector() == {A: 200}
    reader.close()
    assert answered == list(range(1, 201))
    await writer.close()


async def test_waiting_writes_share_a_transaction(tmp_path: Path) -> None:
    gate = threading.Event()
    commits = 0

    def fault(point: str) -> None:
        nonlocal commits
        commits += point == "group:committed"

    writer = StoreWriter(tmp_path / "s", fault=fault)
    await writer.start()
    blocked = writer.submit(lambda store: gate.wait(10))
    pending = [writer.submit(lambda s, n=n: s.append_entry(A, n, encoded(A, n))) for n in range(1, 51)]
    gate.set()
    await asyncio.gather(blocked, *pending)
    await writer.close()
    assert commits <= 3


@pytest.mark.parametrize("point", ["append:begin", "append:written", "group:written", "group:committed"])
async def test_after_a_failed_write_nothing_more_is_written(tmp_path: Path, point: str) -> None:
    path = tmp_path / "s"
    armed = False

    def fault(at: str) -> None:
        if armed and at == point:
            raise Crash

    writer = StoreWriter(path, fault=fault)
    await writer.start()
    await writer.append(A, 1, encoded(A, 1))
    armed = True
    with pytest.raises(Crash):
        await writer.append(A, 2, encoded(A, 2))
    armed = False
    with pytest.raises(ConfigError, match="earlier write failed"):
        await writer.append(A, 3, encoded(A, 3))
    assert isinstance(writer.failure, Crash)
    await writer.close()
    assert heads(path) == {A: 2 if point == "group:committed" else 1}


async def test_a_full_disk_reaches_every_caller_with_the_remedy(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    await writer.start()

    def shrink(store: Store) -> None:
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")

    await writer.call(shrink)
    for number in (1, 2):
        with pytest.raises(ConfigError, match="disk is full"):
            await writer.append(A, number, encoded(A, number, size=100_000))
    await writer.close()


async def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    writer, room = StoreWriter(tmp_path / "s"), [False]

    def append(number: int) -> Callable[[Store], None]:
        def work(store: Store) -> None:
            (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
            store._connection.execute(f"PRAGMA max_page_count = {pages + (1000 if room[0] else 2)}")
            store.append_entry(A, number, encoded(A, number, size=100_000))

        return work

    await writer.start()
    writer.wait_for_room = True
    pending = [writer.submit(append(number)) for number in (1, 2)]
    await until(lambda: "disk is full" in writer.disk_full)
    assert not any(future.done() for future in pending)
    room[0] = True
    await asyncio.gather(*pending)
    assert writer.disk_full == ""
    await writer.close()
    assert heads(tmp_path / "s") == {A: 2}


async def test_a_stop_does_not_wait_for_room(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    await writer.start()
    writer.wait_for_room = True

    def full(store: Store) -> None:
        raise ConfigError("no room") from OSError(errno.ENOSPC, "No space left on device")

    pending = writer.submit(full)
    await until(lambda: writer.disk_full)
    await writer.close()
    with pytest.raises(ConfigError, match="no room"):
        await pending


async def test_what_was_submitted_before_close_is_written(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = StoreWriter(path)
    await writer.start()
    pending = [writer.submit(lambda s, n=n: s.append_entry(A, n, encoded(A, n))) for n in range(1, 31)]
    await writer.close()
    assert all(future.done() for future in pending)
    with pytest.raises(LocalError, match="closed"):
        await writer.append(A, 31, encoded(A, 31))
    assert heads(path) == {A: 30}
    await writer.close()


async def test_a_cancelled_caller_does_not_stop_the_writer(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    await writer.start()
    gate = threading.Event()
    blocked = writer.submit(lambda store: gate.wait(10))
    lost = writer.submit(lambda s: s.append_entry(A, 1, encoded(A, 1)))
    lost.cancel()
    gate.set()
    await blocked
    await writer.append(A, 2, encoded(A, 2))
    await writer.close()


async def test_an_unusable_store_is_told_at_the_start(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "no" / "directory")
    with pytest.raises(ConfigError, match="cannot be opened"):
        await writer.start()
    await writer.close()
