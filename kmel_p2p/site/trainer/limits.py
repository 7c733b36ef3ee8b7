"""Holds the trainer, with all processes that it starts, to `[resources] cpus` and `memory_mb`.

By a cgroup of its own where this peer may have one: then the limits hold for all processes together, and a trainer that
exceeds its memory is ended, and nothing else of the machine. Else as well as a process can be limited from outside: by
the cores that it may run on, and by the data that each of its processes may have.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.site.config import ResourcesSection
from kmel_p2p.site.trainer.cgroup import TrainerCgroup, own_group

log = structlog.get_logger()

BY_CGROUP = "cgroup"
"""How `TrainerLimits.text` begins where the limits hold for all processes together."""

GPU = Path("/dev/nvidiactl")
"""Where it is, a process may map far more than it uses, so that the size of its data says nothing."""


@dataclass
class TrainerLimits:
    """See the module docstring. Made before the daemon starts other processes.

    Attributes:
        settings: of the site.
        group: finds the cgroup of this process; raises `LocalError`.
        gpu: see `GPU`.
    """

    settings: ResourcesSection
    group: Callable[[], Path] = own_group
    gpu: Path = GPU

    def __post_init__(self) -> None:
        self._cgroup: TrainerCgroup | None = None
        self._why_none = ""
        if self.wanted:
            self._find_cgroup()

    @property
    def wanted(self) -> bool:
        """Whether there are any."""
        return bool(self.settings.cpus or self.settings.memory_mb)

    @property
    def text(self) -> str:
        """What holds, in words; empty without limits."""
        if not self.wanted:
            return ""
        cpus, memory = self.settings.cpus, self.settings.memory_mb
        if self._cgroup is not None:
            parts = [f"{cpus:g} CPUs" if cpus else "", f"{memory} MB" if memory else ""]
            return f"{BY_CGROUP}: {', '.join(filter(None, parts))}"
        parts = [f"{self._cores} cores" if cpus else ""]
        if memory:
            parts.append("memory not limited" if self._gpu_is_used else f"{memory} MB for each process")
        return f"{', '.join(filter(None, parts))}; no cgroup: {self._why_none}"

    def hold(self, pid: int) -> None:
        """Hold a trainer that has just started, and has started nothing itself yet."""
        if not self.wanted:
            return
        if self._cgroup is not None:
            try:
                self._cgroup.add(pid)
                return
            except LocalError as error:
                log.error("the trainer is not in its cgroup", reason=str(error))
                self._cgroup, self._why_none = None, str(error)
        # It may have ended already, which its supervisor finds out.
        with contextlib.suppress(psutil.Error, OSError):
            self._hold_from_outside(pid)

    def why_ended(self) -> str:
        """Why the kernel has ended a trainer that is gone, where it did so for its limit; else empty."""
        if self._cgroup is None or not self._cgroup.ran_out_of_memory():
            return ""
        return (
            f"the trainer needed more memory than resources.memory_mb = {self.settings.memory_mb} allows, and was "
            "ended: raise it, or set it to 0"
        )

    def close(self) -> None:
        """The trainer has ended."""
        if self._cgroup is not None:
            self._cgroup.close()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _find_cgroup(self) -> None:
        process = psutil.Process()
        pids = {process.pid, *(child.pid for child in process.children(recursive=True))}
        settings = self.settings
        try:
            self._cgroup = TrainerCgroup(self.group(), pids, settings.cpus, settings.memory_mb << 20)
        except LocalError as error:
            self._why_none = str(error)
        log.info("trainer limits", limits=self.text)

    @property
    def _cores(self) -> int:
        return min(math.ceil(self.settings.cpus), len(os.sched_getaffinity(0)))

    @property
    def _gpu_is_used(self) -> bool:
        return self.settings.device != "cpu" and self.gpu.exists()

    def _hold_from_outside(self, pid: int) -> None:
        if self.settings.cpus:
            usable = sorted(os.sched_getaffinity(0))
            # Peers of one machine should not crowd on its first cores.
            first = os.getpid() % len(usable)
            os.sched_setaffinity(pid, [*usable[first:], *usable[:first]][: self._cores])
        if self.settings.memory_mb and not self._gpu_is_used:
            most = self.settings.memory_mb << 20
            resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
