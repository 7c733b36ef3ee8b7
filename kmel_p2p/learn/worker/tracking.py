"""A site's curves in TensorBoard and MLflow (`[tracking]` in site.toml, extra `tracking`).

Each tracker has a thread of its own in the trainer process: a server that does not answer, a full disk or a missing
package costs curves, never a round. What cannot be written is tried again; what does not fit into memory any more is
counted, and the operator reads of both in the log.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import structlog

from kmel_p2p.files import BY_UMASK, write_whole
from kmel_p2p.learn.worker.plan import TrackingPlan
from kmel_p2p.learn.worker.session import Trained

PENDING = 1000
"""Points that wait for a tracker that does not take them; older ones are given up."""

RETRY_S = 60.0
CLOSE_S = 1.0
"""A trainer that ends waits so long for each of its trackers; its daemon waits for three seconds."""

RUN_FILE = "mlflow-run"
"""In the trainer's folder: server and run that a later trainer of this site goes on with."""

HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Of MLflow's own; `RETRY_S` is ours."""

log = structlog.get_logger()

Point: TypeAlias = tuple[int, Mapping[str, float]]
"""Step (the number of the entry) and figures by name."""


class Curves(Protocol):
    """Something that takes points."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write one point; may take its time, and may raise whatever it likes."""

    def close(self) -> None:
        """There are no more."""


class Tracker:
    """One tracker and its thread.

    Args:
        name: for the log.
        opened: makes the curves, in the thread; called again after a failure.
    """

    def __init__(self, name: str, opened: Callable[[], Curves], retry_s: float = RETRY_S) -> None:
        self._name, self._opened, self._retry_s = name, opened, retry_s
        self._points: deque[Point] = deque()
        self._given_up = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"curves-{name}", daemon=True)
        self._thread.start()

    def take(self, step: int, figures: Mapping[str, float]) -> None:
        """Have a point written; returns at once."""
        with self._changed:
            if len(self._points) == PENDING:
                self._points.popleft()
                self._given_up += 1
            self._points.append((step, {name: value for name, value in figures.items() if math.isfinite(value)}))
            self._changed.notify()

    def close(self, wait_s: float = CLOSE_S) -> None:
        """Write what waits, unless it takes longer."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(wait_s)

    def _run(self) -> None:
        curves: Curves | None = None
        failing = False
        while True:
            with self._changed:
                while not self._points and not self._closing:
                    self._changed.wait()
                if not self._points:
                    break
                point, given_up = self._points[0], self._given_up
            try:
                curves = curves or self._opened()
                curves.write(*point)
            except Exception as error:
                if not failing:
                    log.warning("curves are not written", tracker=self._name, reason=f"{error!r:.300}")
                if curves is not None:
                    with contextlib.suppress(Exception):
                        curves.close()
                failing, curves = True, None
                with self._changed:
                    if self._closing:
                        log.warning("curves are lost", tracker=self._name, points=len(self._points) + given_up)
                        return
                    self._changed.wait_for(lambda: self._closing, self._retry_s)
                continue
            if failing:
                log.info("curves are written again", tracker=self._name, points_lost=given_up)
            with self._changed:
                failing, self._given_up = False, self._given_up - given_up
                # Meanwhile it may have been given up itself.
                if self._points and self._points[0] is point:
                    self._points.popleft()
        if curves is not None:
            try:
                curves.close()
            except Exception as error:
                log.warning("curves are not written", tracker=self._name, reason=f"{error!r:.300}")


class Tracking:
    """All trackers of a site. Without any, every method does nothing.

    Args:
        folder: the trainer's, for `RUN_FILE`.
        labels: facts about the run: federation, charter and site.
    """

    def __init__(self, plan: TrackingPlan, folder: Path, labels: Mapping[str, str]) -> None:
        self._trackers = []
        if plan.tensorboard is not None:
            where = plan.tensorboard
            self._trackers.append(Tracker("tensorboard", lambda: TensorBoardCurves(where)))
        if plan.mlflow:
            name = plan.experiment or labels.get("federation", "") or "kmel"
            self._trackers.append(Tracker("mlflow", lambda: MlflowCurves(plan.mlflow, name, folder / RUN_FILE, labels)))

    def trained(self, answer: Trained) -> None:
        """A round: its loss, its size, and the scores of the trunk that it started from."""
        figures = {
            "round/train_loss": answer.train_loss,
            "round/norm": answer.norm,
            "round/payload_bytes": float(len(answer.payload)),
            "round/seconds": answer.seconds,
        }
        for endpoint, folds in answer.scores.items():
            figures |= {f"{fold}/{endpoint}": score for fold, score in folds.items()}
        self._take(answer.round, figures)

    def finished(self, entries: int, result: Mapping[str, Any]) -> None:
        """The comparison at the end: scores of each model, and of what the site predicts with."""
        figures: dict[str, float] = {}
        for told in result.get("endpoints", ()):
            for model, scores in {**told.get("models", {}), "predicted": told.get("predicted", {})}.items():
                figures |= {f"final_{fold}_{model}/{told['name']}": score for fold, score in scores.items()}
        self._take(entries, figures)

    def close(self) -> None:
        """Let the trackers write what waits."""
        for tracker in self._trackers:
            tracker.close()

    def _take(self, step: int, figures: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.take(step, figures)


class TensorBoardCurves:
    """Event files in a folder; each life of the trainer adds one."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MlflowCurves:
    """A run of an MLflow experiment, at a server or in a folder; it goes on over restarts.

    Args:
        where: what the operator gave.
        run_file: remembers the run.
    """

    def __init__(self, where: str, experiment: str, run_file: Path, labels: Mapping[str, str]) -> None:
        # Nothing leaves for anybody whom the operator did not name.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
        for name, value in HTTP.items():
            os.environ.setdefault(name, value)
        if "://" not in where:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
            where = Path(where).as_uri()
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=where)
        self._run = self._resumed(f"{where}\n{experiment}\n", run_file) or self._begun(experiment, labels)
        write_whole(run_file, f"{where}\n{experiment}\n{self._run}".encode(), mode=BY_UMASK)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            # MLflow allows fewer characters in a name than a charter does.
            self._client.log_metric(self._run, re.sub(r"[^\w\-. /]", "_", name), value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)

    def _resumed(self, of: str, run_file: Path) -> str:
        """The run that an earlier trainer began, if the server still has it; else nothing."""
        from mlflow.exceptions import MlflowException

        try:
            text = run_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return ""
        if not text.startswith(of):
            return ""
        run = text.removeprefix(of)
        try:
            if self._client.get_run(run).info.lifecycle_stage != "active":
                return ""
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        self._client.update_run(run, status="RUNNING")
        return run

    def _begun(self, experiment: str, labels: Mapping[str, str]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found is not None else self._client.create_experiment(experiment)
        tags = {f"kmel.{key}": value for key, value in labels.items()}
        return str(self._client.create_run(number, tags=tags, run_name=labels.get("site", "")).info.run_id)
