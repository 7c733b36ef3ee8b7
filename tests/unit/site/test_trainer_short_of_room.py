"""A trainer that cannot write for lack of room ends and comes again; the peer stays a member."""

from __future__ import annotations

import errno
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kmel_p2p.files import write_whole
from kmel_p2p.learn.worker import process, session, trainer
from kmel_p2p.site.trainer.supervisor import TrainerState, TrainerSupervisor
from tests.support.net_peers import until


def without_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_lack_of_room_is_no_fault_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, plan: Any, outlet: Any) -> None: ...

        def handle(self, command: Any) -> None:
            write_whole(tmp_path / "round-7", b"state")

        def close(self) -> None: ...

    monkeypatch.setattr(trainer, "Trainer", Full)
    monkeypatch.setattr("kmel_p2p.files.os.fsync", without_room)
    ours, theirs = Pipe()
    ours.send(session.Prepare())
    assert process._serve(process.DaemonPipe(theirs), SimpleNamespace(nice=0)) == 1  # type: ignore[arg-type]
    answer = ours.recv()
    assert (answer.kind, "round-7: cannot be written" in answer.text) == ("room", True)
    theirs.close()
    ours.close()


def test_a_trainer_that_is_left_out_is_not_said_to_start() -> None:
    supervisor = object.__new__(TrainerSupervisor)
    supervisor.state = TrainerState.STARTING
    supervisor.leave_out()
    assert supervisor.state is TrainerState.STOPPED


async def test_it_is_started_again_and_the_operator_is_told_why() -> None:
    told: list[tuple[int | None, str, int]] = []
    launched: list[str] = []

    supervisor = object.__new__(TrainerSupervisor)
    supervisor._listener = SimpleNamespace(trainer_lost=lambda *given: told.append(given))  # type: ignore[assignment]
    supervisor.state, supervisor.restarts, supervisor._backoff_s, supervisor._lack = TrainerState.TRAINING, 0, 0.001, ""
    supervisor._round, supervisor._clock, supervisor._renewal, supervisor._limits = 7, lambda: 0.0, None, None

    async def launch() -> None:
        launched.append("again")

    supervisor._launch = launch  # type: ignore[method-assign]
    supervisor._on_answer(session.Failed("room", "round-7: cannot be written: No space left on device"))
    supervisor._on_exit(1)
    await until(lambda: launched == ["again"])
    assert told == [(7, "round-7: cannot be written: No space left on device", 1)]
    supervisor._on_exit(-9)
    assert told[1:] == [(None, "the trainer ended with signal 9", 2)]
    await until(lambda: len(launched) == 2)
