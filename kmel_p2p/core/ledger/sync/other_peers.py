"""What the other peers last told of themselves, and how far they are seen to hold what is held here.

A `Have` names what a site holds by a digest. Where that is a digest of this site's own, now or lately, the vector is
known without being sent. Otherwise the site is *unexplained* until it sends its `Holdings`, or until this site comes to
hold the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import SignedHeader
from kmel_p2p.core.ledger.log.epoch import NO_EPOCHS
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import Have, Holdings
from kmel_p2p.core.ledger.sync.own_states import OwnStates, state_digest
from kmel_p2p.core.ledger.sync.statements import LogStatements
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros, Vector

PATIENCE: Micros = 300 * MILLISECOND
"""A digest that is not known here mostly is what this site will hold in a moment: only then it is asked about."""

ASK_AGAIN: Micros = 2 * SECOND
"""A site is asked what it holds no sooner after the last time."""


@dataclass(slots=True)
class OtherPeer:
    """What one of the other peers last told us."""

    phase: Phase = Phase.PREPARING
    step_us: Micros = 0
    heads: tuple[int, ...] = ()
    state: bytes = b""
    """The digest that it named last."""
    explained: bool = False
    """Whether `vector` is what that digest stands for."""
    since_us: Micros = 0
    """When it named it."""
    asked_us: Micros | None = None
    """When it was last asked what it holds."""
    vector: RosterVector | None = None
    """None: it told none, or goes by amendments that are not here, so that nobody can tell what it counts."""
    chains: bytes = b""
    ended: Vector | None = None
    epochs: bytes = NO_EPOCHS
    """Hash of the epochs that it holds."""
    agreed: bool = False
    """Whether it holds the headers that we hold at its vector."""
    agreed_at_us: Micros = 0
    agreed_vector: RosterVector | None = None
    """The newest vector at which it held our headers."""


class OtherPeers:
    """What every other peer told since it last came up."""

    def __init__(self, ledger: Ledger, forks: ForkFinder, statements: LogStatements, states: OwnStates) -> None:
        self._ledger = ledger
        self._forks = forks
        self._statements = statements
        self._states = states
        self._told: dict[SiteKey, OtherPeer] = {}

    def get(self, key: SiteKey) -> OtherPeer | None:
        """What `key` last told us."""
        return self._told.get(key)

    def told(self, key: SiteKey, have: Have, now: Micros) -> bool:
        """Take in what `key` tells of itself; returns whether it is the first time."""
        first = key not in self._told
        told = self._told.setdefault(key, OtherPeer())
        told.phase, told.step_us, told.heads = Phase(have.phase), have.step_us, have.heads
        self._states.now()
        if have.state != told.state:
            told.state, told.since_us, told.explained = have.state, now, False
        self._explain(told)
        self._agree(key, now)
        return first

    def holds(self, key: SiteKey, held: Holdings, now: Micros) -> None:
        """Take in what `key` holds. Numbers beyond what is proved count once their headers are shown."""
        told = self._told.setdefault(key, OtherPeer())
        order = self._ledger.accepted.order
        known = held.amendment in self._ledger.amended_rules.hashes
        told.state, told.since_us = state_digest(held.amendment, held.vector, held.chains, held.ended, held.epochs), now
        told.explained, told.agreed, told.chains = True, False, held.chains
        told.vector = held.vector.cut(len(order)) if known else None
        told.ended = order.named_at(held.ended) if known else {}
        told.epochs = held.epochs
        if told.vector is not None:
            self._statements.said(key, order.named(told.vector), now)
        self._agree(key, now)

    def amended(self) -> None:
        """Other amendments are in force or known here: what a peer told under them, and could not be read, is asked for
        again.

        Nothing else would bring it: a peer that is done names the same digest for ever.
        """
        for told in self._told.values():
            told.explained = told.explained and told.vector is not None

    def made_entry(self, header: SignedHeader, now: Micros) -> None:
        """An entry was applied: its author holds the base, with the headers that are here, and the entry itself."""
        told = self._told.get(header.author)
        if told is not None:
            accepted = self._ledger.accepted
            numbers = header.base.padded(len(accepted.order))
            numbers[accepted.order.place(header.author)] = header.number
            vector = RosterVector.of(numbers)
            if accepted.reaches(vector):
                told.agreed_at_us, told.agreed_vector = now, vector

    def unexplained(self, key: SiteKey) -> bool:
        """Whether `key` named a digest that says nothing here."""
        told = self._told.get(key)
        return told is not None and not told.explained

    def to_ask(self, alive: Iterable[SiteKey], awaited: Collection[SiteKey], now: Micros) -> list[SiteKey]:
        """Sites that are to be asked what they hold: their digests have said nothing for long enough.

        `awaited`: sites that this one waits for; they are asked at once, and sooner again.
        """
        self._states.now()
        found = []
        for key in alive:
            told = self._told.get(key)
            if told is None or told.explained or (key not in awaited and now < told.since_us + PATIENCE):
                continue
            self._explain(told)
            if not told.explained and self.may_ask(key, now, PATIENCE if key in awaited else ASK_AGAIN):
                found.append(key)
        return found

    def may_ask(self, key: SiteKey, now: Micros, again_us: Micros = ASK_AGAIN) -> bool:
        """Whether `key` has not been asked lately."""
        told = self._told.get(key)
        return told is None or told.asked_us is None or now >= told.asked_us + again_us

    def asked(self, key: SiteKey, now: Micros) -> None:
        """`key` is asked what it holds."""
        self._told.setdefault(key, OtherPeer()).asked_us = now

    def credible(self, key: SiteKey) -> Vector:
        """The vector that `key` last told us, as far as it is to be believed; empty when it told nothing."""
        return self._statements.credible(self._named(key))

    def number(self, key: SiteKey, author: SiteKey) -> int:
        """How far `key` says that the log of `author` goes, as far as it is to be believed."""
        told = self._told.get(key)
        order = self._ledger.accepted.order
        if told is None or told.vector is None or author not in order:
            return 0
        return min(told.vector.at(order.place(author)), self._statements.proved(author))

    def hold_the_same(self, keys: Iterable[SiteKey]) -> set[SiteKey]:
        """Those of `keys` that hold what is held here, as far as they are to be believed."""
        own = self._states.now()
        found = set()
        for key in keys:
            told = self._told.get(key)
            if told is None:
                continue
            explained = told.explained and told.vector is not None
            if told.state == own or (explained and self.credible(key) == self._ledger.vector):
                found.add(key)
        return found

    def lacking(self, key: SiteKey) -> int | None:
        """Entries held here that `key` has not told that it holds; None: it told nothing that can be read here."""
        told, accepted = self._told.get(key), self._ledger.accepted
        if told is None or told.vector is None:
            return None
        if told.vector == accepted.held:
            return 0
        places = len(accepted.order)
        more = accepted.held.padded(places) - told.vector.cut(places).padded(places)
        return int(more[more > 0].sum())

    def offered(self, key: SiteKey) -> Vector:
        """The vector that `key` last told us, as far as it may be asked for what is in it."""
        return self._statements.offered(self._named(key))

    def further(self, key: SiteKey) -> list[tuple[SiteKey, int]]:
        """Author and number, in the order of keys, where `key` may be asked for entries that are missing here."""
        told, accepted = self._told.get(key), self._ledger.accepted
        if told is None or told.vector is None or told.vector is accepted.held:
            return []
        order, known = accepted.order, self._statements.known
        beyond = ((order.keys[place], number) for place, number in accepted.beyond(told.vector))
        return sorted((author, min(number, known(author))) for author, number in beyond)

    def forget(self, key: SiteKey) -> None:
        """What `key` told us before no longer holds."""
        self._told.pop(key, None)

    def unread(self) -> None:
        """What others said that they hold can no longer be read: they are asked again."""
        self._states.forget()
        for told in self._told.values():
            told.explained, told.agreed, told.vector, told.ended, told.agreed_vector = False, False, None, {}, None

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

    def missing(self) -> Vector:
        """Author -> entries missing here that an own round waits for; without logs that cannot go on here.

        Among three sites or more the log of which most is missing does not count: who is really behind lacks entries
        of everybody, and one author that signed a header which no entries lead to would make everybody wait.
        """
        stuck = {entry.author for entry, _ in self._ledger.held_up()} | self._ledger.accepted.ended.keys()
        missing: dict[SiteKey, int] = {}
        for site in self._further():
            for author, number in self.credible(site).items():
                lacking = number - self._ledger.head(author)
                if lacking > missing.get(author, 0) and author not in stuck:
                    missing[author] = lacking
        if missing and len(self._ledger.accepted.order) > 2:
            del missing[max(missing, key=missing.__getitem__)]
        return missing

    def ahead(self) -> tuple[SiteKey, ...]:
        """Peers that hold entries which are missing here."""
        head = self._ledger.head
        return tuple(
            site
            for site in sorted(self._further())
            if any(number > head(author) for author, number in self.credible(site).items())
        )

    # ---- inner --------------------------------------------------------------------------------------------------

    def _further(self) -> list[SiteKey]:
        """Peers that say that a log goes further than here."""
        accepted = self._ledger.accepted
        others = {site: told.vector for site, told in self._told.items() if told.vector is not None}
        # Most of them name one of a few vectors.
        further = {vector for vector in {*others.values()} if not accepted.reaches(vector)}
        return [site for site, vector in others.items() if vector in further] if further else []

    def _named(self, key: SiteKey) -> Vector:
        told = self._told.get(key)
        return {} if told is None or told.vector is None else self._ledger.accepted.order.named(told.vector)

    def _explain(self, told: OtherPeer) -> None:
        """Find out what a digest stands for, if this site holds or held the same."""
        own = None if told.explained else self._states.get(told.state)
        if own is not None:
            told.explained, told.agreed, told.vector, told.chains = True, False, own.vector, own.chains
            told.epochs = own.epochs

    def _agree(self, key: SiteKey, now: Micros) -> None:
        """Compare headers with what a peer told us, as soon as we have reached its vector."""
        told = self._told[key]
        if told.agreed or not told.explained or told.vector is None:
            return
        if not self._ledger.accepted.reaches(told.vector):
            return
        chains = self._ledger.accepted.chains(told.vector)
        told.agreed = chains == told.chains
        if told.agreed:
            told.agreed_at_us, told.agreed_vector = now, told.vector
        if chains is not None and not told.agreed:
            self._forks.compare(key, told.vector)
