"""Blocks of structures described and predicted on a Ray cluster, in order, as one process would do them.

A task has one block, as a job of an array has one shard, and does with it what `Model.predict_blocks` does. The files
of the model travel with the tasks, so that the nodes need this program and no common disk. Ray does a block again whose
worker or node was lost; one that is lost `RETRIES` times more is done here, where a structure on which RDKit crashes
costs its row alone.

Ray's nodes trust one another and everybody who reaches them: structures and models are safe there only on a network of
the cluster's own. A local cluster listens on the loopback interface alone, asks for a secret, tells nobody that it
runs, and ends with this process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import secrets
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.version import VERSION

if TYPE_CHECKING:
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.values import Prediction

LOCAL = "local"
"""The address of a cluster of this machine's cores alone."""

RETRIES = 2
"""How often Ray does a block again whose worker was lost."""

FOR_EACH_CORE = 2
"""Blocks handed out for each core of the cluster, so that none waits for this process."""

LEAST_STORE_BYTES = 256 * 1024 * 1024
"""For what a local cluster hands between processes, beside four copies of the model."""

_loaded: dict[bytes, Model] = {}
"""The model that this worker predicts with, by the digest of its files."""


class RayCluster:
    """A cluster that this process is connected to, with one model.

    Args:
        ray: the package.
        address: of the cluster.
        loaded: the model, for blocks that are done here.
        files: name -> content of its files.
        tell: told in words of what was lost.
    """

    def __init__(
        self, ray: Any, address: str, loaded: Model, files: Mapping[str, bytes], tell: Callable[[str], None]
    ) -> None:
        self._ray, self._address, self._loaded, self._tell = ray, address, loaded, tell
        parts = [part for name in sorted(files) for part in (name.encode(), files[name])]
        self._digest = digest(b"kmel model files 1", *(len(part).to_bytes(8, "big") + part for part in parts))
        self._files = ray.put(dict(files))
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(predict_block)

    def predict_blocks(
        self,
        blocks: Iterable[Sequence[str]],
        *,
        model: str | None,
        level: float,
        done: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Prediction]]:
        """As `Model.predict_blocks`, in order.

        Raises:
            ConfigError: the cluster is gone, or has another version of this program; as `Model.predict_blocks`.
        """
        waiting: deque[tuple[Any, Sequence[str]]] = deque()
        try:
            for block in blocks:
                # The files in a list: Ray would read them anew for every task if they were an argument themselves.
                given = ([self._files], self._digest, VERSION, list(block), model, level)
                waiting.append((self._task.remote(*given), block))
                if len(waiting) >= FOR_EACH_CORE * self._cores():
                    yield self._next(waiting, model, level, done)
            while waiting:
                yield self._next(waiting, model, level, done)
        finally:
            for task, _ in waiting:
                with contextlib.suppress(Exception):
                    self._ray.cancel(task, force=True)

    def _cores(self) -> int:
        """Of the cluster now: nodes come and go."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _next(
        self,
        waiting: deque[tuple[Any, Sequence[str]]],
        model: str | None,
        level: float,
        done: Callable[[int], None],
    ) -> list[Prediction]:
        errors = self._ray.exceptions
        task, block = waiting[0]
        try:
            found: list[Prediction] = self._ray.get(task)
        except errors.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except (
            errors.WorkerCrashedError,
            errors.OutOfMemoryError,
            errors.NodeDiedError,
            errors.ObjectLostError,
        ) as lost:
            reason = str(lost).strip().splitlines()[0] if str(lost).strip() else type(lost).__name__
            self._tell(f"the workers of {len(block)} structures were lost ({reason}): they are done here")
            (found,) = self._loaded.predict_blocks(
                [block], model=model, level=level, workers=usable_cores(), isolated=True
            )
        except errors.RayError as error:
            raise ConfigError(f"the Ray cluster {self._address} failed: {error}; --resume goes on") from error
        waiting.popleft()
        done(len(set(block)))
        return found


def predict_block(
    files: Sequence[Any], model_digest: bytes, version: str, block: Sequence[str], model: str | None, level: float
) -> list[Prediction]:
    """What a worker does with a block.

    Args:
        files: one reference to name -> content of the model's files.
        model_digest: of these.
        version: of the program that asks.

    Raises:
        ConfigError: this node has another version of it, or computes other features than the model was made with.
    """
    if version != VERSION:
        raise ConfigError(f"node {platform.node()} of the Ray cluster has kmel-p2p {VERSION}; install {version} there")
    if model_digest not in _loaded:
        from kmel_p2p.learn.predict.predict import load_model

        content: dict[str, bytes] = _required_ray().get(files[0])
        with tempfile.TemporaryDirectory(prefix="kmel-model-") as folder:
            for name, data in content.items():
                (Path(folder) / name).write_bytes(data)
            loaded = load_model(Path(folder))
        _loaded.clear()
        _loaded[model_digest] = loaded
    (found,) = _loaded[model_digest].predict_blocks([block], model=model, level=level, workers=1)
    return found


@contextlib.contextmanager
def connected(address: str, folder: Path, loaded: Model, tell: Callable[[str], None]) -> Iterator[RayCluster]:
    """A cluster that predicts with a model directory.

    Args:
        address: as `ray.init` takes it, such as HOST:6379 or auto; `LOCAL` starts one of this machine's cores.
        folder: the model directory.
        loaded: what was loaded from it.
        tell: told in words of what was lost.

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached or started.
    """
    files = {path.name: path.read_bytes() for kind in ("*.json", "*.safetensors") for path in folder.glob(kind)}
    with ray_at(address, LEAST_STORE_BYTES + 4 * sum(map(len, files.values()))) as ray:
        yield RayCluster(ray, address, loaded, files, tell)


@contextlib.contextmanager
def ray_at(address: str, store_bytes: int) -> Iterator[Any]:
    """The package `ray`, connected to the cluster at an address.

    Args:
        address: as for `connected`.
        store_bytes: of memory that the processes of a local cluster share.

    Raises:
        ConfigError: as `connected`.
    """
    if address == LOCAL:
        # Read when Ray is imported: without it, a machine's address in its network is taken, and everybody is heard.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # Other users of this machine reach the loopback interface, too.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = _required_ray()
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"address": address}
        if address == LOCAL:
            # What Ray writes to disk when memory is short are structures; nobody else is to read them.
            folder = tempfile.TemporaryDirectory(prefix="kmel-ray-", ignore_cleanup_errors=True)
            options |= {
                "num_cpus": usable_cores(),
                "object_store_memory": store_bytes,
                "include_dashboard": False,
                "_temp_dir": stack.enter_context(folder),
            }
        try:
            ray.init(**options, log_to_driver=False, configure_logging=False, logging_level="error")
        except Exception as error:
            raise ConfigError(f"--ray {address}: no Ray cluster there, or it cannot be used: {error}") from error
        stack.callback(ray.shutdown)
        yield ray


def _required_ray() -> Any:
    # Ray reports its use to its makers where nobody says no, and must not hide a GPU from this process.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ConfigError("Ray is not installed; install it with: pip install 'kmel-p2p[ray]'") from None
