"""Claims: sites exchange signed digests of their trunks and check whether they hold the same.

A claim names a vector, the hash of the headers there and the digest of the sum there. The receiver subtracts what it
holds beyond that vector, exactly, and compares. Different headers mean that some author forked: the two sites compare
branches. Equal headers with different sums mean that one of the two ledgers is damaged: an alarm with the signed claim
as evidence, never ignored. Which of the two is found by asking the others (`outvoted`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kmel_p2p.agreement.identity import Identity, SiteKey, digest, verify
from kmel_p2p.core.computing import Answer, Computing
from kmel_p2p.core.effects import Effect, Emit, Persist, Send
from kmel_p2p.core.ledger.events import AgreementRecord, Divergence, DivergenceRecord, EntryRefused, SumsAgree
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import Attest, Claim
from kmel_p2p.core.ledger.sync.outvoted import Vote
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import SECOND, Micros, Randomness

KEPT_DIGESTS = 8
"""Answers remembered: sites tend to ask about the same few vectors."""


_Heads = tuple[RosterVector, bytes | None]
"""A vector, and the hash of the headers there."""


class Digests:
    """Digests of the ledger at past and present vectors; equal questions are answered once."""

    def __init__(self, ledger: Ledger, computing: Computing) -> None:
        self._ledger = ledger
        self._computing = computing
        self._known: dict[_Heads, bytes] = {}
        self._asked: dict[_Heads, list[Answer]] = {}

    def at(self, vector: RosterVector, answer: Answer) -> bool:
        """Call `answer` with the digest at `vector`, now or later; with None when the ledger cannot tell.

        Whether the entries above the vector are still held is checked when the work begins. Returns False, and never
        answers, when too much waits already.
        """
        # A number means another entry once its log went on in another epoch.
        heads = vector, self._ledger.accepted.chains(vector)
        known = self._known.get(heads)
        if known is not None:
            answer(known)
            return True
        if heads in self._asked:
            self._asked[heads].append(answer)
            return True
        self._asked[heads] = [answer]
        started = self._computing.start(
            lambda: self._ledger.digest_work(vector), lambda result: self._found(heads, result)
        )
        if not started:
            del self._asked[heads]
        return started

    def forget(self) -> None:
        """The ledger took something back: earlier answers no longer hold."""
        self._known.clear()

    def _found(self, heads: _Heads, result: bytes | None) -> None:
        if result is not None and self._ledger.accepted.chains(heads[0]) == heads[1]:
            self._known[heads] = result
            if len(self._known) > KEPT_DIGESTS:
                del self._known[next(iter(self._known))]
        for answer in self._asked.pop(heads, []):
            answer(result)


SIGNING_CONTEXT = b"kmel claim 2"

MAX_TOLD = 32
"""Sites told at the end of a run."""


@dataclass(frozen=True, slots=True)
class ClaimSettings:
    """How often digests are exchanged."""

    interval_us: Micros = 30 * SECOND
    """Between two claims to a random site. A damaged ledger is found within about this times the sites."""


def sign_claim(
    identity: Identity, charter_id: bytes, amendment: bytes, vector: RosterVector, chains: bytes, found: bytes
) -> Claim:
    """A signed claim of this site."""
    signature = identity.sign(SIGNING_CONTEXT, _signed(charter_id, amendment, vector, chains, found))
    return Claim(amendment, vector, chains, found, signature)


def claim_is_signed(site: SiteKey, charter_id: bytes, claim: Claim) -> bool:
    """Whether `site` signed this claim."""
    signed = _signed(charter_id, claim.amendment, claim.vector, claim.chains, claim.digest)
    return verify(site, SIGNING_CONTEXT, signed, claim.signature)


def _signed(charter_id: bytes, amendment: bytes, vector: RosterVector, chains: bytes, found: bytes) -> bytes:
    return digest(charter_id, amendment, chains, found, vector.packed)


class Claims:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        digests: Digests,
        forks: ForkFinder,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        settings: ClaimSettings,
        now: Micros,
        others: Callable[[], set[SiteKey]],
    ) -> None:
        """`others`: the sites whose word counts about which ledger is damaged."""
        self.vote = Vote(others)
        self.on_match: Callable[[SiteKey, Claim], None] = lambda site, claim: None
        """Called when another site's claim holds here."""
        self._identity = identity
        self._ledger = ledger
        self._digests = digests
        self._forks = forks
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._interval_us = settings.interval_us
        self._early: dict[SiteKey, Claim] = {}
        self._alarmed: set[SiteKey] = set()
        self._next_us = now + self._jittered()
        self._now = now

    # ---- machine ------------------------------------------------------------------------------------------------

    def on_claim(self, sender: SiteKey, claim: Claim, now: Micros) -> bool:
        """Check a site's claim; False when the site did not sign it."""
        self._now = now
        if not claim_is_signed(sender, self._ledger.rules.charter_id, claim):
            self._outbox.append(Emit(EntryRefused(sender, None, "it did not sign its claim")))
            return False
        self._check(sender, claim)
        return True

    def advance(self, now: Micros) -> None:
        """Send a claim to a random site when it is due; check claims again that came before their entries."""
        self._now = now
        if now < self._next_us:
            return
        self._next_us = now + self._jittered()
        early, self._early = self._early, {}
        for site in sorted(early):
            self._check(site, early[site])
        alive = sorted(self._alive())
        if alive and self._ledger.vector:
            self.tell((self._rng.choice(alive),), self._ledger.accepted.held)

    def deadline(self) -> Micros:
        """When `advance` has something to do."""
        return self._next_us

    def tell_all(self) -> None:
        """The run is over: tell reachable sites what this site ended with."""
        alive = sorted(self._alive())
        self.tell(alive if len(alive) <= MAX_TOLD else self._rng.sample(alive, MAX_TOLD), self._ledger.accepted.held)

    def tell(self, sites: Iterable[SiteKey], vector: RosterVector) -> None:
        """Send a claim at `vector` to these sites, once its digest is computed."""
        told = tuple(sites)
        standing = self._standing(vector)
        if standing is not None and not self._ledger.stale:
            self._digests.at(vector, lambda found: self._send(told, vector, standing, found))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _jittered(self) -> Micros:
        return self._interval_us // 2 + self._rng.randrange(self._interval_us)

    def _standing(self, vector: RosterVector) -> tuple[bytes, bytes] | None:
        """Hash of the headers at `vector`, and `Ledger.standing`. Together with the vector: all but the sum."""
        chains = self._ledger.accepted.chains(vector)
        return None if chains is None else (chains, self._ledger.standing)

    def _send(
        self, sites: tuple[SiteKey, ...], vector: RosterVector, was: tuple[bytes, bytes], found: bytes | None
    ) -> None:
        # A log may have ended while the digest was computed: then nobody is told, and the next claim is up to date.
        if found is None or self._standing(vector) != was:
            return
        chains, amendment = was
        claim = sign_claim(self._identity, self._ledger.rules.charter_id, amendment, vector, chains, found)
        for site in sites:
            self._outbox.append(Send(site, claim))

    def _check(self, site: SiteKey, claim: Claim) -> None:
        if self._ledger.stale:
            return
        if claim.amendment != self._ledger.standing or not self._ledger.accepted.reaches(claim.vector):
            self._early[site] = claim
            return
        chains = self._ledger.accepted.chains(claim.vector)
        if chains is None:
            return
        if chains != claim.chains:
            self._forks.compare(site, claim.vector)
            return
        self._digests.at(claim.vector, lambda found: self._compare(site, claim, found))

    def _compare(self, site: SiteKey, claim: Claim, found: bytes | None) -> None:
        if found is None or self._standing(claim.vector) != (claim.chains, claim.amendment):
            return
        if found == claim.digest:
            self.vote.agrees(site, claim)
            if site in self._alarmed:
                self._alarmed.discard(site)
                self._outbox.append(Persist(AgreementRecord(site)))
                self._outbox.append(Emit(SumsAgree(site)))
            self.on_match(site, claim)
            return
        if self.vote.differs(site, claim, self._now):
            for other in sorted(self._alive()):
                if other != site:
                    self._outbox.append(Send(other, Attest(claim.amendment, claim.vector)))
        if site not in self._alarmed:
            self._alarmed.add(site)
            record = DivergenceRecord(
                site, claim.amendment, claim.vector, claim.chains, found, claim.digest, claim.signature
            )
            self._outbox.append(Persist(record))
            self._outbox.append(Emit(Divergence(site, found, claim.digest)))
