"""The trainer's limits: by a cgroup of its own in a made-up hierarchy, and from outside with real processes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.strict import build
from kmel_p2p.site.config import ResourcesSection
from kmel_p2p.site.trainer.cgroup import PEER, TRAINER, TrainerCgroup, own_group
from kmel_p2p.site.trainer.limits import TrainerLimits

LIMITED = ResourcesSection(cpus=1.5, memory_mb=2048)
ME, CHILD = 100, 101


class Hierarchy:
    """A folder that looks as the kernel's does. Groups that a peer may make are there already, with their files."""

    def __init__(self, folder: Path) -> None:
        self.service = folder / "system.slice" / "peer.service"
        for group in (self.service, self.service / PEER, self.service / TRAINER):
            group.mkdir(parents=True)
            self.put(group / "cgroup.procs", "")
            self.put(group / "cgroup.controllers", "cpu memory pids")
            self.put(group / "cgroup.subtree_control", "")
        for name in ("cpu.max", "memory.max", "memory.oom.group"):
            self.put(self.service / TRAINER / name, "")
        self.events(0)
        self.put(folder / "cgroup.controllers", "cpu memory pids")
        self.put(self.service / "cgroup.procs", f"{ME}\n{CHILD}\n")

    def put(self, path: Path, text: str) -> None:
        path.write_text(text)

    def events(self, kills: int) -> None:
        self.put(self.service / TRAINER / "memory.events", f"low 0\nhigh 0\nmax 7\noom 2\noom_kill {kills}\n")

    def read(self, *path: str) -> str:
        return self.service.joinpath(*path).read_text()

    def own(self) -> Path:
        return self.service


@pytest.fixture
def groups(tmp_path: Path) -> Hierarchy:
    return Hierarchy(tmp_path)


@pytest.fixture
def child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


def test_the_group_of_a_process_is_found_where_the_kernel_says(groups: Hierarchy, tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("1:cpu:/other\n0::/system.slice/peer.service\n")
    assert own_group(tmp_path, membership) == groups.service
    membership.write_text("1:cpu:/other\n")
    with pytest.raises(LocalError, match="no cgroup v2 is mounted"):
        own_group(tmp_path, membership)
    with pytest.raises(LocalError, match="missing: cannot be read"):
        own_group(tmp_path, tmp_path / "missing")
    (tmp_path / "cgroup.controllers").unlink()
    membership.write_text("0::/system.slice/peer.service\n")
    with pytest.raises(LocalError, match="no cgroup v2 is mounted"):
        own_group(tmp_path, membership)


def test_the_daemon_moves_aside_and_the_trainer_gets_a_group_with_the_limits(groups: Hierarchy) -> None:
    made = TrainerCgroup(groups.service, {ME, CHILD}, 1.5, 2048 << 20)
    # One write for each process; the last one stands in a file that is none of the kernel's.
    assert groups.read(PEER, "cgroup.procs") in (str(ME), str(CHILD))
    assert groups.read("cgroup.subtree_control") == "+cpu +memory"
    assert groups.read(TRAINER, "cpu.max") == "150000 100000"
    assert groups.read(TRAINER, "memory.max") == str(2 << 30)
    assert groups.read(TRAINER, "memory.oom.group") == "1"
    made.add(7)
    assert groups.read(TRAINER, "cgroup.procs") == "7"
    assert not made.ran_out_of_memory()
    groups.events(3)
    assert made.ran_out_of_memory()
    assert not made.ran_out_of_memory()


def test_a_daemon_that_was_started_in_a_group_below_stays_there(groups: Hierarchy) -> None:
    made = TrainerCgroup(groups.service / PEER, {ME}, 2.0, 0)
    assert made.folder == groups.service / TRAINER
    assert groups.read("cgroup.subtree_control") == "+cpu"
    assert groups.read(PEER, "cgroup.procs") == ""
    assert groups.read(TRAINER, "memory.max") == ""


def remove_controller(groups: Hierarchy) -> None:
    groups.put(groups.service / "cgroup.controllers", "cpu pids")


def remove_right(groups: Hierarchy) -> None:
    (groups.service / "cgroup.subtree_control").unlink()


def add_stranger(groups: Hierarchy) -> None:
    groups.put(groups.service / "cgroup.procs", f"{ME}\n555\n")


def break_limits(groups: Hierarchy) -> None:
    (groups.service / TRAINER / "memory.max").unlink()


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (remove_controller, "lacks controllers: memory"),
        (remove_right, "is not delegated to this user"),
        (add_stranger, r"other processes are in it \(such as 555\)"),
        (break_limits, "memory.max: No such file"),
    ],
)
def test_where_there_is_no_cgroup_nothing_has_moved_and_the_reason_is_said(
    groups: Hierarchy, child: int, fault: Callable[[Hierarchy], None], named: str
) -> None:
    fault(groups)
    with pytest.raises(LocalError, match=named):
        TrainerCgroup(groups.service, {ME, CHILD}, 1.5, 2048 << 20)
    if fault is break_limits:
        # Moved aside, and back.
        assert groups.read("cgroup.procs").rstrip() in (f"{ME}\n{CHILD}", f"{CHILD}\n{CHILD}", f"{CHILD}\n{ME}")
        assert groups.read("cgroup.subtree_control").startswith("-cpu -memory")
    else:
        assert groups.read(PEER, "cgroup.procs") == ""


def test_limits_say_by_what_they_hold(groups: Hierarchy) -> None:
    groups.put(groups.service / "cgroup.procs", f"{os.getpid()}\n")
    limits = TrainerLimits(LIMITED, group=groups.own)
    assert limits.text == "cgroup: 1.5 CPUs, 2048 MB"
    limits.hold(7)
    assert groups.read(TRAINER, "cgroup.procs") == "7"
    assert limits.why_ended() == ""
    groups.events(1)
    assert "resources.memory_mb = 2048" in limits.why_ended()
    none = TrainerLimits(ResourcesSection(), group=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    none.hold(7)
    assert (none.text, none.why_ended()) == ("", "")


def test_without_a_cgroup_a_trainer_is_limited_from_outside(child: int, tmp_path: Path) -> None:
    def nowhere() -> Path:
        raise LocalError("no cgroup v2 is mounted")

    limits = TrainerLimits(LIMITED, group=nowhere, gpu=tmp_path / "none")
    cores = min(2, len(os.sched_getaffinity(0)))
    assert limits.text == f"{cores} cores, 2048 MB for each process; no cgroup: no cgroup v2 is mounted"
    limits.hold(child)
    assert len(os.sched_getaffinity(child)) == cores
    assert resource.prlimit(child, resource.RLIMIT_DATA) == (2 << 30, 2 << 30)
    limits.hold(2**22 + 1)  # a process that has ended is its supervisor's business


def test_a_gpu_process_is_not_held_to_the_size_of_its_data(child: int, tmp_path: Path) -> None:
    def nowhere() -> Path:
        raise LocalError("none")

    before = resource.prlimit(child, resource.RLIMIT_DATA)
    limits = TrainerLimits(ResourcesSection(memory_mb=2048), group=nowhere, gpu=tmp_path)
    assert limits.text == "memory not limited; no cgroup: none"
    limits.hold(child)
    assert resource.prlimit(child, resource.RLIMIT_DATA) == before


def test_a_cgroup_that_is_gone_is_not_relied_on(groups: Hierarchy, child: int, tmp_path: Path) -> None:
    groups.put(groups.service / "cgroup.procs", f"{os.getpid()}\n")
    limits = TrainerLimits(LIMITED, group=groups.own, gpu=tmp_path / "none")
    (groups.service / TRAINER / "cgroup.procs").unlink()
    limits.hold(child)
    assert "no cgroup: " in limits.text
    assert resource.prlimit(child, resource.RLIMIT_DATA)[0] == 2 << 30


@pytest.mark.parametrize(("key", "value", "named"), [("memory_mb", 200, "512 or more"), ("cpus", 0.01, "0.1 or more")])
def test_limits_that_no_trainer_can_live_in_are_refused(key: str, value: float, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(ResourcesSection, {key: value}, "site.toml")


def test_threads_follow_the_limit_of_cpus_where_they_are_not_given() -> None:
    assert (ResourcesSection().allowed_threads, LIMITED.allowed_threads) == (0, 2)
    assert LIMITED.model_copy(update={"threads": 5}).allowed_threads == 5
    assert LIMITED.allowed_featurise_processes == 2
