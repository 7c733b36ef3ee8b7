"""What leaves is on record first; without room for the record, entries stay and small messages go on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.sync.messages import Bodies, Want
from kmel_p2p.core.types import Lane
from kmel_p2p.delta.layout import Layout, TensorSpec
from kmel_p2p.net.link_events import Egress
from kmel_p2p.site.loaded_site import describe_tensors
from kmel_p2p.site.modes.ledger import LedgerMode
from kmel_p2p.site.observe.audit import Audit
from kmel_p2p.site.observe.egress import SUM_S, EgressLog, Rotation
from kmel_p2p.site.observe.egress_head import HeadKeeper
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, closed_segments, read, verify
from kmel_p2p.site.observe.egress_summary import EgressSummary
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.state.store_writer import StoreWriter

SOUTH = SiteKey(bytes(32))
MARK = bytes(32)


class Site:
    """An audit on a real log and store, at a time of its own."""

    def __init__(self, folder: Path, rotation: Rotation | None = None) -> None:
        self.now = 1_760_000_000.0
        self.problems: list[str] = []
        self.path = folder / EGRESS_NAME
        self.writer = StoreWriter(folder / STORE_NAME)
        self.log = EgressLog(self.path, self.now, rotation)
        tensors = describe_tensors(Layout([TensorSpec("layers.0.weight", (2, 3))]))

        def submit(work: Callable[[Store], None]) -> None:
            self.writer.submit(work)

        heads = HeadKeeper(self.log, self.writer, submit)
        self.audit = Audit(self.log, heads, tensors, lambda key: "south", self.problems.append, lambda: self.now)

    def entries(self, count: int) -> bool:
        label = LedgerMode().label(Bodies((b"x",) * count))
        return self.audit.leaves(Egress(SOUTH, Lane.BULK, label, 100 * count, MARK))

    def wants(self) -> bool:
        return self.audit.leaves(Egress(SOUTH, Lane.CONTROL, LedgerMode().label(Want((), ())), 30, MARK))


async def test_a_full_disk_keeps_entries_here_and_lets_small_messages_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    await site.writer.start()
    write = os.write

    def full(handle: int, data: bytes) -> int:
        return write(handle, data[:10])

    monkeypatch.setattr(os, "write", full)
    assert not site.entries(1)
    assert site.wants()
    site.now += SUM_S
    await site.audit.look()
    assert all("disk is full" in problem for problem in site.problems)
    assert list(read(site.path)) == []
    monkeypatch.undo()
    assert site.entries(2)
    await site.audit.look()
    assert site.problems[-1] == ""
    await site.audit.close()
    await site.writer.close()
    assert verify(site.path).problem == ""
    facts = [(line["kind"], line["messages"], line["what"]) for line in read(site.path)]
    assert [(kind, messages) for kind, messages, _ in facts] == [("Bodies", 1), ("Want", 1)]
    assert facts[0][2].startswith("2 entries; layers.0.weight (layout ")


async def test_a_segment_that_is_old_is_closed_at_the_next_look(tmp_path: Path) -> None:
    site = Site(tmp_path, Rotation(age_s=60.0))
    await site.writer.start()
    site.entries(1)
    await site.audit.look()
    assert closed_segments(tmp_path) == {}
    site.now += 61.0
    await site.audit.look()
    assert list(closed_segments(tmp_path)) == [1]
    await site.audit.close()
    await site.writer.close()
    assert verify(site.path).problem == ""


async def test_a_summary_tells_entries_and_bytes_in_words(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.writer.start()
    for count in (1, 64):
        site.entries(count)
    site.wants()
    await site.audit.close()
    await site.writer.close()
    summary = EgressSummary()
    for record in read(site.path):
        summary.add(record)
    assert summary.plain()["sites"]["south"]["entries"] == 65
    assert summary.words()[1:] == [
        "  to south: 6.5 kB in 3 messages",
        "    65 entries: 6.5 kB in 2 messages",
        "    control messages (who is there, who holds what): 30 B in 1 message",
    ]
