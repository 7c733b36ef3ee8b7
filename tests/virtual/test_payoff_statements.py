"""Whole peers show one summary of what all sites state of their payoff, whatever a hostile site signs and hands on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import pytest

from kmel_p2p.agreement.notice import PayoffStatement, encode_content
from kmel_p2p.core.board.board import Post
from kmel_p2p.core.board.messages import Notices
from kmel_p2p.core.board.notice import MAX_SLOTS, Notice, sign
from kmel_p2p.core.types import SECOND
from kmel_p2p.site.notice_board import NoticeBoard
from kmel_p2p.site.observe.federation_payoff import FederationPayoff, payoff_in_words
from tests.testbed.peers.federation import PeerFederation
from tests.testbed.peers.peer_site import PeerSite
from tests.testbed.peers.site import make_world

WORLD = make_world("ledger", founders=4, spares=0, entry_limit=1)
HOSTILE = 3
UNTIL = 90


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[PeerFederation]:
    made = PeerFederation(WORLD, 7, tmp_path)
    for site in made.sites:
        made.start(site)
    made.network.run_until(5 * SECOND)
    yield made
    made.close()


def state(federation: PeerFederation, index: int, classes: str) -> None:
    """As the site's daemon does."""
    site = federation.sites[index]
    assert site.life is not None
    board = NoticeBoard(lambda: site.site, site.life.peer.board, list, partial(federation.command, site))
    assert board.keep_payoff(PayoffStatement(campaign=1, classes=classes))


def signed(index: int, classes: str, slot: int, version: int, body: bytes | None = None) -> Notice:
    body = encode_content(PayoffStatement(campaign=1, classes=classes)) if body is None else body
    return sign(WORLD.identities[index], WORLD.charter.id, slot, version, UNTIL, body)


def hands_on(federation: PeerFederation, to: PeerSite, *notices: Any) -> None:
    """The hostile site sends what it likes, as its own peer never would."""
    assert to.life is not None
    to.life.peer.receive(WORLD.identities[HOSTILE].key, Notices(tuple(notices)), federation.network.now)


def summaries(federation: PeerFederation) -> list[FederationPayoff | None]:
    return [site.document().federation_payoff for site in federation.sites]


def test_all_sites_show_the_same_summary_whatever_a_hostile_site_signs(federation: PeerFederation) -> None:
    old = signed(1, "4", 0, 1)
    for index, classes in ((0, "3"), (1, "0"), (2, "1")):
        state(federation, index, classes)
    federation.network.run_until(20 * SECOND)
    for victim in federation.sites[:3]:
        # In another's name, of an assay endpoint that there is not, no statement at all, and an older word of site1.
        forged = Notice(WORLD.identities[0].key, 1, 2**40, UNTIL, signed(0, "d", 1, 1).body, bytes(64))
        nonsense = msgpack.packb({"campaign": 1, "classes": "4" * 2000, "kind": "payoff"})
        hands_on(federation, victim, forged.encode(), old.encode(), b"payoff", signed(3, "", 2, 1, nonsense).encode())
    for slot in range(MAX_SLOTS):
        federation.command(federation.sites[HOSTILE], Post(signed(3, ".a"[slot % 2 :] + "4" * 900, slot, 10 + slot)))
    federation.network.run_until(60 * SECOND)
    found = summaries(federation)
    assert found[0] is not None
    assert found == [found[0]] * 4
    # Its newest word counts as its own, and no further than one site's: what it says of other places, not at all.
    assert found[0].sites == {"site0": "better", "site1": "no evidence", "site2": "better", "site3": "worse"}
    assert found[0].endpoints == {"toy": {"better": 2, "no evidence": 1, "worse": 1}}
    assert payoff_in_words(found[0]).startswith("it pays for 2 of 4 sites (1 of 1 assay endpoints")
    for site in federation.sites[:3]:
        assert {alarm.what for alarm in site.document().alarms} >= {"notice from site3"}


def test_a_site_that_was_away_hears_what_the_others_state_and_a_withdrawal(federation: PeerFederation) -> None:
    away = federation.sites[2]
    state(federation, 0, "2")
    federation.network.run_until(15 * SECOND)
    federation.lose_power(away, reset=True)
    state(federation, 1, "4")
    site = federation.sites[0]
    assert site.life is not None
    board = NoticeBoard(lambda: site.site, site.life.peer.board, list, partial(federation.command, site))
    assert board.keep_payoff(None)
    federation.network.run_until(25 * SECOND)
    federation.start(away)
    federation.network.run_until(60 * SECOND)
    found = summaries(federation)
    assert found[0] is not None
    assert found == [found[0]] * 4
    assert found[0].sites == {"site0": "unknown", "site1": "better", "site2": "unknown", "site3": "unknown"}
