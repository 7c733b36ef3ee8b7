"""The trainer as a real process: its protocol, its end, and that it never outlives its daemon."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.tensor_file import write_vector
from kmel_p2p.learn.worker import launch
from kmel_p2p.learn.worker import process as worker
from kmel_p2p.learn.worker.plan import TrainerPlan, TrainingSettings
from kmel_p2p.learn.worker.session import (
    Abandon,
    Commit,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    Progress,
    Stop,
    Train,
    Trained,
)

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

POLICY = FeatureRule(bits=64)
SHAPE = Architecture(
    inputs=POLICY.width, hidden=(16, 8), endpoints=(AssayEndpoint(name="logd", head="shared", scale=2.0),), dropout=0.1
)
LAYOUT = trunk_layout(SHAPE)
DEADLINE_S = 180.0


class Daemon:
    """The other end of the trainer's pipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = SharedMemory(create=True, size=LAYOUT.size * 4)
        self.trunk: Any = np.ndarray((LAYOUT.size,), np.float32, buffer=self.memory.buf)
        self.trunk[:] = initial_trunk(LAYOUT, 1)
        self.connection: Connection
        self.process: BaseProcess
        self.stages: list[str] = []

    def plan(self, resume: str | None = None, **changes: Any) -> TrainerPlan:
        source = Source(path=self.folder / "data.csv", smiles_column="smiles", columns={"logd": Column(column="D")})
        settings: dict[str, Any] = {
            "architecture": SHAPE,
            "features": POLICY,
            "model_seed": 1,
            "source": source,
            "test_source": None,
            "split": SplitRule(fold_key="key", valid_fraction=0.2, test_fraction=0.2),
            "training": TrainingSettings(
                batch_size=16, learning_rate=1e-3, weight_decay=0.01, seed=7, entry_limit=10, steps_per_entry=3
            ),
            "codec": CodecParameters(chunk=64, kept=4),
            "layout_hash": LAYOUT.hash,
            "reference_hash": "",
            "trunk_memory": self.memory.name,
            "state_dir": self.folder / "state",
            "resume_file": resume,
            "threads": 1,
            "featurise_processes": 1,
        }
        return TrainerPlan(**{**settings, **changes})

    def start(self, plan: TrainerPlan, entry: Callable[..., None] = worker.main) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=entry, args=(theirs, plan))
        self.process.start()
        theirs.close()

    def ask(self, command: object) -> Any:
        self.connection.send(command)
        return self.answer()

    def answer(self) -> Any:
        """Next answer that is no progress."""
        while True:
            assert self.connection.poll(DEADLINE_S), "no answer in time"
            message = self.connection.recv()
            if not isinstance(message, Progress):
                return message
            self.stages.append(message.stage)

    def exit_code(self) -> int | None:
        self.process.join(DEADLINE_S)
        return self.process.exitcode

    def close(self) -> None:
        self.connection.close()
        if self.exit_code() is None:
            self.process.kill()
            self.process.join()
        del self.trunk
        self.memory.close()
        self.memory.unlink()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    rows = [f"{'C' * n}{end},{0.4 * n - 1:.2f}" for n in range(1, 16) for end in ("O", "N", "c1ccccc1", "C(=O)O")]
    (tmp_path / "data.csv").write_text("smiles,D\n" + "\n".join(rows) + "\nbad(,1\nOC,0.1\n")
    made = Daemon(tmp_path)
    yield made
    made.close()


def test_a_whole_run_with_a_crash_in_the_middle(daemon: Daemon, tmp_path: Path) -> None:
    daemon.start(daemon.plan())
    prepared = daemon.ask(Prepare())
    assert isinstance(prepared, Prepared), prepared
    assert (prepared.rows_in, prepared.rejected, prepared.aggregated) == (62, 1, 1)
    assert prepared.train_rows + prepared.valid_rows + prepared.test_rows == prepared.used == 60
    assert prepared.size_class == prepared.train_rows.bit_length()
    assert prepared.rejects_path.read_text().count("\n") == 2
    assert {"reading", "structures"} <= set(daemon.stages)

    codec = DeltaCodec(LAYOUT, CodecParameters(chunk=64, kept=4))
    for number in (1, 2):
        trained = daemon.ask(Train(number, 3))
        assert isinstance(trained, Trained), trained
        assert trained.state_file == f"round-{number}.safetensors"
        assert trained.norm > 0
        daemon.connection.send(Commit(number))
        daemon.trunk += codec.decode(trained.payload).dense(LAYOUT.size)
    expected = daemon.ask(Train(3, 3))
    daemon.connection.send(Abandon(3))
    assert daemon.ask(Train(3, 3)).payload == expected.payload

    daemon.process.kill()
    daemon.exit_code()
    daemon.connection.close()
    daemon.start(daemon.plan("round-2.safetensors"))
    again = daemon.ask(Prepare())
    assert again.dataset_hash == prepared.dataset_hash
    assert daemon.ask(Train(3, 3)).payload == expected.payload
    daemon.connection.send(Commit(3))

    write_vector(tmp_path / "others-trunk.f32", daemon.trunk)
    finished = daemon.ask(Finish(total_steps=9, entries=3, others_file=tmp_path / "others-trunk.f32"))
    assert isinstance(finished, Finished), finished
    assert len(finished.result["history"]["federated"]) == 4
    assert (finished.model_dir / "card.json").exists()
    daemon.connection.send(Stop())
    assert daemon.exit_code() == 0


@pytest.mark.parametrize("how", ["pipe closed", "SIGTERM", "stop"])
def test_the_trainer_ends_in_the_middle_of_a_round(daemon: Daemon, how: str) -> None:
    daemon.start(daemon.plan())
    daemon.ask(Prepare())
    daemon.connection.send(Train(1, 100_000))
    while True:
        assert daemon.connection.poll(DEADLINE_S)
        if daemon.connection.recv().stage == "training":
            break
    assert daemon.process.pid is not None
    os.kill(daemon.process.pid, signal.SIGINT)  # Ctrl-C in the daemon's terminal is not the trainer's business
    assert daemon.connection.poll(DEADLINE_S)
    if how == "pipe closed":
        daemon.connection.close()
    elif how == "SIGTERM":
        os.kill(daemon.process.pid, signal.SIGTERM)
    else:
        daemon.connection.send(Stop())
    assert daemon.exit_code() == 0


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"reference_hash": "ab" * 32}, "config", "computes different features"),
        ({"layout_hash": b"\0" * 32}, "bug", "layout"),
        ({"resume_file": "round-9.safetensors"}, "config", "round-9"),
        (
            {"split": SplitRule(fold_key="", valid_fraction=0.0, test_fraction=0.999999)},
            "data",
            "no compound is left to train on",
        ),
    ],
)
def test_failures_say_whose_they_are(daemon: Daemon, changes: dict[str, Any], kind: str, text: str) -> None:
    daemon.start(daemon.plan(**changes))
    failed = daemon.ask(Prepare())
    assert isinstance(failed, Failed), failed
    assert failed.kind == kind
    assert text in failed.text
    assert daemon.exit_code() == 1


ORPHAN = """
import multiprocessing, sys, time
from kmel_p2p.chem.structures.parallel import end_with_parent

def child():
    end_with_parent()
    time.sleep(1000)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    print(process.pid, flush=True)
    time.sleep(1000)
"""


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(ORPHAN)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        deadline = time.monotonic() + DEADLINE_S
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "the child outlived its parent"
            time.sleep(0.02)


def test_a_trainer_of_two_processes_starts_anew_when_one_is_killed(daemon: Daemon) -> None:
    two: dict[str, Any] = {"processes": 2, "device": "cpu"}
    daemon.start(daemon.plan(**two), launch.main)
    assert isinstance(daemon.ask(Prepare()), Prepared)
    first = daemon.ask(Train(1, 3))
    assert isinstance(first, Trained), first
    daemon.connection.send(Commit(1))
    daemon.connection.send(Train(2, 100_000))
    while True:
        assert daemon.connection.poll(DEADLINE_S)
        if daemon.connection.recv().stage == "training":
            break
    agent = psutil.Process(daemon.process.pid)
    ranks = [child for child in agent.children() if "spawn_main" in " ".join(child.cmdline())]
    follower = max(ranks, key=lambda each: each.pid)
    everybody = [agent, *agent.children(recursive=True)]
    follower.kill()
    assert daemon.exit_code() == 1
    _, left = psutil.wait_procs(everybody, DEADLINE_S)
    assert not left
    assert not (daemon.folder / "state" / "trainer" / launch.FOLDER).exists()
    daemon.connection.close()

    daemon.start(daemon.plan("round-1.safetensors", **two), launch.main)
    daemon.ask(Prepare())
    assert isinstance(daemon.ask(Train(2, 3)), Trained)
    everybody = psutil.Process(daemon.process.pid).children(recursive=True)
    assert len(everybody) >= 2
    daemon.connection.close()
    assert daemon.exit_code() == 0
    _, left = psutil.wait_procs(everybody, DEADLINE_S)
    assert not left


def test_all_processes_of_a_trainer_end_with_their_daemon(daemon: Daemon) -> None:
    daemon.start(daemon.plan(processes=2), launch.main)
    assert isinstance(daemon.ask(Prepare()), Prepared)
    everybody = psutil.Process(daemon.process.pid).children(recursive=True)
    assert len(everybody) >= 2
    daemon.process.kill()
    _, left = psutil.wait_procs(everybody, DEADLINE_S)
    assert not left
