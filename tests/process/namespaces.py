"""Several hosts on one machine: network namespaces joined by a bridge, and packets dropped between them at will."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType

import pytest

TABLE = ("inet", "kmel")


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


class Hosts:
    """Hosts `0..count-1`, each reachable at `address(i)` from the others and from nowhere else."""

    def __init__(self, count: int) -> None:
        self._tag = f"kmel{os.getpid()}"
        self._count = count

    def __enter__(self) -> Hosts:
        try:
            self._build()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, host: int) -> str:
        """IPv4 address of a host."""
        return f"10.97.0.{host + 1}"

    def prefix(self, host: int) -> tuple[str, ...]:
        """What runs a command on a host."""
        return ("ip", "netns", "exec", self._name(host))

    def block(self, source: int, target: int) -> None:
        """Drop every packet of `source` as it arrives at `target`; the other direction is untouched."""
        self._nft(target, "add", "rule", *TABLE, "input", "ip", "saddr", self.address(source), "drop")

    def heal(self) -> None:
        """Drop nothing more."""
        for host in range(self._count):
            self._nft(host, "flush", "chain", *TABLE, "input")

    def _build(self) -> None:
        hub = f"{self._tag}-hub"
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for host in range(self._count):
            name = self._name(host)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{host}", "netns", hub)
            _ip("-n", hub, "link", "set", f"port{host}", "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            self._nft(host, "add", "table", *TABLE)
            self._nft(host, "add", "chain", *TABLE, "input", "{ type filter hook input priority 0; }")

    def _remove(self) -> None:
        for name in (*map(self._name, range(self._count)), f"{self._tag}-hub"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _name(self, host: int) -> str:
        return f"{self._tag}-{host}"

    def _nft(self, host: int, *arguments: str) -> None:
        _run([*self.prefix(host), "nft", *arguments])


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
