"""A cgroup (version 2) of the trainer's own, where this peer may make one.

It may where its service has `Delegate=cpu memory` (deploy/kmel-peer@resources.conf), or in a container that owns its
part of the hierarchy. A cgroup whose controllers are handed on to groups below it may hold no processes itself, so the
daemon moves into a group beside the trainer's. It does so only where nobody else's process is in its cgroup.

Kernel documentation: Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint" and "Delegation".
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from kmel_p2p.agreement.errors import LocalError

ROOT = Path("/sys/fs/cgroup")
PEER, TRAINER = "peer", "trainer"
"""Groups below the service's: the daemon's, which is that of DelegateSubgroup= in newer systemd, and the trainer's."""

REMEDY = "Delegate=cpu memory in the unit"

PERIOD_US = 100_000
"""Of the CPU quota; the kernel's usual one."""


def own_group(root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> Path:
    """The folder of this process's cgroup.

    Raises:
        LocalError: there is no cgroup of version 2.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError as error:
        raise LocalError(f"{membership}: cannot be read: {error.strerror}") from None
    path = next((line[len("0::") :] for line in lines if line.startswith("0::")), None)
    if path is None or not (root / "cgroup.controllers").exists():
        raise LocalError(f"no cgroup v2 is mounted at {root}")
    return root / path.lstrip("/")


class TrainerCgroup:
    """See the module docstring.

    Args:
        own: the cgroup that this process is in.
        pids: this process and those that it started.
        cpus: that the trainer's processes may use together; 0: no limit.
        memory: bytes that they may have together; 0: no limit.

    Raises:
        LocalError: this peer may not, and is where it was; says why.
    """

    def __init__(self, own: Path, pids: Collection[int], cpus: float, memory: int) -> None:
        base = own.parent if own.name == PEER else own
        wanted = [name for name, limit in (("cpu", cpus), ("memory", memory)) if limit]
        try:
            self._check(base, wanted)
            try:
                if base == own:
                    self._move_aside(base, pids)
                _write(base / "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))
                self.folder = base / TRAINER
                self.folder.mkdir(exist_ok=True)
                if cpus:
                    _write(self.folder / "cpu.max", f"{round(cpus * PERIOD_US)} {PERIOD_US}")
                if memory:
                    _write(self.folder / "memory.max", str(memory))
                    # All of the trainer ends, not one of its processes: the supervisor starts it again.
                    _write(self.folder / "memory.oom.group", "1")
            except OSError:
                if base == own:
                    self._move_back(base, pids)
                raise
        except OSError as error:
            raise LocalError(f"{error.filename or base}: {error.strerror}") from None
        self._killed = self._kills()

    def add(self, pid: int) -> None:
        """Put a trainer that has just started into the cgroup; what it starts is in it, too.

        Raises:
            LocalError: it cannot be.
        """
        try:
            _write(self.folder / "cgroup.procs", str(pid))
        except OSError as error:
            raise LocalError(f"{self.folder}: process {pid} cannot be added: {error.strerror}") from None

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel has ended a process of the trainer for its limit since the last look."""
        before, self._killed = self._killed, self._kills()
        return self._killed > before

    def close(self) -> None:
        """Remove the trainer's cgroup once it is empty."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _kills(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            for line in (self.folder / "memory.events").read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return 0

    @staticmethod
    def _check(base: Path, wanted: Collection[str]) -> None:
        for name in ("cgroup.subtree_control", "cgroup.procs"):
            if not os.access(base / name, os.W_OK):
                raise LocalError(f"{base}: is not delegated to this user ({REMEDY})")
        missing = set(wanted) - set((base / "cgroup.controllers").read_text().split())
        if missing:
            raise LocalError(f"{base}: lacks controllers: {', '.join(sorted(missing))} ({REMEDY})")

    @staticmethod
    def _move_aside(base: Path, pids: Collection[int]) -> None:
        inside = {int(pid) for pid in (base / "cgroup.procs").read_text().split()}
        if others := inside - set(pids):
            raise LocalError(f"{base}: other processes are in it (such as {min(others)})")
        (base / PEER).mkdir(exist_ok=True)
        for pid in inside:
            # One may have ended meanwhile; if it has not, handing the controllers on fails and says so.
            with contextlib.suppress(ProcessLookupError):
                _write(base / PEER / "cgroup.procs", str(pid))

    @staticmethod
    def _move_back(base: Path, pids: Collection[int]) -> None:
        with contextlib.suppress(OSError):
            _write(base / "cgroup.subtree_control", "-cpu -memory")
        for pid in pids:
            with contextlib.suppress(OSError):
                _write(base / "cgroup.procs", str(pid))
        for name in (TRAINER, PEER):
            with contextlib.suppress(OSError):
                (base / name).rmdir()


def _write(path: Path, text: str) -> None:
    # Not Path.write_text: files of a cgroup are neither made nor cut, and take one write.
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
