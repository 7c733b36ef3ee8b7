"""Whole peers whose keys the others' gates refuse: each side learns at the desk which amendment it lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.rounds import Amend, Phase
from kmel_p2p.core.types import SECOND
from kmel_p2p.site.desk.amendment_lane import MAX_HANDED_AMENDMENTS, MAX_HANDED_BYTES
from tests.testbed.peers.federation import PeerFederation
from tests.testbed.peers.peer_site import PeerSite
from tests.testbed.peers.site import make_world

WORLD = make_world("ledger", founders=3, spares=1, entry_limit=40)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[PeerFederation]:
    """Three founders that have published, the third of which is off again; and a spare site."""
    made = PeerFederation(WORLD, 5, tmp_path)
    for site in made.sites[:3]:
        made.start(site)
    made.network.run_until(9 * SECOND)
    made.lose_power(made.sites[2], reset=True)
    yield made
    made.close()


def signed(federation: PeerFederation, signers: tuple[int, ...] = (0, 1), **changes: Any) -> AmendmentDocument:
    constitution = federation.sites[0].site.constitution
    document = constitution.draft(**changes)
    for index in signers:
        document = document.signed_by(WORLD.identities[index], constitution)
    return document


def left(federation: PeerFederation, how: str) -> Mapping[str, Any]:
    rule = {"name": "site2", "last": published(federation.sites[0], federation.sites[2])}
    if how == "retired":
        return {"retire": [rule]}
    return {"rekey": [{**rule, "key": WORLD.identities[3].key.hex()}]}


def published(at: PeerSite, author: PeerSite) -> int:
    assert at.life is not None
    return at.life.peer.averaging.vector[author.key]


@pytest.mark.parametrize(("how", "words"), [("retired", "retired by an amendment"), ("rekeyed", "has the former one")])
def test_who_left_the_roster_while_off_says_so_within_seconds_and_trains_no_more(
    federation: PeerFederation, how: str, words: str
) -> None:
    assert federation.amend(federation.sites[0], signed(federation, **left(federation, how)))
    federation.network.run_until(12 * SECOND)
    gone = federation.sites[2]
    federation.start(gone)
    federation.network.run_until(20 * SECOND)
    assert gone.life is not None
    assert gone.site.constitution.number == 1
    assert gone.life.peer.averaging.phase is Phase.LISTENING
    assert [words in alarm.text for alarm in gone.document().alarms if alarm.what == "left the roster"] == [True]
    last = published(gone, gone)
    federation.network.run_until(26 * SECOND)
    assert published(gone, gone) == last == published(federation.sites[0], gone)


def test_what_is_handed_in_at_the_desk_is_proved_bounded_and_answered_with_a_number(
    federation: PeerFederation,
) -> None:
    site = federation.sites[0]
    taken: list[Any] = []
    lane = site.lane(taken.append)
    good, unsigned = signed(federation, entries=50), signed(federation, (0,), entries=60)
    for documents in (
        None,
        [1],
        [b"nonsense"],
        [unsigned.encode()],
        [good.encode()] * (MAX_HANDED_AMENDMENTS + 1),
        [bytes(MAX_HANDED_BYTES + 1)],
    ):
        with pytest.raises(LocalError):
            lane.read(documents)
    brought = lane.read([good.encode()])
    assert not taken
    # Who holds the charter learns a number, whatever else it asks for.
    assert lane.answer(False, 0, brought) == {"number": 1, "documents": []}
    assert taken == [Amend(good.encode())]
    federation.command(site, taken[0])
    assert lane.read([good.encode()]) == []
    # Somebody else may have handed it in meanwhile.
    assert lane.answer(False, 0, brought) == {"number": 1, "documents": []}
    assert len(taken) == 1
    # A site that is or was on the roster is given what it lacks.
    (kept,) = site.site.constitution.documents
    assert kept == good
    assert lane.answer(True, 0, [])["documents"] == [kept.encode()]
    for odd in (1, -1, 2**70, True, "0", None):
        assert lane.answer(True, odd, [])["documents"] == []
    with pytest.raises(LocalError, match="use the same version"):
        lane.heard("1", [])
