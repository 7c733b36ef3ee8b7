"""Several processes that train one network, against one process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.optimise import LocalOptimiser
from kmel_p2p.learn.train.ranks import TrainerGroup, joined
from tests.support.follower import follow_alone
from tests.support.learn_fixtures import SETTINGS, architecture, dataset

STEPS = 50
DEADLINE_S = 60.0


class Follower:
    """One further rank, in a process of its own."""

    def __init__(self, store: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.process: BaseProcess = context.Process(target=follow_alone, args=(str(store),))
        self.process.start()

    def exit_code(self) -> int | None:
        self.process.join(DEADLINE_S)
        return self.process.exitcode


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TrainerGroup, Follower]]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    follower = Follower(tmp_path / "ranks")
    try:
        with joined(True, str(tmp_path / "ranks"), 0, 2) as group:
            yield group, follower
    finally:
        if follower.exit_code() is None:
            follower.process.kill()
            follower.process.join()


def optimiser(shape: Architecture, data: Any) -> LocalOptimiser:
    network = Network(shape)
    start_local(network, shape, 3, 4)
    return LocalOptimiser(network, data, SETTINGS)


def values(of: LocalOptimiser) -> np.ndarray:
    return np.concatenate([of.network.trunk_values(), of.network.private_values()])


def alone(run: Callable[[LocalOptimiser], Any], shape: Architecture, data: Any) -> tuple[np.ndarray, Any]:
    made = optimiser(shape, data)
    found = run(made)
    return values(made), found


def test_two_processes_train_the_model_of_one(alone_first: Any, pair: tuple[TrainerGroup, Follower]) -> None:
    group, follower = pair
    for name, (shape, data, run, expected, told) in alone_first.items():
        made = optimiser(shape, data)
        found = run(made)
        assert values(made) == pytest.approx(expected, abs=1e-5), name
        assert found == pytest.approx(told, rel=1e-4), name
        assert np.abs(values(made) - values(optimiser(shape, data))).max() > 1e-2, "nothing was trained"
    group.end()
    assert follower.exit_code() == 0


@pytest.fixture
def alone_first() -> dict[str, Any]:
    """What one process makes of each case, before there are two."""
    assert not dist.is_initialized()
    whole = architecture()
    odd = SETTINGS.batch_size + 1

    def straight(made: LocalOptimiser) -> float:
        return made.train(STEPS, 0.7)

    def interrupted(made: LocalOptimiser) -> float:
        """A round that is trained, abandoned and trained again from a trunk that somebody else changed."""
        before = made.state()
        made.train(7, 1.0)
        made.restore(before)
        made.network.load(made.network.trunk_values() * np.float32(0.9))
        for _ in range(20):
            made.train(1, 0.5)
        made.use(SETTINGS.changed(learning_rate=1e-3, weight_decay=0.0))
        made.forget()
        return made.train(STEPS - 20, 1.0)

    cases: dict[str, Any] = {
        "dropout, missing labels, bounds, a class": (whole, dataset(), straight),
        "an ensemble": (whole.changed(members=3), dataset(), straight),
        "fewer compounds than a batch": (whole, dataset(rows=odd), straight),
        "changed from outside": (whole, dataset(seed=1), interrupted),
    }
    return {name: (shape, data, run, *alone(run, shape, data)) for name, (shape, data, run) in cases.items()}


def test_a_lost_rank_is_an_error_of_the_leader(pair: tuple[TrainerGroup, Follower]) -> None:
    _, follower = pair
    made = optimiser(architecture(), dataset())
    made.train(2, 1.0)

    def kill() -> None:
        follower.process.kill()
        follower.process.join()

    with pytest.raises(LocalError, match="another process of this trainer is gone"):
        made.train(50, 1.0, kill)
    assert torch.isfinite(made.network.trunk).all()
