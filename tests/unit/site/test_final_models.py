"""The end of a run at a site: once per final trunk, also when the trainer dies over it, and after a restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kmel_p2p.agreement.averaging import PushSumRule
from kmel_p2p.agreement.campaign import Campaign
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.agreement.training import PaceRule, TrainingRule
from kmel_p2p.core.rounds import RoundAllowance
from kmel_p2p.learn.predict import model_directory as model
from kmel_p2p.learn.tensor_file import read_vector
from kmel_p2p.learn.worker import session
from kmel_p2p.site import final_models as module
from kmel_p2p.site.final_models import OTHERS_NAME, FinalModels
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.site.trainer.supervisor import TrainerState


class Averaging:
    """The end of a run in a mode without a shared trunk; `revision` moves when a test says so."""

    complete = True

    def __init__(self) -> None:
        self.revision = 1
        self.vector: dict[Any, int] = {}
        self.entry_limit = 6

    @property
    def allowance(self) -> RoundAllowance:
        return RoundAllowance(1, self.entry_limit)

    def trunk(self) -> None: ...


class Digest:
    """Computed at once."""

    def __init__(self, averaging: Averaging) -> None:
        self._averaging = averaging

    @property
    def text(self) -> str:
        return f"digest of {self._averaging.revision}"

    async def refresh(self) -> None:
        await asyncio.sleep(0)


class Bench:
    """What `FinalModels` needs of a daemon, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / STORE_NAME)
        self.asked: list[tuple[int, dict[str, str]]] = []
        self.others: list[np.ndarray | None] = []
        self.ends = 0
        self.errors: list[Exception] = []
        self.averaging = Averaging()
        self.trainer = SimpleNamespace(state=TrainerState.IDLE, finish=self._finish)
        campaign = Campaign(1, 0, 6, TrainingRule(), PushSumRule(steps_per_entry=10), PaceRule())
        self.site = SimpleNamespace(
            constitution=SimpleNamespace(campaign=campaign, campaigns=(campaign,)),
            config=SimpleNamespace(site=SimpleNamespace(state_dir=folder)),
            identity=Identity(bytes(32)),
            names={},
            charter=SimpleNamespace(
                averaging=SimpleNamespace(mode="pushsum", steps_per_entry=10), privacy=PrivacyRule()
            ),
        )
        self.final_models = self.another_life()

    def another_life(self) -> FinalModels:
        made = FinalModels(
            site=lambda: cast(Any, self.site),
            averaging=cast(Any, self.averaging),
            trainer=cast(Any, self.trainer),
            digest=cast(Any, Digest(self.averaging)),
            note=lambda work: work(self.store),
            written=self._written,
            fail=self.errors.append,
        )
        made.recall(self.store)
        self.final_models = made
        return made

    def _written(self) -> None:
        self.ends += 1

    def _finish(
        self,
        total_steps: int,
        entries: int,
        labels: dict[str, str],
        trunk: Any,
        others_file: Path | None,
        training: TrainingRule,
    ) -> None:
        self.trainer.state = TrainerState.FINISHING
        self.asked.append((total_steps, labels))
        self.others.append(None if others_file is None else read_vector(others_file, 3))

    def answered(self) -> bool:
        """The trainer is done; whether that was the end of it."""
        self.trainer.state = TrainerState.IDLE
        before = self.ends
        self.final_models.finished(session.Finished({"digest": "model"}, Path("model")))
        return self.ends > before

    async def settle(self) -> None:
        if self.final_models._task is not None:
            await self.final_models._task


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "read_card", lambda folder: SimpleNamespace(digest="model"))
    made = Bench(tmp_path)
    made.final_models.prepared("data")
    yield made
    await made.final_models.close()
    made.store.close()


async def complete(bench: Bench) -> None:
    bench.final_models.begin()
    await bench.settle()


async def test_models_are_compared_once_per_final_trunk(bench: Bench) -> None:
    await complete(bench)
    await complete(bench)
    assert bench.final_models.result is None
    assert bench.answered()
    await complete(bench)
    assert bench.final_models.result == {"digest": "model"}
    assert [labels["state_digest"] for _, labels in bench.asked] == ["digest of 1"]
    bench.averaging.revision = 2
    await complete(bench)
    assert bench.final_models.result is None
    assert len(bench.asked) == 2


async def test_what_changed_during_the_comparison_is_compared_again(bench: Bench) -> None:
    await complete(bench)
    bench.averaging.revision = 2
    await complete(bench)
    assert not bench.answered()
    await bench.settle()
    assert [labels["state_digest"] for _, labels in bench.asked] == ["digest of 1", "digest of 2"]
    assert bench.answered()


async def test_what_changed_is_left_alone_until_the_run_has_ended_anew(bench: Bench) -> None:
    await complete(bench)
    bench.averaging.revision = 2
    assert not bench.answered()
    await bench.settle()
    assert len(bench.asked) == 1
    assert bench.final_models.result is None
    await complete(bench)
    assert len(bench.asked) == 2


async def test_another_life_knows_how_long_the_run_was_that_it_finished(bench: Bench) -> None:
    await complete(bench)
    bench.answered()
    bench.averaging.entry_limit = 9
    assert bench.another_life().allowed_before == RoundAllowance(1, 6)


async def test_a_trainer_lost_over_the_comparison_is_asked_again(bench: Bench) -> None:
    await complete(bench)
    bench.trainer.state = TrainerState.PREPARING
    await complete(bench)
    assert len(bench.asked) == 1
    bench.trainer.state = TrainerState.IDLE
    bench.final_models.prepared("data")
    await bench.settle()
    assert len(bench.asked) == 2
    assert bench.answered()


async def test_other_data_after_the_end_of_the_run_make_other_models(bench: Bench) -> None:
    await complete(bench)
    assert bench.answered()
    bench.final_models.prepared("data")
    await bench.settle()
    assert len(bench.asked) == 1
    bench.final_models.prepared("more data")
    await bench.settle()
    assert len(bench.asked) == 2
    assert bench.answered()


async def test_another_life_leaves_alone_what_was_made_from_the_same_trunk_and_data(bench: Bench) -> None:
    assert not bench.final_models.were_written
    await complete(bench)
    bench.answered()
    again = bench.another_life()
    assert again.were_written
    again.prepared("data")
    await complete(bench)
    assert len(bench.asked) == 1
    assert again.result == {"digest": "model"}
    assert bench.ends == 2
    for dataset, revision in (("more data", 1), ("data", 2)):
        bench.averaging.revision = revision
        bench.trainer.state = TrainerState.IDLE
        before = len(bench.asked)
        bench.another_life().prepared(dataset)
        await complete(bench)
        assert len(bench.asked) == before + 1


async def test_models_that_are_gone_are_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await complete(bench)
    bench.answered()
    bench.another_life().prepared("data")
    monkeypatch.setattr(module, "read_card", model.read_card)
    await complete(bench)
    assert len(bench.asked) == 2


async def test_the_trainer_is_handed_the_others_trunk_of_the_trunk_it_compares(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[np.ndarray | None] = [np.array([0.5, -1, 2], np.float32), np.array([7, 8, 9], np.float32), None]

    def others_trunk(site: Any, averaging: Any, store: Path) -> Any:
        assert store == tmp_path / STORE_NAME
        made = others[averaging.revision - 1]
        if averaging.revision == 1:
            # An entry comes in late, while the work is waiting for its thread.
            bench.averaging.revision = 2
        return lambda: made

    mode = SimpleNamespace(
        trunk_writer=lambda *given: None, others_trunk=others_trunk, own_rounds=lambda averaging, key: 0
    )
    monkeypatch.setattr(module, "mode_of", lambda charter: mode)
    await complete(bench)
    bench.answered()
    assert [found.tolist() for found in bench.others if found is not None] == [[7, 8, 9]]
    bench.averaging.revision = 3
    await complete(bench)
    assert bench.others[1:] == [None]
    assert not (tmp_path / OTHERS_NAME).exists()


async def test_without_an_others_trunk_the_trainer_is_told_so(bench: Bench, tmp_path: Path) -> None:
    await complete(bench)
    assert bench.others == [None]
    assert not (tmp_path / OTHERS_NAME).exists()
