"""A site changes over to a new key without a gap: for some days its old one is let in, too, and publishes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.key_overlap import overlap_problem, overlapping
from kmel_p2p.core.board.board import Today
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import SECOND
from tests.testbed.peers.federation import PeerFederation
from tests.testbed.peers.peer_site import PeerSite
from tests.testbed.peers.site import make_world

WORLD = make_world("ledger", founders=3, spares=1, entry_limit=40)
OLD, NEW = WORLD.identities[2].key, WORLD.identities[3].key


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[PeerFederation]:
    """Three founders, the third of which gets another key; the old one is let in until the fifth day."""
    made = PeerFederation(WORLD, 5, tmp_path)
    for site in made.sites[:3]:
        made.start(site)
    made.network.run_until(9 * SECOND)
    amended = rekeyed(made.sites[0].site.constitution, published(made.sites[0]), "1970-01-05")
    assert made.amend(made.sites[0], amended.documents[0])
    made.sites[3].constitution = amended
    made.network.run_until(12 * SECOND)
    yield made
    made.close()


def rekeyed(constitution: Constitution, last: int, until: str = "") -> Constitution:
    rule = {"name": "site2", "key": NEW.hex(), "last": last, **({"until": until} if until else {})}
    document = constitution.draft(rekey=[rule])
    for index in (0, 1):
        document = document.signed_by(WORLD.identities[index], constitution)
    return constitution.followed_by(document)


def published(at: PeerSite) -> int:
    assert at.life is not None
    return at.life.peer.averaging.vector[OLD]


def lets_in(at: PeerSite) -> bool:
    """Whether the old key is let in, and counts as a site in sight."""
    assert at.life is not None
    peer = at.life.peer
    assert (OLD in peer.admitted) == (OLD in peer.membership.roster)
    return OLD in peer.admitted and at.admits(OLD, 0)


def test_the_old_key_hears_on_and_publishes_nothing_until_the_new_one_is_in_sight(federation: PeerFederation) -> None:
    one, _, old, new = federation.sites
    assert lets_in(one)
    last = published(one)
    federation.network.run_until(20 * SECOND)
    assert one.life is not None
    assert old.life is not None
    assert OLD in one.life.peer.membership.alive()
    assert old.life.peer.averaging.phase is Phase.LISTENING
    assert published(one) == last
    # What the others make goes on coming in.
    theirs = one.life.peer.averaging.vector[one.key]
    assert old.life.peer.averaging.vector[one.key] >= theirs - 1 > 5
    federation.start(new)
    federation.network.run_until(30 * SECOND)
    assert not lets_in(one)
    assert OLD not in one.life.peer.membership.alive()
    assert one.life.peer.averaging.vector[NEW] > 0
    assert published(one) == last
    # Also after a restart while the new one is off: it has published.
    federation.lose_power(new, reset=True)
    federation.lose_power(one, reset=True)
    federation.start(one)
    assert not lets_in(one)


def test_the_old_key_is_let_in_no_longer_than_its_day(federation: PeerFederation) -> None:
    one = federation.sites[0]
    for day, let_in in ((4, True), (5, False)):
        federation.command(one, Today(day))
        assert lets_in(one) is let_in


def test_a_window_is_bounded_signed_and_left_out_where_there_is_none() -> None:
    before = Constitution(WORLD.charter)
    plain, until = rekeyed(before, 3), rekeyed(before, 3, "1970-01-05")
    assert b"until" not in plain.documents[0].encode()
    assert plain.head_hash != until.head_hash
    assert overlapping(until, 4) == {OLD: NEW}
    assert overlapping(until, 5) == overlapping(plain, 0) == {}
    assert not overlap_problem(until.documents[0].amendment, 0)
    assert "name a day from today to" in overlap_problem(until.documents[0].amendment, 5)
    late = rekeyed(before, 3, "1970-03-01")
    # Whatever a quorum signed, nobody lets an old key in for years.
    assert overlapping(late, 0) == {}
    assert "1970-02-01" in overlap_problem(late.documents[0].amendment, 0)
    with pytest.raises(ConfigError, match="expected a day as YYYY-MM-DD"):
        rekeyed(before, 3, "5.1.1970")
