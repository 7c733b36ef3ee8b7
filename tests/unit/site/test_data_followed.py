"""What the trainer is told when assay endpoints come and go, and when `[data]` is another one: while the peer runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast
from unittest.mock import Mock

import numpy as np
import pytest

from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.chem.dataset.refresh import file_stamps
from kmel_p2p.core.rounds import RoundAbandoned, RoundOpened, Unready
from kmel_p2p.learn.worker import session
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.trainer import following, supervisor
from kmel_p2p.site.trainer.answers import NOT_TRAINING, TrainerAnswers
from kmel_p2p.site.trainer.following import NOT_TAKEN_OVER, DataFollowed
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

    def die(self) -> None:
        self.pid = None
        self._on_exit(-9)

    async def stop(self, grace_s: float) -> None:
        # What was on its way still comes.
        self.say(session.Failed("bug", "ended"))
        await asyncio.sleep(0)
        self.pid = None
        self._on_exit(0)


class Listener:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.named: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def tell(*given: Any, **named: Any) -> None:
            self.told.append(name)
            self.named.append(named)

        return tell


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
    rest = {**dict.fromkeys(("final_models", "looks", "measuring", "note", "course")), "data": Mock()}
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
    answers.trainer_unusable("data", "no file", ended=True)
    assert [str(error) for error in failed] == ["no file"]


async def test_data_are_read_again_between_two_rounds_by_the_trainer_that_is_there(
    trainer: tuple[TrainerSupervisor, Listener],
) -> None:
    made, listener = trainer
    first, command = Process.made[0], session.Reload(cast(Any, "data.csv"))
    made.train(opened(4), fill)
    made.reload(plan("second"), command)
    await asyncio.sleep(0)
    first.say(trained(4))
    await asyncio.sleep(0)
    assert command not in first.sent
    made.commit(4)
    assert first.sent[-1] is command
    assert made.state is TrainerState.PREPARING
    # What is asked of it meanwhile waits for its answer; a look is not even asked.
    made.examine(session.Examine(Path("trunk"), ()))
    assert first.sent[-1] is command
    made.reload(plan("third"), command)
    await asyncio.sleep(0)
    assert first.sent.count(command) == 1
    first.say(session.Reloaded(prepared()))
    assert first.sent.count(command) == 2
    first.say(session.Reloaded(prepared(), "no column"))
    assert made.state is TrainerState.IDLE
    assert listener.told[-2:] == ["trainer_reloaded"] * 2
    assert len(Process.made) == 1


async def test_data_that_are_to_be_read_while_a_trainer_is_replaced_are_read_by_the_new_one(
    trainer: tuple[TrainerSupervisor, Listener],
) -> None:
    made, listener = trainer
    command = session.Reload(cast(Any, "data.csv"))
    made.replan(plan("second"))
    await asyncio.sleep(0)
    made.reload(plan("third"), command)
    await until(lambda: len(Process.made) == 2)
    Process.made[1].say(prepared())
    assert Process.made[1].sent[-1] is command
    Process.made[1].say(session.Reloaded(prepared()))
    assert listener.told[-1] == "trainer_reloaded"


async def test_models_being_made_are_made_from_the_data_they_began_with(
    trainer: tuple[TrainerSupervisor, Listener],
) -> None:
    made, _ = trainer
    first, command = Process.made[0], session.Reload(cast(Any, "data.csv"))
    made.finish(10, 3, {}, fill)
    made.reload(plan("second"), command)
    await asyncio.sleep(0)
    assert command not in first.sent
    first.say(session.Finished())
    assert first.sent[-1] is command


async def test_a_trainer_that_dies_over_new_data_is_followed_by_one_that_reads_them_at_its_start(
    trainer: tuple[TrainerSupervisor, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, listener = trainer
    monkeypatch.setattr(made, "_backoff_s", 0.0)
    made.reload(plan("second"), session.Reload(cast(Any, "data.csv")))
    await until(lambda: made.state is TrainerState.PREPARING)
    Process.made[0].die()
    await until(lambda: len(Process.made) == 2)
    assert cast(Any, Process.made[1].plan).name == "second"
    # The peer goes on as a relay: it could train before.
    Process.made[1].say(session.Failed("data", "data.csv: line 3"))
    assert made.state is TrainerState.FAILED
    assert listener.told[-2:] == ["trainer_lost", "trainer_unusable"]
    assert listener.named[-1] == {"ended": False}


class Trainer:
    state = TrainerState.IDLE
    started = True

    def __init__(self) -> None:
        self.plans: list[Any] = []
        self.reloads: list[session.Reload] = []

    def replan(self, plan: Any) -> None:
        self.plans.append(plan)

    def reload(self, plan: Any, command: session.Reload) -> None:
        self.reloads.append(command)


class AnySite(SimpleNamespace):
    """The part of a site that is followed."""


class Bench:
    """`DataFollowed` with the settings that a test says are in the file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.asked: list[Any] = []
        self.told: list[dict[str, Any]] = []
        self.trainer = Trainer()
        self.activity = Activity(lambda: 0.0)
        self.fresh: Any = SimpleNamespace(data=self.data(logD=1, hERG=2))
        monkeypatch.setattr(following, "replace", lambda site, config: AnySite(**{**vars(site), "config": config}))
        monkeypatch.setattr(following, "reloaded", lambda config, path, endpoints: self._settings())
        monkeypatch.setattr(following, "trainer_plan", lambda site, seed: site.config.data)
        monkeypatch.setattr(following, "own_seed", lambda site: 1)
        monkeypatch.setattr(following.log, "warning", lambda what, **facts: self.told.append(facts))
        self.followed = DataFollowed(folder / "site.toml", cast(Any, self.trainer), self.asked.append, self.activity)

    def data(self, **columns: int) -> Any:
        path = self.folder / "data.csv"
        if not path.exists():
            path.touch()
        source = Source(path=path, smiles_column="smiles", columns={"logD": Column(column="D")})
        return SimpleNamespace(
            columns=columns, source=source, path=path, test_source=None, test_in_rounds=False, require_approval=True,
            embargo=source.embargo, structures=None, assays=None,
        )  # fmt: skip

    def _settings(self) -> Any:
        if isinstance(self.fresh, Exception):
            raise self.fresh
        return self.fresh

    def site(self, endpoints: AssayEndpoints, campaign: int = 1) -> Any:
        return AnySite(
            config=SimpleNamespace(data=self.data(logD=1)),
            assay_endpoints=endpoints,
            constitution=SimpleNamespace(campaign=SimpleNamespace(number=campaign)),
            amended=lambda constitution: self.site(constitution.of, constitution.campaign.number),
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def constitution(of: AssayEndpoints, campaign: int) -> Any:
    return SimpleNamespace(of=of, campaign=SimpleNamespace(number=campaign))


def read(bench: Bench) -> Any:
    """What a trainer says that has read the files as they are."""
    found = object.__new__(session.Prepared)
    object.__setattr__(found, "files", file_stamps((cast(Any, bench.data()),)))
    return found


def test_the_settings_are_read_when_assay_endpoints_come_and_on_demand(bench: Bench) -> None:
    same = bench.followed.amended(bench.site(FIRST), constitution(FIRST, 1))
    assert (same.config.data.columns, bench.asked, bench.trainer.plans) == ({"logD": 1}, [], [])
    found = bench.followed.amended(bench.site(FIRST), constitution(SECOND, 2))
    assert bench.trainer.plans == [bench.fresh.data]
    assert bench.asked == [Unready("campaign 2 has other assay endpoints: the data are read anew")]
    assert bench.told == []
    bench.followed.reread(found)
    assert len(bench.trainer.plans) == 1
    assert [command.require_approval for command in bench.trainer.reloads] == [True]
    # A trainer that had given up is followed by another one.
    bench.trainer.state = TrainerState.FAILED
    bench.followed.reread(found)
    assert (len(bench.trainer.plans), len(bench.trainer.reloads)) == (2, 1)
    bench.fresh.data.columns.pop("hERG")
    bench.followed.tell(found)
    assert bench.told == [{"names": ["hERG"], "remedy": following.MAP_THEM}]


async def test_files_are_read_again_when_a_campaign_begins_and_they_have_changed(bench: Bench) -> None:
    followed, path = bench.followed, bench.folder / "data.csv"
    followed.prepared(read(bench))
    found = followed.amended(bench.site(FIRST), constitution(FIRST, 2))
    await looked(followed)
    assert (bench.asked, bench.trainer.reloads) == ([], [])
    path.write_text("new")
    found = followed.amended(found, constitution(FIRST, 3))
    await looked(followed)
    assert bench.asked == [Unready("campaign 3 begins with other data files: they are read anew")]
    assert [command.accept_removed for command in bench.trainer.reloads] == [False]
    # Refused: what is in use is not what the files say, so that the next campaign looks again.
    followed.reloaded(session.Reloaded(read(bench), "data.csv: line 1"))
    assert bench.activity.stands(NOT_TAKEN_OVER)
    assert (followed.newest.stage, followed.newest.refused) == ("refused", "data.csv: line 1")
    found = followed.amended(found, constitution(FIRST, 4))
    await looked(followed)
    assert len(bench.trainer.reloads) == 2
    followed.reloaded(session.Reloaded(read(bench)))
    assert not bench.activity.stands(NOT_TAKEN_OVER)
    followed.amended(found, constitution(FIRST, 5))
    await looked(followed)
    assert len(bench.trainer.reloads) == 2


async def looked(followed: DataFollowed) -> None:
    assert followed._look is not None
    await followed._look


def test_an_operator_hears_what_came_of_the_data(bench: Bench) -> None:
    followed = bench.followed
    site = followed.reread(bench.site(FIRST), accept_removed=True)
    assert bench.trainer.reloads[-1].accept_removed
    assert (followed.newest.number, followed.newest.stage) == (1, "waiting")
    changes = session.DataChanges({"logD": {"added": 1, "changed": 0, "removed": 0}}, {}, 3, Path("changes.csv"))
    followed.reloaded(session.Reloaded(read(bench), "", changes))
    assert followed.newest.stage == "done"
    assert followed.newest.changes is not None
    assert followed.newest.changes["path"] == "changes.csv"
    # A trainer that dies over it: the next one reads at its start.
    site = followed.reread(site)
    followed.lost()
    assert followed.newest.stage == "waiting"
    followed.prepared(read(bench))
    assert (followed.newest.number, followed.newest.stage) == (2, "done")
    followed.reread(site)
    followed.lost()
    followed.unusable("data.csv: line 3")
    assert (followed.newest.stage, followed.newest.refused) == ("refused", "data.csv: line 3")
    bench.fresh = ConfigError("site.toml: line 4")
    with pytest.raises(ConfigError, match="line 4"):
        followed.reread(site)
    assert followed.newest.number == 3


def test_a_peer_that_does_not_train_says_so(bench: Bench) -> None:
    bench.trainer.started = False
    with pytest.raises(LocalError, match="--no-training"):
        bench.followed.reread(bench.site(FIRST))
    bench.followed.amended(bench.site(FIRST), constitution(FIRST, 2))
    assert (bench.asked, bench.trainer.reloads, bench.followed._look) == ([], [], None)
