"""A run that waits for a founder says for whom, since when and what ends it: in the log, in status and on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kmel_p2p.core.types import SECOND
from kmel_p2p.site.page.view import page_values
from tests.support.page_sample import facts
from tests.testbed.peers.federation import PeerFederation
from tests.testbed.peers.site import make_world

LATE = 2


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[PeerFederation]:
    made = PeerFederation(make_world("ledger", founders=3, spares=0, entry_limit=4), 7, tmp_path)
    yield made
    made.close()


def test_a_late_founder_is_named_in_the_log_in_status_and_on_the_page(federation: PeerFederation) -> None:
    late = federation.world.rule(LATE).name
    with capture_logs() as logged:
        for site in federation.sites[:LATE]:
            federation.start(site)
        federation.network.run_until(75 * SECOND)
    said = [line for line in logged if line["event"] == "waiting" and line["sites"] == [late]]
    # Once at each of the two: a wait that only goes on is told by status.
    assert len(said) == LATE
    for site in federation.sites[:LATE]:
        document = site.document()
        (wait,) = document.waits
        assert wait.sites == (late,)
        assert "kmel-peer begin" in wait.reason
        assert 60 < wait.since_s < 75
        shown = page_values(replace(facts(), status=document), "en")
        assert shown["reason"] == wait.reason
        (line,) = shown["waits"]
        assert line.startswith(f"for {late} since ")
    federation.start(federation.sites[LATE])
    federation.network.run_until(120 * SECOND)
    for site in federation.sites:
        assert site.life is not None
        assert site.life.peer.averaging.complete
        assert not page_values(replace(facts(), status=site.document()), "en")["waits"]
