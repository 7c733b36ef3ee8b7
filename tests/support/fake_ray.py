"""As much of Ray as `learn.predict.ray_cluster` uses: tasks run when they are asked for, in this process."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class RayError(Exception): ...


class RayTaskError(RayError):
    """Something that a task raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class WorkerCrashedError(RayError): ...


class OutOfMemoryError(RayError): ...


class NodeDiedError(RayError): ...


class ObjectLostError(RayError): ...


class FakeRay:
    """See the module docstring.

    Attributes:
        started: what `init` was given.
        task: what `remote` was given.
        failing: number of a task, from 0 -> what asking for it raises.
        handed_out: most tasks that waited at a time.
        cancelled: how many were given up.
        up: whether it was started and not shut down.
    """

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        WorkerCrashedError=WorkerCrashedError,
        OutOfMemoryError=OutOfMemoryError,
        NodeDiedError=NodeDiedError,
        ObjectLostError=ObjectLostError,
    )

    def __init__(self, cores: int = 1, failing: dict[int, Exception] | None = None) -> None:
        self.started: dict[str, Any] = {}
        self.task: dict[str, Any] = {}
        self.failing = failing or {}
        self.handed_out = self.cancelled = self._waiting = self._tasks = 0
        self.up = False
        self._cores = cores

    def init(self, **options: Any) -> None:
        self.started = options
        self.up = True

    def shutdown(self) -> None:
        self.up = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self._cores)}

    def put(self, value: object) -> Callable[[], object]:
        return lambda: value

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.task = options
        return lambda function: SimpleNamespace(remote=lambda *given: self._begin(function, given))

    def _begin(self, function: Callable[..., Any], given: tuple[Any, ...]) -> Callable[[], Any]:
        number, self._tasks, self._waiting = self._tasks, self._tasks + 1, self._waiting + 1
        self.handed_out = max(self.handed_out, self._waiting)

        def run() -> Any:
            self._waiting -= 1
            if number in self.failing:
                raise self.failing[number]
            try:
                return function(*given)
            except Exception as error:
                raise RayTaskError(error) from error

        return run

    def get(self, task: Callable[[], Any]) -> Any:
        return task()

    def cancel(self, task: Callable[[], Any], force: bool = False) -> None:
        self.cancelled += 1
