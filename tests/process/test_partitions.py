"""Frozen processes and cut networks between real daemons: verdicts are right, training goes on, all ends equal."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from tests.support.local_run import PATIENCE_S, answer, published, settled, small_federation, until
from tests.support.namespaces import require_namespaces
from tests.testbed.hosts import Hosts

pytestmark = [pytest.mark.process, pytest.mark.alone, pytest.mark.namespace, pytest.mark.timeout(600)]

ENTRY_LIMIT = 100_000
"""Out of reach: the test ends the run when it has seen enough."""
STEPS = 400
"""About half a second: whoever is frozen or cut off misses fewer entries than the others keep, on any machine."""
PORT = 7700
FROZEN_S = 10.0
CUT_S = 8.0


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    require_namespaces()
    with Hosts(3) as made:
        yield made


def state(observer: SiteProcess, subject: SiteProcess) -> str:
    """What one site holds about another; empty before it holds anything."""
    return next((member.state for member in answer(observer).members if member.name == subject.name), "")


def holds(federation: LocalFederation, observer: SiteProcess, subject: SiteProcess, wanted: str) -> None:
    """Wait for a verdict."""
    what = f"{observer.name} holds {subject.name} {wanted}"
    until(what, lambda: state(observer, subject) == wanted, federation)


def goes_on(federation: LocalFederation, site: SiteProcess) -> None:
    """A site publishes further entries."""
    goal = published(site) + 2
    until(f"{site.name} goes on", lambda: published(site) >= goal, federation)


def everybody_is_alive(federation: LocalFederation) -> None:
    for observer in federation:
        for subject in federation:
            if observer is not subject:
                holds(federation, observer, subject, "alive")


def test_frozen_and_cut_off_sites_come_back_by_themselves(tmp_path: Path, hosts: Hosts) -> None:
    addresses = tuple(f"tcp://{hosts.address(n)}:{PORT}" for n in range(3))
    with small_federation(tmp_path, ENTRY_LIMIT, STEPS, addresses) as federation:
        for number, site in enumerate(federation):
            site.prefix = hosts.prefix(number)
        federation.start()
        north, south, east = federation
        until("every site has published", lambda: all(published(site) >= 2 for site in federation), federation)
        processes = [site.process.pid for site in federation if site.process]

        east.signal(signal.SIGSTOP)
        thawed_at = time.monotonic() + FROZEN_S
        try:
            holds(federation, north, east, "dead")
            holds(federation, south, east, "dead")
            goes_on(federation, north)
            goes_on(federation, south)
            until("the freeze is long enough", lambda: time.monotonic() >= thawed_at, federation, FROZEN_S + 1)
        finally:
            east.signal(signal.SIGCONT)
        everybody_is_alive(federation)
        goes_on(federation, east)

        for other in (1, 2):
            hosts.block(0, other)
            hosts.block(other, 0)
        healed_at = time.monotonic() + CUT_S
        holds(federation, north, south, "dead")
        holds(federation, north, east, "dead")
        holds(federation, south, north, "dead")
        holds(federation, east, north, "dead")
        assert state(south, east) == "alive"
        for site in federation:
            goes_on(federation, site)
        until("the cut is long enough", lambda: time.monotonic() >= healed_at, federation, CUT_S + 1)
        hosts.heal()
        everybody_is_alive(federation)

        hosts.block(0, 1)
        until("the link counts as degraded", lambda: _degraded(north, south), federation)
        assert state(north, south) == "alive"
        assert state(south, north) == "alive"
        goal = published(north) + 2
        until("entries of north reach south through east", lambda: _applied(south, north) >= goal, federation)
        hosts.heal()
        until("the link is whole again", lambda: not _degraded(north, south), federation)

        for site in federation:
            site.request("listen", timeout_s=PATIENCE_S)
        documents = until("all sites hold the same", lambda: settled(federation), federation)
        assert len({document.averaging.digest for document in documents}) == 1
        assert min(documents[0].averaging.vector.values()) > 10
        assert [site.process.pid for site in federation if site.process] == processes
        assert all(document.trainer.restarts == 0 for document in documents)


def _degraded(one: SiteProcess, other: SiteProcess) -> bool:
    """Whether either of the two tells its operator about the link."""
    alarms = [alarm.what for site in (one, other) if (status := site.status()) for alarm in status.alarms]
    return any(what in (f"degraded link {one.name}", f"degraded link {other.name}") for what in alarms)


def _applied(observer: SiteProcess, author: SiteProcess) -> int:
    status = observer.status()
    return status.averaging.vector.get(author.name, 0) if status else 0
