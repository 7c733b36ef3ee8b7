"""What the other peers last told of themselves, and how far they are seen to hold what is held here."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import Have
from kmel_p2p.core.ledger.sync.statements import LogStatements
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import Micros, Vector


@dataclass(slots=True)
class OtherPeer:
    """What one of the other peers last told us."""

    vector: RosterVector | None
    """None: it goes by amendments that are not here, so that nobody can tell what it counts."""
    phase: Phase
    ended: dict[SiteKey, int]
    step_us: Micros
    chains: bytes
    heads: tuple[int, ...]
    agreed: bool = False
    """Whether it holds the headers that we hold at its vector."""
    agreed_at_us: Micros = 0
    agreed_vector: RosterVector | None = None
    """The newest vector at which it held our headers."""


class OtherPeers:
    """The last `Have` of every other peer since it last came up."""

    def __init__(self, ledger: Ledger, forks: ForkFinder, statements: LogStatements) -> None:
        self._ledger = ledger
        self._forks = forks
        self._statements = statements
        self._told: dict[SiteKey, OtherPeer] = {}

    def get(self, key: SiteKey) -> OtherPeer | None:
        """What `key` last told us."""
        return self._told.get(key)

    def told(self, key: SiteKey, have: Have, now: Micros) -> bool:
        """Take in what `key` tells; returns whether it is the first time."""
        before = self._told.get(key)
        order = self._ledger.accepted.order
        known = have.amendment in self._ledger.amended_rules.hashes
        ended = order.named_at(have.ended) if known else {}
        vector = have.vector.cut(len(order)) if known else None
        told = OtherPeer(vector, Phase(have.phase), ended, have.step_us, have.chains, have.heads)
        if before is not None:
            told.agreed_at_us, told.agreed_vector = before.agreed_at_us, before.agreed_vector
        self._told[key] = told
        if vector is not None:
            self._statements.said(key, order.named(vector), now)
        self._agree(key, now)
        return before is None

    def credible(self, key: SiteKey) -> Vector:
        """The vector that `key` last told us, as far as it is to be believed; empty when it told nothing."""
        return self._statements.credible(key, self._named(key))

    def awaited(self, key: SiteKey, author: SiteKey) -> int:
        """How far `key` says that the log of `author` goes, as far as an own round waits for it."""
        told = self._told.get(key)
        order = self._ledger.accepted.order
        if told is None or told.vector is None or author not in order:
            return 0
        return self._statements.awaited(key, author, told.vector.at(order.place(author)))

    def holds_the_same(self, key: SiteKey) -> bool:
        """Whether `key` says that it holds exactly what is held here."""
        told = self._told.get(key)
        return told is not None and told.vector == self._ledger.accepted.held

    def offered(self, key: SiteKey) -> Vector:
        """The vector that `key` last told us, as far as it may be asked for what is in it."""
        return self._statements.offered(key, self._named(key))

    def forget(self, key: SiteKey) -> None:
        """What `key` told us before no longer holds."""
        self._told.pop(key, None)

    def agreed_with(self, key: SiteKey) -> tuple[RosterVector, Micros] | None:
        """The vector up to which `key` was last seen to hold our headers, and when that was."""
        told = self._told.get(key)
        if told is None or told.agreed_vector is None:
            return None
        return told.agreed_vector, told.agreed_at_us

    def agree(self, now: Micros) -> None:
        """Compare headers with every peer whose vector we have reached by now."""
        for key in self._told:
            self._agree(key, now)

    def missing(self) -> int:
        """Entries missing here that an own round waits for; without logs that cannot go on here.

        Among three sites or more the log of which most is missing does not count: who is really behind lacks entries
        of everybody, and one author that signed a header which no entries lead to would make everybody wait.
        """
        stuck = {entry.author for entry, _ in self._ledger.held_up()} | self._ledger.accepted.ended.keys()
        here = self._ledger.accepted.heads
        missing: dict[SiteKey, int] = {}
        for site, told in self._told.items():
            if told.vector is None or not (told.vector.padded(here.size) > here).any():
                continue
            for author, number in self._named(site).items():
                if number > self._ledger.head(author) and author not in stuck:
                    lacking = self._statements.awaited(site, author, number) - self._ledger.head(author)
                    missing[author] = max(missing.get(author, 0), lacking)
        largest = max(missing.values(), default=0) if here.size > 2 else 0
        return sum(missing.values()) - largest

    def ahead(self) -> tuple[SiteKey, ...]:
        """Peers that hold entries which are missing here."""
        head = self._ledger.head
        return tuple(
            site
            for site in sorted(self._told)
            if any(number > head(author) for author, number in self.credible(site).items())
        )

    def _named(self, key: SiteKey) -> Vector:
        told = self._told.get(key)
        return {} if told is None or told.vector is None else self._ledger.accepted.order.named(told.vector)

    def _agree(self, key: SiteKey, now: Micros) -> None:
        """Compare headers with what a peer told us, as soon as we have reached its vector."""
        told = self._told[key]
        if told.agreed or told.vector is None or not self._ledger.accepted.reaches(told.vector):
            return
        chains = self._ledger.accepted.chains(told.vector)
        told.agreed = chains == told.chains
        if told.agreed:
            told.agreed_at_us, told.agreed_vector = now, told.vector
        if chains is not None and not told.agreed:
            self._forks.compare(key, told.vector)
