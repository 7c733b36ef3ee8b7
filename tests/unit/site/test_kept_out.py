"""A site whose key another one refuses asks that one's desk, over real sockets."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.net.desk import Desk, DeskGuest
from kmel_p2p.site.clock import now_us
from kmel_p2p.site.desk.amendment_lane import AGAIN_US, REQUEST, AmendmentLane, KeptOut
from kmel_p2p.site.site import Site
from tests.support.net_peers import Federation, until
from tests.testbed.peers.site import make_site, make_world

WORLD = make_world("ledger", founders=3, spares=1, entry_limit=10)
FOUNDED = Constitution(WORLD.charter)


def with_newcomer() -> Constitution:
    document = FOUNDED.draft(add=(WORLD.rule(3),))
    for identity in WORLD.identities[:2]:
        document = document.signed_by(identity, FOUNDED)
    return FOUNDED.followed_by(document)


class Lane:
    """Takes the place of what is asked and taken in."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.asked: list[tuple[DeskGuest, Mapping[str, Any]]] = []
        self.replies: list[Any] = []

    def question(self, theirs: int) -> Mapping[str, Any]:
        documents = [document.encode() for document in self._site.constitution.documents[theirs:]]
        return {"have": self._site.constitution.number, "documents": documents}

    def read(self, documents: Any) -> list[Any]:
        return [("read", documents)]

    def heard(self, number: int, brought: list[Any]) -> int:
        self.replies.append(brought)
        return number

    async def answer(self, guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        assert name == REQUEST
        self.asked.append((guest, arguments))
        return {"number": 0, "documents": []}


@pytest.mark.parametrize("who", ["former", "added"])
async def test_it_asks_as_a_former_site_and_else_hands_in_as_a_bearer_of_the_charter(who: str, tmp_path: Path) -> None:
    index = {"former": 2, "added": 3}[who]
    asks, asked = WORLD.identities[index], Identity(bytes([1]) * 32)
    site = make_site(WORLD, index, with_newcomer(), tmp_path)
    lane, clock = Lane(site), [now_us()]
    former = {asks.key} if who == "former" else set()
    desk = Desk(asked, tuple, tuple, lane.answer, now_us, former=lambda: former, charter_id=WORLD.charter.id)
    federation, threads = Federation(), ThreadPoolExecutor(1)
    peer = await federation.add(1, desk=desk)
    kept_out = KeptOut(
        cast(AmendmentLane, lane),
        lambda: site,
        lambda key: (peer.address,),
        lambda to, question: True,
        threads,
        "",
        lambda: clock[0],
    )
    try:
        kept_out.refused_by(peer.key)
        # Dials follow each other quickly at first.
        kept_out.refused_by(peer.key)
        documents = [document.encode() for document in site.constitution.documents]
        asking = (DeskGuest(site=asks.key, former=True), {"have": 1, "documents": []})
        hearing, handing = ((DeskGuest(bearer=True), {"have": 1, "documents": each}) for each in ([], documents))
        once = [asking] if who == "former" else [hearing, handing]
        await until(lambda: len(lane.replies) == len(once), what="what is asked once was answered")
        assert lane.asked == once
        clock[0] += AGAIN_US
        kept_out.refused_by(peer.key)
        await until(lambda: len(lane.replies) == 2 * len(once), what="it was asked again")
        assert lane.asked == 2 * once
    finally:
        await kept_out.close()
        await federation.close()
        threads.shutdown()
