"""Whether this machine can have several hosts (`tests.testbed.hosts`)."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def require_namespaces() -> None:
    """Skip where namespaces are impossible; in CI, where they must be possible, fail instead."""
    missing = [tool for tool in ("ip", "nft") if shutil.which(tool) is None]
    reason = "needs root" if os.geteuid() != 0 else f"needs {' and '.join(missing)}" if missing else _refused()
    if not reason:
        return
    if os.environ.get("CI"):
        pytest.fail(f"network namespaces must work in CI: {reason}")
    pytest.skip(f"network namespaces are impossible here: {reason}")


def _refused() -> str:
    name = f"kmel-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return made.stderr.strip()
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""
