"""The end of a run at a site: once per final trunk, also when the trainer dies over it, and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.learn.predict import model_directory as model
from kmel_p2p.learn.worker import session
from kmel_p2p.site import conclusion as conclusion_module
from kmel_p2p.site.conclusion import Conclusion
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.trainer.supervisor import TrainerState


class Averaging:
    """The end of a run in a mode without a shared trunk; `revision` moves when a test says so."""

    complete = True

    def __init__(self) -> None:
        self.revision = 1
        self.vector: dict[Any, int] = {}

    def trunk(self) -> None: ...


class Bench:
    """A daemon of which only what a conclusion asks for is there."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / STORE_NAME)
        self.asked: list[tuple[int, dict[str, str]]] = []
        self.ends = 0
        self.errors: list[Exception] = []
        self.peer = SimpleNamespace(averaging=Averaging())
        self.trainer = SimpleNamespace(state=TrainerState.IDLE, finish=self._finish)
        self.config = SimpleNamespace(site=SimpleNamespace(state_dir=folder))
        self.site = SimpleNamespace(
            identity=Identity(bytes(32)),
            names={},
            charter=SimpleNamespace(averaging=SimpleNamespace(steps_per_entry=10)),
        )
        self.conclusion = self.another_life()

    def another_life(self) -> Conclusion:
        made = Conclusion(cast(Any, self))
        made.recall(self.store)
        self.conclusion = made
        return made

    def digest(self) -> str:
        return f"digest of {self.peer.averaging.revision}"

    async def refresh_digest(self) -> None:
        await asyncio.sleep(0)

    def note(self, work: Any) -> None:
        work(self.store)

    def concluded(self) -> None:
        self.ends += 1

    def fail(self, error: Exception) -> None:
        self.errors.append(error)

    def _finish(self, total_steps: int, entries: int, labels: dict[str, str], trunk: Any) -> None:
        self.trainer.state = TrainerState.FINISHING
        self.asked.append((total_steps, labels))

    def answered(self) -> bool:
        """The trainer is done."""
        self.trainer.state = TrainerState.IDLE
        return self.conclusion.finished(session.Finished({"digest": "model"}, Path("model")))

    async def settle(self) -> None:
        if self.conclusion._task is not None:
            await self.conclusion._task


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(conclusion_module, "read_card", lambda folder: SimpleNamespace(digest="model"))
    made = Bench(tmp_path)
    made.conclusion.prepared("data")
    yield made
    await made.conclusion.close()
    made.store.close()


async def conclude(bench: Bench) -> None:
    bench.conclusion.begin()
    await bench.settle()


async def test_models_are_compared_once_per_final_trunk(bench: Bench) -> None:
    await conclude(bench)
    await conclude(bench)
    assert bench.conclusion.result is None
    assert bench.answered()
    await conclude(bench)
    assert bench.conclusion.result == {"digest": "model"}
    assert [labels["state_digest"] for _, labels in bench.asked] == ["digest of 1"]
    bench.peer.averaging.revision = 2
    await conclude(bench)
    assert bench.conclusion.result is None
    assert len(bench.asked) == 2


async def test_what_changed_during_the_comparison_is_compared_again(bench: Bench) -> None:
    await conclude(bench)
    bench.peer.averaging.revision = 2
    assert not bench.answered()
    await bench.settle()
    assert [labels["state_digest"] for _, labels in bench.asked] == ["digest of 1", "digest of 2"]
    assert bench.answered()


async def test_a_trainer_lost_over_the_comparison_is_asked_again(bench: Bench) -> None:
    await conclude(bench)
    bench.trainer.state = TrainerState.PREPARING
    await conclude(bench)
    assert len(bench.asked) == 1
    bench.trainer.state = TrainerState.IDLE
    bench.conclusion.prepared("data")
    await bench.settle()
    assert len(bench.asked) == 2
    assert bench.answered()


async def test_another_life_leaves_alone_what_was_made_from_the_same_trunk_and_data(bench: Bench) -> None:
    assert not bench.conclusion.was_reached
    await conclude(bench)
    bench.answered()
    again = bench.another_life()
    assert again.was_reached
    again.prepared("data")
    await conclude(bench)
    assert len(bench.asked) == 1
    assert again.result == {"digest": "model"}
    assert bench.ends == 1
    for dataset, revision in (("more data", 1), ("data", 2)):
        bench.peer.averaging.revision = revision
        bench.trainer.state = TrainerState.IDLE
        before = len(bench.asked)
        bench.another_life().prepared(dataset)
        await conclude(bench)
        assert len(bench.asked) == before + 1


async def test_models_that_are_gone_are_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await conclude(bench)
    bench.answered()
    bench.another_life().prepared("data")
    monkeypatch.setattr(conclusion_module, "read_card", model.read_card)
    await conclude(bench)
    assert len(bench.asked) == 2
