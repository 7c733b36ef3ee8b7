"""What sites of a schedule say about each other: looks that find harm, or none, and votes that a hostile key signs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.harm.suspensions import vote_reach
from kmel_p2p.core.ledger.harm.vote import cast
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.messages import Votes
from kmel_p2p.core.rounds import EndpointLook, Look, Looked
from kmel_p2p.core.types import SECOND, Micros
from tests.testbed.peers.federation import PeerFederation
from tests.testbed.peers.peer_site import PeerSite
from tests.testbed.peers.schedule import Happening

LOOKS = 6
"""In one happening, spread over the time that it lasts."""
FORGED = 12
"""Votes that a hostile site sends around in one happening."""


class Voting:
    """See the module docstring.

    Attributes:
        accused: author and voter, by index, where the voter honestly found harm.
        colluders: sites whose key signed votes without a look.
    """

    def __init__(self, federation: PeerFederation, at: Callable[[Micros, Callable[[], object]], None]) -> None:
        self.accused: set[tuple[int, int]] = set()
        self.colluders: set[int] = set()
        self._federation = federation
        self._at = at

    def look(self, voters: Iterable[PeerSite], author: PeerSite, happening: Happening, harm: float) -> None:
        """Sites look at an author now and then for a while."""
        for voter in voters:
            if voter is author:
                continue
            if harm:
                self.accused.add((author.index, voter.index))
            for look in range(LOOKS):
                at_s = happening.at_s + happening.lasts_s * look / LOOKS
                self._at(round(at_s * SECOND), lambda voter=voter: self._look(voter, author, harm))  # type: ignore[misc]

    def collude(self, voter: PeerSite, author: PeerSite, happening: Happening) -> bool:
        """Votes of many kinds, each to some of the sites."""
        ledger = _ledger_of(voter) or _ledger_of(author)
        if ledger is None or ledger.constitution is None:
            return False
        rng = random.Random(f"{happening.at_s} {happening.site} {happening.other}")
        federation, identity = self._federation, self._federation.world.identities[voter.index]
        self.colluders.add(voter.index)
        reach, head = vote_reach(ledger.constitution), max(1, ledger.head(author.key))
        for _ in range(FORGED):
            number = rng.choice((rng.randint(1, head), head, head + 5))
            first = rng.randint(max(1, number - reach), number)
            term = rng.choice((ledger.suspensions.term(author.key), 0, 1))
            vote = cast(
                identity, federation.world.charter.id, author.key, term, (first, number), {0: 3}, rng.random() < 0.8
            )
            packed = federation.carrier.pack(Votes((vote.encode(),)))
            for target in federation.running:
                if target is not voter and rng.random() < 0.5:
                    hosts = federation.hosts
                    federation.network.inject(hosts[voter.number], hosts[target.number], packed, len(packed))
        return True

    # ---- inner --------------------------------------------------------------------------------------------------

    def _look(self, voter: PeerSite, author: PeerSite, harm: float) -> None:
        ledger = _ledger_of(voter)
        if ledger is None or author.key in ledger.suspended:
            return
        head, oldest = ledger.head(author.key), ledger.accepted.log(author.key).first
        first = max(oldest, head - vote_reach(ledger.constitution) + 1)
        if first <= head:
            part = EndpointLook(100, 1.0 + harm, 1.0, 0.05)
            self._federation.command(voter, Looked((Look(author.key, first, head, {0: part}),)))


def _ledger_of(site: PeerSite) -> Ledger | None:
    averaging = site.life.peer.averaging if site.life is not None else None
    return averaging.ledger if isinstance(averaging, LedgerAveraging) else None
