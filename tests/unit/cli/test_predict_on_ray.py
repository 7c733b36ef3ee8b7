"""predict --ray, with a client that runs tasks in this process: order, lost workers, a cluster that is gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.learn.predict import predict as predicting
from kmel_p2p.learn.predict import ray_cluster
from tests.support.cli_harness import Run
from tests.support.fake_ray import FakeRay, OutOfMemoryError, RayError, WorkerCrashedError
from tests.support.small_model import HERG, LOGS, write_small_model

ROWS = [f"{'C' * (n + 1)}O" if n != 4 else "bad((" for n in range(11)]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"), (LOGS, HERG))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(predicting, "BLOCK", 3)
    monkeypatch.setattr(ray_cluster, "_loaded", {})
    path = tmp_path / "in.csv"
    path.write_text("id,smiles\n" + "".join(f"{at},{smiles}\n" for at, smiles in enumerate(ROWS)))
    return path


@pytest.fixture
def expected(run: Run, model_dir: Path, source: Path) -> str:
    return str(run("predict", source, "--model-dir", model_dir).out)


SET = "RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def use(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> FakeRay:
    for name in (*SET, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # to be put back
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    return ray


def test_a_cluster_gives_the_same_file_in_order_and_holds_few_blocks(
    run: Run, model_dir: Path, source: Path, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = use(monkeypatch, FakeRay())
    done = run("predict", source, "-o", tmp_path / "out.csv", "--model-dir", model_dir, "--ray", "local")
    assert done.code == 0, done.err
    assert (tmp_path / "out.csv").read_text() == expected
    assert ray.handed_out == ray_cluster.FOR_EACH_CORE
    assert not ray.up
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0", "it listens on the loopback interface alone"
    assert (os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])) == ("token", 64)
    assert ray.started["include_dashboard"] is False
    assert ray.started["num_cpus"] == usable_cores()
    assert not Path(ray.started["_temp_dir"]).exists()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ray.task["max_retries"] == ray_cluster.RETRIES


def test_another_cluster_is_used_as_it_is(
    run: Run, model_dir: Path, source: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = use(monkeypatch, FakeRay(cores=100))
    assert run("predict", source, "--model-dir", model_dir, "--ray", "10.1.2.3:6379").out == expected
    assert ray.started["address"] == "10.1.2.3:6379"
    assert not {"num_cpus", "_temp_dir", "object_store_memory"} & ray.started.keys()


def test_blocks_whose_workers_are_lost_are_done_here_one_structure_at_a_time(
    run: Run, model_dir: Path, source: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolated: list[bool] = []
    predict_blocks = predicting.Model.predict_blocks

    def watched(self: predicting.Model, *given: Any, **named: Any) -> Any:
        isolated.append(bool(named.pop("isolated", False)))
        return predict_blocks(self, *given, **(named | {"workers": 1}))

    monkeypatch.setattr(predicting.Model, "predict_blocks", watched)
    use(monkeypatch, FakeRay(failing={1: WorkerCrashedError("killed"), 2: OutOfMemoryError("")}))
    done = run("predict", source, "--model-dir", model_dir, "--ray", "local")
    assert done.out == expected
    assert "the workers of 3 structures were lost (killed): they are done here" in done.err
    assert isolated == [False, True, True, False]


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ({2: RayError("the head is gone")}, "the Ray cluster local failed: the head is gone; --resume goes on"),
        ({}, "of the Ray cluster has kmel-p2p 0.0.1; install"),
    ],
)
def test_what_is_wrong_with_a_cluster_is_said_and_leaves_nothing(
    failing: dict[int, Exception],
    words: str,
    run: Run,
    model_dir: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = use(monkeypatch, FakeRay(failing=failing))
    if not failing:
        task = ray_cluster.predict_block
        monkeypatch.setattr(ray_cluster, "predict_block", lambda *given: on_an_old_node(monkeypatch, task, given))
    done = run("predict", source, "--model-dir", model_dir, "--ray", "local")
    assert done.code == ExitCode.CONFIG
    assert words in done.err
    assert ray.cancelled == 2
    assert not ray.up


def on_an_old_node(monkeypatch: pytest.MonkeyPatch, task: Any, given: tuple[Any, ...]) -> Any:
    with monkeypatch.context() as there:
        there.setattr(ray_cluster, "VERSION", "0.0.1")
        return task(*given)


def test_without_ray_it_says_what_to_install(
    run: Run, model_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    done = run("predict", source, "--model-dir", model_dir, "--ray", "local")
    assert done.code == ExitCode.CONFIG
    assert "pip install 'kmel-p2p[ray]'" in done.err
