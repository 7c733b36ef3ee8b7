"""Disk, memory, open files, features and trainer of this machine."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.site.config import SiteConfig
from kmel_p2p.site.doctor.findings import Area, Finding, good, note, problem, warning

MB, GB = 10**6, 10**9

DISK_LEAST, DISK_ENOUGH = 256 * MB, 2 * GB
"""Free bytes below which the peer may stop soon, and from which on there is no need to look."""

MEMORY_LEAST = 1 * GB
"""What the trainer takes, roughly."""

FILES_LEAST = 1024
"""Open files that a process must be allowed: about ten for each other site, and the peer's own."""

TRAINER_S = 120.0
"""For loading torch and RDKit from a slow disk."""

_TRAINER = """
import sys
from kmel_p2p.learn.worker import process
import torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("resources.device is cuda, and torch finds no GPU here")
torch.nn.Linear(4, 1)(torch.zeros(2, 4)).sum().backward()
"""


def free_disk(path: Path) -> int:
    """Bytes that may still be written where `path` is, or will be."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def free_memory() -> int:
    """Bytes that a new process could have."""
    return int(psutil.virtual_memory().available)


def open_files() -> int:
    """Files that a process may open, at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def trainer_problem(config: SiteConfig) -> str:
    """Why the trainer process does not start, in its own last words; empty when it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRAINER, config.resources.device],
            capture_output=True,
            text=True,
            timeout=TRAINER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not start within {TRAINER_S:g} s"
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


@dataclass(frozen=True)
class ThisMachine:
    """How this machine is looked at; tests have others."""

    free_disk: Callable[[Path], int] = free_disk
    free_memory: Callable[[], int] = free_memory
    open_files: Callable[[], int] = open_files
    trainer_problem: Callable[[SiteConfig], str] = trainer_problem

    def examine(self, config: SiteConfig, charter: Charter | None, running: bool) -> Iterator[Finding]:
        """Examine what is independent of the other sites.

        Args:
            running: whether the daemon runs, and has taken its memory.
        """
        yield self._disk(config.site.state_dir)
        memory = self.free_memory()
        if memory < MEMORY_LEAST and not running:
            says = "{free} MB of memory are free; the trainer takes about {takes} MB"
            advice = "end other programs, or give this machine more"
            yield problem(Area.MACHINE, "memory", says, advice, free=memory // MB, takes=MEMORY_LEAST // MB)
        else:
            yield good(Area.MACHINE, "memory", "{free} GB free", free=f"{memory / GB:.1f}")
        files = self.open_files()
        if files < FILES_LEAST:
            says = "a process may open {allowed} files; a peer needs {needed}"
            advice = "raise the limit (ulimit -n, or LimitNOFILE= of the unit)"
            yield problem(Area.MACHINE, "files", says, advice, allowed=files, needed=FILES_LEAST)
        else:
            yield good(Area.MACHINE, "files", "enough files may be open")
        if charter is not None:
            yield _features(charter)
        if failed := self.trainer_problem(config):
            advice = "install the package again (docs/operate.md, Install), or correct resources.device"
            yield problem(Area.MACHINE, "trainer", "the trainer does not start: {reason}", advice, reason=failed)
        else:
            yield good(Area.MACHINE, "trainer", "starts; device {device}", device=config.resources.device)

    def _disk(self, state_dir: Path) -> Finding:
        free = self.free_disk(state_dir)
        if free < DISK_LEAST:
            says = "{free} MB free for {folder}; the peer stops when nothing is left"
            advice = "free some space, or move state_dir"
            return problem(Area.MACHINE, "disk", says, advice, free=free // MB, folder=state_dir)
        says, gigabytes = "{free} GB free for {folder}", f"{free / GB:.1f}"
        if free < DISK_ENOUGH:
            advice = "free some space before the run goes on for long"
            return warning(Area.MACHINE, "disk", says, advice, free=gigabytes, folder=state_dir)
        return good(Area.MACHINE, "disk", says, free=gigabytes, folder=state_dir)


def _features(charter: Charter) -> Finding:
    expected = charter.features.reference_hash
    if not expected:
        return note(Area.MACHINE, "features", "the charter has no reference hash to compare with")
    try:
        found = trunk_reference_hash(charter.features, charter.model)
    except ConfigError as error:
        advice = "install what the charter's trunk needs, in the version that the consortium uses"
        return problem(Area.MACHINE, "features", "{error}", advice, error=error)
    if found == expected:
        return good(Area.MACHINE, "features", "those of the charter ({hash})", hash=expected[:16])
    import rdkit

    return problem(
        Area.MACHINE,
        "features",
        "RDKit {version} of this machine gives {found} where the charter says {expected}",
        "install the version of RDKit that the consortium uses",
        version=rdkit.__version__,
        found=found[:16],
        expected=expected[:16],
    )
