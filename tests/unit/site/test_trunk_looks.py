"""Looks at the other authors: within their share of the time, in files that go again, whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.harm.judgement import LOOKS
from kmel_p2p.core.rounds import EndpointLook, Look, Looked, TrunkPart
from kmel_p2p.learn.tensor_file import read_vector, write_vector
from kmel_p2p.learn.worker import session
from kmel_p2p.site.trainer import looks as module
from kmel_p2p.site.trainer.looks import AT_LEAST_S, FOLDER, IN_ADVANCE, SHARE, TrunkLooks

AUTHOR = SiteKey(b"a" * 32)
PART = TrunkPart(AUTHOR, 2, 7)
ONES = np.ones(3, np.float32)


def trunks() -> Iterator[tuple[TrunkPart | None, NDArray[np.float32]]]:
    yield None, ONES
    yield PART, np.zeros(3, np.float32)


class Bench:
    """A trainer that answers when it is told to, and the protocol."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[session.Examine] = []
        self.commands: list[Any] = []
        self.turns: list[int] = []
        self.raised = True
        self.spoils = False
        self.work: Any = trunks
        self.since: int | None = None
        self.oldest: list[int] = []
        self.looks = TrunkLooks(folder, self.trunks, self.asked.append, self.commands.append, self)

    def raised_loss(self, author: SiteKey) -> bool:
        return self.raised

    def spoilt(self, author: SiteKey) -> bool:
        return self.spoils

    def declining_since(self, author: SiteKey, oldest: int) -> int | None:
        self.oldest.append(oldest)
        return self.since

    def trunks(self, turn: int) -> Any:
        self.turns.append(turn)
        return self.work

    async def round(self, number: int, seconds: float = 1.0) -> None:
        self.looks.trained(seconds, number)
        if self.looks._task is not None:
            await self.looks._task

    def answer(self, seconds: float) -> None:
        (part,) = self.asked[-1].parts
        effect = session.PartEffect(part, {0: session.EndpointEffect(30, 2.0, 1.0, 0.1)})
        self.looks.examined(session.Examined((effect,), seconds))


def test_a_look_goes_to_the_trainer_in_files_and_what_it_found_to_the_protocol(tmp_path: Path) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        await bench.round(1)
        assert not bench.asked
        await bench.round(2)
        (asked,) = bench.asked
        assert read_vector(asked.trunk, 3).tolist() == [1, 1, 1]
        assert read_vector(asked.parts[0].path, 3).tolist() == [0, 0, 0]
        assert (tmp_path / FOLDER).stat().st_mode & 0o077 == 0
        # While one is under way, no other begins.
        await bench.round(3)
        assert len(bench.asked) == 1
        bench.answer(0.1)
        assert bench.commands == [Looked((Look(AUTHOR, 2, 7, {0: EndpointLook(30, 2.0, 1.0, 0.1)}, raised=True),))]
        assert list((tmp_path / FOLDER).iterdir()) == []
        # What its entries were worth along the way goes with it.
        bench.raised = False
        await bench.round(4)
        bench.answer(0.1)
        assert [look.raised for look in bench.commands[-1].looks] == [False]
        await bench.looks.close()

    asyncio.run(scene())


def test_harm_of_who_turned_needs_a_decline_and_entries_that_take_back_what_came_before(tmp_path: Path) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        found = []
        for number, (since, cosine) in enumerate([(5, 0.1), (None, -0.1), (5, -0.1)], 2):
            bench.since = since
            bench.work = partial(iter, [(None, ONES), (replace(PART, cosine=cosine), ONES)])
            await bench.round(number)
            bench.answer(0.1)
            (look,) = bench.commands[-1].looks
            found.append(look.turned_since)
        assert found == [None, None, 5]
        assert bench.oldest == [PART.first] * 3
        await bench.looks.close()

    asyncio.run(scene())


def test_what_an_author_spoilt_counts_where_all_its_entries_are_looked_at(tmp_path: Path) -> None:
    """After a lift, or once its first ones were compacted, looks begin later, and what it did before is settled."""

    async def scene() -> None:
        bench = Bench(tmp_path)
        bench.spoils, found = True, []
        for number, first in enumerate((1, 2), 2):
            bench.work = partial(iter, [(None, ONES), (replace(PART, first=first), ONES)])
            await bench.round(number)
            bench.answer(0.1)
            found.append([look.spoilt for look in bench.commands[-1].looks])
        assert found == [[True], [False]]
        await bench.looks.close()

    asyncio.run(scene())


def test_looks_take_a_twentieth_of_the_time_and_some_in_advance(tmp_path: Path) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        for number in range(1, 301):
            asked = len(bench.asked)
            await bench.round(number)
            if len(bench.asked) > asked:
                bench.answer(0.4)
        early = SHARE * IN_ADVANCE
        assert bench.looks.spent_s <= SHARE * 300
        assert bench.looks.spent_s >= SHARE * 300 - 1
        # The first ones come at once, as long as the advance lasts.
        assert bench.turns[: int(early / 0.4)] == list(range(int(early / 0.4)))
        await bench.looks.close()

    asyncio.run(scene())


def test_a_short_run_is_looked_at_all_along(tmp_path: Path) -> None:
    """Thirty rounds of a fifth of a second: a twentieth of that is less than one look of half a second takes."""

    async def scene() -> None:
        bench = Bench(tmp_path)
        for number in range(1, 31):
            asked = len(bench.asked)
            await bench.round(number, seconds=0.2)
            if len(bench.asked) > asked:
                bench.answer(0.5)
        assert bench.looks.spent_s <= AT_LEAST_S
        assert len(bench.asked) >= 3 * LOOKS
        await bench.looks.close()

    asyncio.run(scene())


def test_a_full_disk_or_a_lost_trainer_costs_a_look_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)

        def full(path: Path, values: object) -> None:
            raise ConfigError("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(module, "write_vector", full)
            await bench.round(2)
        assert not bench.asked
        await bench.round(3)
        assert len(bench.asked) == 1
        bench.looks.lost()
        await bench.round(4)
        assert len(bench.asked) == 2
        await bench.looks.close()
        assert list((tmp_path / FOLDER).iterdir()) == []

    asyncio.run(scene())


def test_writing_the_files_of_a_look_counts_as_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        bench, now = Bench(tmp_path), [0.0]
        write = write_vector

        def slow(path: Path, values: Any) -> None:
            now[0] += 2.0
            write(path, values)

        monkeypatch.setattr(module, "write_vector", slow)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
        await bench.round(2, seconds=1000.0)
        bench.answer(0.5)
        assert bench.looks.spent_s == 4.5
        await bench.looks.close()

    asyncio.run(scene())


def test_a_look_takes_no_more_than_a_tenth_of_the_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        bench = Bench(tmp_path)
        disk = SimpleNamespace(disk_usage=lambda folder: SimpleNamespace(free=200))
        monkeypatch.setattr(module, "shutil", disk)
        await bench.round(2)
        assert not bench.asked
        assert list((tmp_path / FOLDER).iterdir()) == []
        disk.disk_usage = lambda folder: SimpleNamespace(free=240)
        await bench.round(3)
        assert len(bench.asked) == 1
        await bench.looks.close()

    asyncio.run(scene())
