"""Two daemons never share a state directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.state.lockfile import SiteLock, holder

HOLD = """
import sys, pathlib
from kmel_p2p.site.state.lockfile import SiteLock
SiteLock(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_nobody_holds_a_new_directory(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with SiteLock(tmp_path):
        assert holder(tmp_path) == os.getpid()
    assert holder(tmp_path) is None


def test_the_second_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    slept: list[float] = []
    with SiteLock(tmp_path):
        second = SiteLock(tmp_path)
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
            second.acquire(sleep=slept.append)
    assert 0.1 < sum(slept) < 0.5
    second.acquire()
    second.release()


def test_looking_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    import fcntl

    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    lock = SiteLock(tmp_path)
    lock.acquire(sleep=lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
    lock.release()
    os.close(looking)


def test_a_killed_holder_frees_the_directory(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert holder(tmp_path) == child.pid
    finally:
        child.kill()
        child.communicate()
    assert holder(tmp_path) is None
    with SiteLock(tmp_path):
        assert holder(tmp_path) == os.getpid()
