"""Several hosts on one machine: network namespaces joined by a bridge, links as slow as asked for, packets dropped.

What runs in them shares no address with anything else, so traffic of others neither disturbs nor counts.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from kmel_p2p.agreement.errors import LocalError
from tests.testbed.slow_switch import SlowSwitch

TABLE = ("inet", "kmel")

_counter = itertools.count()


class Hosts:
    """Hosts `0..count-1`, each reachable from the others and from nowhere else; a single one has only its loopback.

    Needs root and iproute2; `block` and `heal` need nftables.

    Args:
        count: hosts.
        megabits: bandwidth of each host's link, each way; 0 is unlimited.
        delay_ms: latency from one host to another, one way (`slow_switch`).
        ipv4, ipv6: which families they have addresses of.
    """

    def __init__(
        self, count: int, megabits: int = 0, delay_ms: int = 0, *, ipv4: bool = True, ipv6: bool = False
    ) -> None:
        self._tag = f"kmel{os.getpid()}-{next(_counter)}"
        self._count = count
        self._megabits = megabits
        self._delay_ms = delay_ms
        self._switch: SlowSwitch | None = None
        self._ipv4, self._ipv6 = ipv4, ipv6
        self._filtered: set[int] = set()

    def __enter__(self) -> Hosts:
        """Build them.

        Raises:
            LocalError: a command failed; it is quoted with what it said.
        """
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

    def address6(self, host: int) -> str:
        """IPv6 address of a host; only with `ipv6`."""
        return f"fd97::{host + 1}"

    def name_file(self, host: int) -> Path:
        """What stands in for /etc/hosts on a host, for commands that begin later; write it in place."""
        path = Path("/etc/netns") / self._name(host) / "hosts"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def prefix(self, host: int) -> tuple[str, ...]:
        """What runs a command on a host."""
        return ("ip", "netns", "exec", self._name(host))

    def received(self, host: int, interface: str = "eth0") -> int:
        """Bytes that arrived at an interface since it was made, headers of every layer included."""
        # /sys shows the namespace in which it was mounted, which `ip netns exec` does anew.
        return int(_run([*self.prefix(host), "cat", f"/sys/class/net/{interface}/statistics/rx_bytes"]))

    def block(self, source: int, target: int) -> None:
        """Drop every packet of `source` as it arrives at `target`; the other direction is untouched."""
        self.drop(target, "ip", "saddr", self.address(source))

    def drop(self, target: int, *match: str) -> None:
        """Drop what arrives at `target` and fits these words of nftables, such as `meta length > 1000`."""
        self._filter(target)
        self._nft(target, "add", "rule", *TABLE, "input", *match, "drop")

    def heal(self) -> None:
        """Drop nothing more."""
        for host in self._filtered:
            self._nft(host, "flush", "chain", *TABLE, "input")

    def _filter(self, target: int) -> None:
        if target not in self._filtered:
            self._nft(target, "add", "table", *TABLE)
            self._nft(target, "add", "chain", *TABLE, "input", "{ type filter hook input priority 0; }")
            self._filtered.add(target)

    def _build(self) -> None:
        hub = f"{self._tag}-hub"
        if self._delay_ms:
            self._switch = SlowSwitch(self._delay_ms / 1e3, self._megabits)
        if self._count > 1 and self._switch is None:
            _ip("netns", "add", hub)
            _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
            _ip("-n", hub, "link", "set", "bridge", "up")
        for host in range(self._count):
            name = self._name(host)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            if self._count > 1:
                self._plug_in(host, hub)
        if self._switch is not None:
            self._switch.start()

    def _plug_in(self, host: int, hub: str) -> None:
        name, port = self._name(host), f"port{host}"
        if self._switch is not None:
            _ip("link", "set", self._switch.plug(), "netns", name, "name", "eth0")
        else:
            _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", hub)
            _ip("-n", hub, "link", "set", port, "master", "bridge", "up")
        if self._ipv4:
            _ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
        if self._ipv6:
            _ip("-n", name, "address", "add", f"{self.address6(host)}/64", "dev", "eth0", "nodad")
        _ip("-n", name, "link", "set", "eth0", "up")
        # Shaped at both ends of the cable: what a host sends, and what it receives.
        self._shape(name, "eth0")
        if self._switch is None:
            self._shape(hub, port)

    def _shape(self, namespace: str, device: str) -> None:
        tc = ["ip", "netns", "exec", namespace, "tc", "qdisc", "add", "dev", device]
        if self._megabits:
            rate = f"{self._megabits}mbit"
            _run([*tc, "root", "handle", "1:", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms"])

    def _remove(self) -> None:
        if self._switch is not None:
            self._switch.close()
        for name in (*map(self._name, range(self._count)), f"{self._tag}-hub"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)

    def _name(self, host: int) -> str:
        return f"{self._tag}-{host}"

    def _nft(self, host: int, *arguments: str) -> None:
        _run([*self.prefix(host), "nft", *arguments])


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LocalError(f"{' '.join(command)}: {done.stderr.strip()} (namespaces need root, iproute2 and nftables)")
    return done.stdout
