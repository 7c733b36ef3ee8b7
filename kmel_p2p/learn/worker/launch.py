"""A trainer in several processes, under torchrun's agent. Importing this module is cheap.

The process that the daemon started becomes the agent: it starts the ranks, and when one of them ends, it ends the
others and itself. To the daemon that is a trainer that died: the round is abandoned, and a new trainer starts from the
state of the last published entry. Rank 0 inherits the pipe and does all that a trainer does; the others take its steps
(`learn.train.ranks`).

Processes of one machine find each other through a file and talk through the loopback interface. Those of several
machines meet at `[resources] rendezvous`, an unauthenticated port of the daemon's machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.learn.worker import process
from kmel_p2p.learn.worker.plan import TrainerPlan
from kmel_p2p.learn.worker.process import be_a_trainer, be_nice, serve
from kmel_p2p.learn.worker.session import Failed

if TYPE_CHECKING:
    from kmel_p2p.learn.train.ranks import TrainerGroup

DeviceChoice = Literal["auto", "cpu", "cuda"]

FOLDER = "launch"
"""In the trainer's folder, of one life only: where the ranks find each other, and what torchrun writes."""

RUN_ID = "kmel"
"""What the ranks of several machines call their rendezvous (torchrun --rdzv-id)."""

END_S = 5
"""The agent waits so long for ranks that it asked to end."""


def entry_of(plan: TrainerPlan) -> Callable[[Connection, TrainerPlan], None]:
    """The entry point of this plan's trainer."""
    return main if plan.processes * plan.nodes > 1 else process.main


def main(connection: Connection, plan: TrainerPlan) -> None:
    """Entry point of the process, in place of `process.main`, where several processes train."""
    be_a_trainer()
    folder = plan.state_dir / "trainer" / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    try:
        code = _run(connection, dataclasses.replace(plan, threads=plan.threads or usable_cores()), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        connection.close()
    if code:
        sys.exit(code)


def _run(connection: Connection, plan: TrainerPlan, folder: Path) -> int:
    """Run the ranks until all have ended; returns the exit code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns of names that it cannot resolve, and of ends
    if plan.nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # a port that nobody here needs
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    if (lack := _lack_of_devices(plan)) is not None:
        connection.send(Failed("config", lack))
        return 1
    try:
        elastic_launch(_settings(plan, folder), run_rank)(connection, plan, str(folder / "ranks"))
    except ChildFailedError:
        return 1
    except SignalException:
        return 0
    except Exception as error:
        connection.send(Failed("bug", f"torchrun: {error!r:.500}"))
        return 1
    return 0


def _settings(plan: TrainerPlan, folder: Path) -> Any:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    where: dict[str, Any] = {"rdzv_endpoint": plan.rendezvous, "rdzv_configs": {"is_host": True}}
    if plan.nodes == 1:
        where = {
            "rdzv_endpoint": str(folder / "rendezvous"),
            "rdzv_configs": {"store_type": "file"},
            "local_addr": "127.0.0.1",
        }
    return LaunchConfig(
        min_nodes=plan.nodes,
        max_nodes=plan.nodes,
        nproc_per_node=plan.processes,
        run_id=RUN_ID,
        rdzv_backend="c10d",
        # The daemon's supervisor starts a new trainer, after a pause and from the state of the newest entry.
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle="SIGTERM",
        shutdown_timeout=END_S,
        **where,
    )


def _lack_of_devices(plan: TrainerPlan) -> str | None:
    """What is wrong with the number of processes, if anything is."""
    import torch

    if plan.device == "cpu" or not torch.cuda.is_available() or torch.cuda.device_count() >= plan.processes:
        return None
    return (
        f"resources.processes is {plan.processes}, but torch finds {torch.cuda.device_count()} GPUs, and every process "
        'needs one of its own: lower it, or set device = "cpu"'
    )


@dataclass(frozen=True, slots=True)
class Follower:
    """What a rank that follows is told.

    Attributes:
        device: where to compute (`learn.device`).
        threads: of torch; as many as the processes of this machine may have together.
        nice: priority given up.
    """

    device: DeviceChoice
    threads: int
    nice: int


def run_rank(connection: Connection, plan: TrainerPlan, store: str) -> None:
    """What each rank of the daemon's machine runs. The first of them leads and keeps the pipe."""
    be_a_trainer()
    where = store if plan.nodes == 1 else ""
    if int(os.environ["LOCAL_RANK"]) == 0:
        code = lead(connection, plan, where)
    else:
        connection.close()
        code = join(Follower(plan.device, plan.threads, plan.nice), where)
    if code:
        sys.exit(code)


def lead(connection: Connection, plan: TrainerPlan, store: str) -> int:
    """Serve the daemon, and have the other ranks take part in every step; returns the exit code.

    Args:
        store: a file where the ranks find each other; empty: at torchrun's own rendezvous.
    """
    alone = dataclasses.replace(plan, threads=max(1, plan.threads // plan.processes))
    with _ranks(plan.device, store, leads=True) as group:
        try:
            code = serve(connection, alone)
        except SystemExit:
            code = 1  # the agent ends all ranks, because one is gone or the daemon wants it
        if code:
            # In an orderly end, torch would wait for ranks that are gone.
            connection.close()
            os._exit(code)
        with contextlib.suppress(RuntimeError):  # they may be gone already
            group.end()
    return 0


def join(follower: Follower, store: str = "") -> int:
    """Follow the rank that leads until it ends; returns the exit code.

    Args:
        store: see `lead`.

    Raises:
        ConfigError: the device was chosen and is not there.
    """
    import torch

    from kmel_p2p.learn.train.ranks import follow

    # A wait inside torch does not see SIGTERM otherwise, and nothing is lost with a follower.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    be_nice(follower.nice)
    torch.set_num_threads(max(1, follower.threads // int(os.environ["LOCAL_WORLD_SIZE"])))
    with _ranks(follower.device, store, leads=False) as group:
        try:
            follow(group)
        except LocalError:
            return 1
    return 0


def _ranks(device: DeviceChoice, store: str, *, leads: bool) -> AbstractContextManager[TrainerGroup]:
    """Join the ranks that torchrun's environment names, with a GPU of this process's own where it uses one."""
    import torch

    from kmel_p2p.learn.device import use_device
    from kmel_p2p.learn.train.ranks import joined

    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if torch.cuda.is_available() and device != "cpu":
        torch.cuda.set_device(local)
    use_device(device)
    return joined(leads, store, rank, size)
