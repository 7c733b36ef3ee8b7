"""What the trainer is told when assay endpoints come and go, and when `[data]` is another one: while the peer runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.core.rounds import RoundAbandoned, RoundOpened, Unready
from kmel_p2p.learn.worker import session
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.trainer import following, supervisor
from kmel_p2p.site.trainer.answers import NOT_TRAINING, TrainerAnswers
from kmel_p2p.site.trainer.following import DataFollowed
from kmel_p2p.site.trainer.supervisor import TrainerState, TrainerSupervisor
from tests.support.net_peers import until

FIRST = AssayEndpoints.first((AssayEndpoint(name="logD"),))
SECOND = FIRST.followed_by([AssayEndpoint(name="hERG")], [], 2)


class Process:
    """A trainer that answers when a test says so."""

    made: ClassVar[list[Process]] = []

    def __init__(self, target: Any, plan: Any, on_message: Any, on_exit: Any, *, several: bool) -> None:
        self.plan, self.say, self._on_exit = plan, on_message, on_exit
        self.sent: list[Any] = []
        self.pid: int | None = len(self.made) + 1
        self.resident_bytes = 0
        self.made.append(self)

    def send(self, command: Any) -> None:
        self.sent.append(command)

    async def stop(self, grace_s: float) -> None:
        # What was on its way still comes.
        self.say(session.Failed("bug", "ended"))
        await asyncio.sleep(0)
        self.pid = None
        self._on_exit(0)


class Listener:
    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self.told.append(name)


@dataclass(frozen=True)
class Plan:
    """The part of a plan that the supervisor touches."""

    name: str
    trunk_memory: str = ""
    resume_file: str | None = None
    processes: int = 1


def plan(name: str) -> TrainerPlan:
    return cast(TrainerPlan, Plan(name))


def prepared() -> Any:
    return object.__new__(session.Prepared)


@pytest.fixture
async def trainer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[TrainerSupervisor, Listener]]:
    monkeypatch.setattr(supervisor, "TrainerProcess", Process)
    monkeypatch.setattr(Process, "made", [])

    async def resume() -> str | None:
        return None

    made, listener = TrainerSupervisor(lambda: None, plan("first"), 3, resume, lambda: 0.0), Listener()
    await made.start(cast(Any, listener))
    Process.made[0].say(prepared())
    yield made, listener
    await made.stop()


def opened(number: int) -> RoundOpened:
    return RoundOpened(number, 5, 1.0, 9, 1, 0)


def trained(number: int) -> session.Trained:
    return session.Trained(number, b"", 1.0, 5, f"round-{number}", 0.0, {}, 1.0, 1)


def fill(out: np.ndarray) -> None:
    out[:] = 0


async def test_a_new_plan_takes_its_place_between_two_rounds(trainer: tuple[TrainerSupervisor, Listener]) -> None:
    made, listener = trainer
    made.replan(plan("second"))
    # Opened in the same turn: it is trained and stored as if nothing had happened.
    made.train(opened(4), fill)
    await asyncio.sleep(0)
    Process.made[0].say(trained(4))
    await asyncio.sleep(0)
    assert len(Process.made) == 1
    made.commit(4)
    await until(lambda: len(Process.made) == 2)
    assert cast(Any, Process.made[1].plan).name == "second"
    assert made.state is TrainerState.PREPARING
    assert made.restarts == 0
    Process.made[1].say(prepared())
    assert made.state is TrainerState.IDLE
    assert listener.told == ["trainer_prepared", "trainer_trained", "trainer_prepared"]


async def test_a_held_round_and_models_being_made_are_not_interrupted(
    trainer: tuple[TrainerSupervisor, Listener],
) -> None:
    made, _ = trainer
    made.train(opened(4), fill)
    Process.made[0].say(trained(4))
    made.replan(plan("second"))
    await asyncio.sleep(0)
    assert len(Process.made) == 1
    made.finish(10, 3, {}, fill)
    made.abandon(RoundAbandoned(4, "rejected", True, False))
    assert len(Process.made) == 1
    Process.made[0].say(session.Finished())
    await until(lambda: len(Process.made) == 2)


async def test_two_plans_in_a_row_start_one_trainer_with_the_newer(
    trainer: tuple[TrainerSupervisor, Listener],
) -> None:
    made, _ = trainer
    made.replan(plan("second"))
    made.replan(plan("third"))
    await until(lambda: len(Process.made) == 2)
    await asyncio.sleep(0)
    assert [cast(Any, process.plan).name for process in Process.made] == ["first", "third"]


async def test_data_that_do_not_fit_a_campaign_leave_the_peer_a_relay_until_they_do(
    trainer: tuple[TrainerSupervisor, Listener],
) -> None:
    made, _ = trainer
    commands: list[Any] = []
    failed: list[Any] = []
    activity = Activity(lambda: 0.0)
    rest = dict.fromkeys(("final_models", "looks", "measuring", "note", "course"))
    answers = TrainerAnswers(activity=activity, command=commands.append, fail=failed.append, **cast(Any, rest))
    made._listener = cast(Any, answers)
    made.replan(plan("second"))
    await until(lambda: len(Process.made) == 2)
    Process.made[1].say(session.Failed("data", "no column 'hERG'"))
    assert made.state is TrainerState.FAILED
    assert (failed, commands) == ([], [Unready("no column 'hERG'")])
    assert activity.stands(NOT_TRAINING)
    made.replan(plan("third"))
    await until(lambda: len(Process.made) == 3)
    # Of the first plan of all there is nothing to go back to.
    answers.trainer_unusable("data", "no file", planned_anew=False)
    assert [str(error) for error in failed] == ["no file"]


class Trainer:
    state = TrainerState.IDLE

    def __init__(self) -> None:
        self.plans: list[Any] = []

    def replan(self, plan: Any) -> None:
        self.plans.append(plan)


class AnySite(SimpleNamespace):
    """The part of a site that is followed."""


def test_the_settings_are_read_when_assay_endpoints_come_and_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    told: list[dict[str, Any]] = []
    fresh = SimpleNamespace(data=SimpleNamespace(columns={"logD": 1, "hERG": 2}))
    monkeypatch.setattr(following, "replace", lambda site, config: AnySite(**{**vars(site), "config": config}))
    monkeypatch.setattr(following, "reloaded", lambda config, path, endpoints: fresh)
    monkeypatch.setattr(following, "trainer_plan", lambda site, seed: site.config.data)
    monkeypatch.setattr(following, "own_seed", lambda site: 1)
    monkeypatch.setattr(following.log, "warning", lambda what, **facts: told.append(facts))
    trainer = Trainer()
    followed = DataFollowed(tmp_path / "site.toml", cast(Any, trainer), asked.append)
    before = SimpleNamespace(data=SimpleNamespace(columns={"logD": 1}))

    def site(endpoints: AssayEndpoints) -> Any:
        return AnySite(config=before, assay_endpoints=endpoints, amended=lambda constitution: site(constitution.of))

    def constitution(of: AssayEndpoints) -> Any:
        return SimpleNamespace(of=of, campaign=SimpleNamespace(number=2))

    same = followed.amended(site(FIRST), constitution(FIRST))
    assert (same.config, asked, trainer.plans) == (before, [], [])
    found = followed.amended(site(FIRST), constitution(SECOND))
    assert trainer.plans == [fresh.data]
    assert asked == [Unready("campaign 2 has other assay endpoints: the data are read anew")]
    assert told == []
    # Nothing is new: nothing is read anew, but where the trainer had given up.
    followed.reread(found)
    assert len(trainer.plans) == 1
    trainer.state = TrainerState.FAILED
    followed.reread(found)
    assert len(trainer.plans) == 2
    fresh.data.columns.pop("hERG")
    followed.tell(found)
    assert told == [{"names": ["hERG"], "remedy": following.MAP_THEM}]
