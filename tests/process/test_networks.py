"""Networks as companies have them, each in network namespaces: proxies, one family of addresses, names that move."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.types import MILLISECOND, SECOND
from kmel_p2p.net.settings import TransportSettings
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.observe.status_builder import RELAYED
from tests.support.local_run import answer, log_times, settled, small_federation
from tests.support.local_run import until as until_seen
from tests.support.namespaces import require_namespaces
from tests.testbed.hosts import Hosts

pytestmark = [pytest.mark.process, pytest.mark.namespace, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PORT, PROXY_PORT = 7700, 1080
NORTH, SOUTH = 1, 2
"""Numbers of the two sites; their keys follow from them."""
NAME = "south.partner.example"
WITHIN_S = 120.0
MIB = 1024 * 1024


def settings(**changes: Any) -> TransportSettings:
    return TransportSettings(
        **{
            "backoff_first_us": 50 * MILLISECOND,
            "backoff_cap_us": 300 * MILLISECOND,
            "dial_timeout_us": 1500 * MILLISECOND,
            "connect_timeout_us": 1 * SECOND,
            "handshake_timeout_us": 1 * SECOND,
            "heartbeat_us": 200 * MILLISECOND,
            "heartbeat_timeout_us": 2 * SECOND,
            "keepalive_us": 200 * MILLISECOND,
            "silence_us": 3 * SECOND,
            "stall_us": 60 * SECOND,
            **changes,
        }
    )


def key(number: int) -> str:
    return Identity(bytes([number]) * 32).key.hex()


def until(what: str, condition: Callable[[], Any], within_s: float = WITHIN_S) -> Any:
    end = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)
    return value


def until_in(federation: LocalFederation, what: str, probe: Callable[[], Any]) -> Any:
    return until_seen(what, probe, federation)


class Site:
    """A transport in a process on one host."""

    def __init__(self, hosts: Hosts, host: int, number: int, bind: str, **changes: Any) -> None:
        others = ",".join(key(other) for other in (NORTH, SOUTH) if other != number)
        program = [sys.executable, "-m", "tests.support.transport_child", str(number), bind, others]
        self.process = subprocess.Popen(
            [*hosts.prefix(host), *program, settings(**changes).model_dump_json()],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def saying(self, name: str) -> list[str]:
        return [str(line[name]) for line in self.said if name in line]

    def links_up(self) -> int:
        return self.saying("event").count("LinkUp")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def parts() -> Iterator[ExitStack]:
    require_namespaces()
    with ExitStack() as made:
        yield made


def started(parts: ExitStack, hosts: Hosts, host: int, number: int, bind: str, **changes: Any) -> Site:
    site = Site(hosts, host, number, bind, **changes)
    parts.callback(site.end)
    until("it listens", lambda: site.saying("address"))
    return site


def test_a_site_behind_a_proxy_reaches_what_the_firewall_keeps_from_it(parts: ExitStack) -> None:
    hosts = parts.enter_context(Hosts(3))
    hosts.block(0, 2)
    hosts.name_file(1).write_text(f"{hosts.address(2)} {NAME}\n")
    program = [sys.executable, "-m", "tests.support.socks_server", hosts.address(1), str(PROXY_PORT)]
    proxy = subprocess.Popen([*hosts.prefix(1), *program], cwd=ROOT)
    parts.callback(proxy.wait)
    parts.callback(proxy.kill)
    south = started(parts, hosts, 2, SOUTH, f"tcp://0.0.0.0:{PORT}")
    north = started(parts, hosts, 0, NORTH, "", proxy=f"{hosts.address(1)}:{PROXY_PORT}")
    north.tell(f"dial {key(SOUTH)} tcp://{NAME}:{PORT}")
    until("the link is up", north.links_up)
    north.tell(f"bulk {key(SOUTH)} {4 * MIB}")
    until("a large message has arrived", lambda: str(4 * MIB) in south.saying("size"))
    south.tell(f"bulk {key(NORTH)} {3 * MIB}")
    until("and one the other way", lambda: str(3 * MIB) in north.saying("size"))


def test_a_name_that_leads_elsewhere_later_is_looked_up_again(parts: ExitStack) -> None:
    hosts = parts.enter_context(Hosts(3))
    names = hosts.name_file(0)
    names.write_text(f"{hosts.address(1)} {NAME}\n")
    south = started(parts, hosts, 1, SOUTH, f"tcp://0.0.0.0:{PORT}")
    north = started(parts, hosts, 0, NORTH, "")
    north.tell(f"dial {key(SOUTH)} tcp://{NAME}:{PORT}")
    until("the link is up", north.links_up)
    south.process.kill()
    started(parts, hosts, 2, SOUTH, f"tcp://0.0.0.0:{PORT}")
    with names.open("r+") as file:
        file.write(f"{hosts.address(2)} {NAME}\n")
    until("the link is up again, at the new place", lambda: north.links_up() >= 2)


def test_sites_that_have_ipv6_alone_find_each_other(parts: ExitStack) -> None:
    hosts = parts.enter_context(Hosts(2, ipv4=False, ipv6=True))
    hosts.name_file(0).write_text(f"{hosts.address6(1)} {NAME}\n")
    south = started(parts, hosts, 1, SOUTH, f"tcp://[::]:{PORT}")
    north = started(parts, hosts, 0, NORTH, "")
    north.tell(f"dial {key(SOUTH)} tcp://{NAME}:{PORT}")
    until("the link is up", north.links_up)
    north.tell(f"bulk {key(SOUTH)} {MIB}")
    until("a large message has arrived", lambda: str(MIB) in south.saying("size"))


@pytest.mark.parametrize("dead", ["ip", "ip6"])
def test_where_one_family_of_addresses_is_dead_the_other_is_taken(parts: ExitStack, dead: str) -> None:
    hosts = parts.enter_context(Hosts(2, ipv6=True))
    both = "".join(f"{address} {NAME}\n" for address in (hosts.address6(1), hosts.address(1)))
    hosts.name_file(0).write_text(both)
    source = hosts.address(0) if dead == "ip" else hosts.address6(0)
    hosts.drop(1, dead, "saddr", source)
    started(parts, hosts, 1, SOUTH, f"tcp://*:{PORT}")
    north = started(parts, hosts, 0, NORTH, "")
    north.tell(f"dial {key(SOUTH)} tcp://{NAME}:{PORT}")
    until("the link is up", north.links_up)


@pytest.mark.alone
def test_a_path_that_loses_large_packets_is_named_and_used_again_when_it_is_mended(parts: ExitStack) -> None:
    hosts = parts.enter_context(Hosts(2))
    hosts.drop(1, "meta", "length", ">", "1000")
    south = started(parts, hosts, 1, SOUTH, f"tcp://0.0.0.0:{PORT}")
    north = started(parts, hosts, 0, NORTH, "")
    north.tell(f"dial {key(SOUTH)} tcp://{hosts.address(1)}:{PORT}")
    until("small messages get through", north.links_up)
    north.tell(f"bulk {key(SOUTH)} {MIB}")
    told = until("the operator is told", lambda: [text for text in north.saying("text") if "BulkStuck" in text])
    assert "drops large packets" in told[0]
    assert south.saying("size") == []
    hosts.heal()
    until("what waited has arrived", lambda: str(MIB) in south.saying("size"))


@pytest.mark.alone
def test_two_sites_that_only_dial_out_learn_together_through_a_third(parts: ExitStack, tmp_path: Path) -> None:
    hosts = parts.enter_context(Hosts(3))
    hosts.block(0, 1)
    hosts.block(1, 0)
    addresses = tuple(f"tcp://{hosts.address(host)}:{PORT}" for host in range(3))
    federation = parts.enter_context(small_federation(tmp_path, 2, 50, addresses))
    for host, site in enumerate(federation):
        site.prefix = hosts.prefix(host)
    north, south, _ = federation
    for site in (north, south):
        path = site.folder / "site.toml"
        text = re.sub(r"^advertise = \[[^\]]*\]", "advertise = []", path.read_text(), flags=re.MULTILINE)
        assert "outbound_only = false" in text
        path.write_text(text.replace("outbound_only = false", "outbound_only = true"))
    federation.start()
    documents = until_in(federation, "all sites hold the same", lambda: settled(federation))
    assert len({document.averaging.digest for document in documents}) == 1
    assert min(documents[0].averaging.vector.values()) == 2
    for site in federation:
        until_in(federation, "the run is over there", lambda site=site: log_times(site, "run complete"))
    for one, other in ((north, south), (south, north)):
        until_in(federation, "it is shown as relayed", lambda one=one, other=other: problem(one, other) == RELAYED)
        assert [alarm.what for alarm in answer(one).alarms if other.name in alarm.what] == []


def problem(observer: SiteProcess, subject: SiteProcess) -> str:
    """What one site's status says beside another."""
    status = observer.status()
    return next((member.problem for member in status.members if member.name == subject.name), "") if status else ""
