"""Curves in TensorBoard and MLflow, read back with their own tools; and trackers that fail."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kmel_p2p.learn.worker import tracking
from kmel_p2p.learn.worker.plan import TrackingPlan
from kmel_p2p.learn.worker.session import Trained
from kmel_p2p.learn.worker.tracking import RUN_FILE, Tracker, Tracking

LABELS = {"federation": "demo", "site": "north"}
DEADLINE_S = 60.0


def answer(number: int, score: float) -> Trained:
    scores = {"logd": {"valid": score}, "clint, human": {"valid": 2 * score}}
    return Trained(number, b"12345", 0.5, 20, f"round-{number}.safetensors", 0.25, scores, 1.5, 7)


def result() -> dict[str, Any]:
    scores = {"valid": 0.4, "test": 0.5}
    return {"endpoints": [{"name": "logd", "models": {"local": scores}, "predicted": {"test": float("nan")}}]}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded machines import slowly."""
    monkeypatch.setattr(tracking, "CLOSE_S", DEADLINE_S)
    monkeypatch.setattr(Tracker.close, "__defaults__", (DEADLINE_S,))


@pytest.mark.usefixtures("patient")
def test_tensorboard_shows_every_round(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for life in (1, 3):  # a trainer that is restarted goes on
        tracks = Tracking(TrackingPlan(tensorboard=tmp_path / "curves"), tmp_path, LABELS)
        tracks.trained(answer(life, 0.9))
        tracks.trained(answer(life + 1, 0.8))
        tracks.close()
    found = EventAccumulator(str(tmp_path / "curves"))
    found.Reload()
    curve = [(event.step, event.value) for event in found.Scalars("valid/logd")]
    assert curve == [(step, pytest.approx(value)) for step, value in ((1, 0.9), (2, 0.8), (3, 0.9), (4, 0.8))]
    assert {"round/train_loss", "round/norm", "round/payload_bytes", "round/seconds"} <= set(found.Tags()["scalars"])
    assert found.Scalars("round/payload_bytes")[0].value == 5


@pytest.mark.usefixtures("patient")
def test_an_mlflow_run_goes_on_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    plan = TrackingPlan(mlflow=str(tmp_path / "mlruns"))
    for life in (1, 2):
        tracks = Tracking(plan, tmp_path, LABELS)
        tracks.trained(answer(life, 1.0 / life))
        tracks.finished(life, result())
        tracks.close()
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("demo")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["kmel.site"] == "north"
    assert run.info.status == "FINISHED"
    curve = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "valid/logd")]
    assert curve == [(1, 1.0), (2, 0.5)]
    assert run.data.metrics["valid/clint_ human"] == 1.0
    assert run.data.metrics["final_test_local/logd"] == 0.5
    assert "final_test_predicted/logd" not in run.data.metrics, "not a number"
    client.delete_run(run.info.run_id)
    tracks = Tracking(plan, tmp_path, LABELS)
    tracks.trained(answer(3, 0.1))
    tracks.close()
    (another,) = client.search_runs([experiment.experiment_id])
    assert another.info.run_id != run.info.run_id
    assert another.info.run_id in (tmp_path / RUN_FILE).read_text()


class Flaky:
    """Curves that fail so often before they work."""

    def __init__(self, failures: int) -> None:
        self.failures, self.points = failures, list[tuple[int, Mapping[str, float]]]()
        self.tried = threading.Semaphore(0)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self.tried.release()
        if self.failures:
            self.failures -= 1
            raise OSError("no route to host")
        self.points.append((step, figures))

    def close(self) -> None:
        raise OSError("no route to host")


def test_what_could_not_be_written_is_tried_again_in_order() -> None:
    curves = Flaky(3)
    with capture_logs() as logs:
        tracker = Tracker("flaky", lambda: curves, retry_s=0.0)
        for step in range(5):
            tracker.take(step, {"a": 1.0, "b": float("inf")})
        for _ in range(3 + 5):
            assert curves.tried.acquire(timeout=DEADLINE_S)
        tracker.close(DEADLINE_S)
    assert curves.points == [(step, {"a": 1.0}) for step in range(5)]
    assert [entry["event"] for entry in logs] == [
        "curves are not written",
        "curves are written again",
        "curves are not written",
    ]


def test_a_tracker_that_never_answers_costs_only_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PENDING", 3)
    curves = Flaky(10**9)
    with capture_logs() as logs:
        tracker = Tracker("gone", lambda: curves)
        tracker.take(0, {})
        assert curves.tried.acquire(timeout=DEADLINE_S)
        for step in range(1, 10):
            tracker.take(step, {})
        tracker.close(DEADLINE_S)
    assert not curves.points
    assert logs[0]["event"] == "curves are not written"
    assert logs[-1] == {"event": "curves are lost", "tracker": "gone", "points": 10, "log_level": "warning"}


def test_a_tracker_that_hangs_holds_nobody_up() -> None:
    release = threading.Event()

    def opened() -> Any:
        release.wait(DEADLINE_S)
        raise OSError("too late")

    tracker = Tracker("hangs", opened)
    tracker.take(1, {})
    tracker.close(0.05)
    assert tracker._thread.is_alive()
    release.set()
    tracker.close(DEADLINE_S)
    assert not tracker._thread.is_alive()
