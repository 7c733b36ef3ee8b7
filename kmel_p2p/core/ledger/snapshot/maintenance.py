"""Maintains the ledger as a whole: claims, amendments, snapshots, retention. Single entries are `antientropy`'s."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.computing import Computing
from kmel_p2p.core.effects import Effect, Emit, Message, Persist
from kmel_p2p.core.ledger.events import (
    LedgerOutvoted,
    LedgerRestored,
    RetractionRecord,
    SnapshotAdopted,
    SnapshotRecord,
)
from kmel_p2p.core.ledger.harm.panel import Panel
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import RETIRED, Outcome
from kmel_p2p.core.ledger.reasons import SNAPSHOT, STALE
from kmel_p2p.core.ledger.snapshot.attempt import FetchStage
from kmel_p2p.core.ledger.snapshot.fetcher import SnapshotFetcher
from kmel_p2p.core.ledger.snapshot.retention import Retention, bytes_worth_keeping
from kmel_p2p.core.ledger.snapshot.server import SnapshotServer
from kmel_p2p.core.ledger.sync.amendment_exchange import AmendmentExchange
from kmel_p2p.core.ledger.sync.antientropy import AntiEntropy
from kmel_p2p.core.ledger.sync.claims import Claims, ClaimSettings, Digests
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import (
    Amendments,
    Attest,
    Claim,
    Compacted,
    Have,
    Holdings,
    SnapshotAsk,
    SnapshotOffer,
    SnapshotPart,
    VoteDigest,
    Votes,
    WantAmendments,
)
from kmel_p2p.core.rounds.states import Wait
from kmel_p2p.core.types import SECOND, Micros, Randomness, Vector

BELIEVED_AFTER: Micros = 5 * SECOND
"""When a site says that entries are compacted, a snapshot is fetched if they are still missing after so long."""

AGAIN_FIRST: Micros = 60 * SECOND
AGAIN_MOST: Micros = 3600 * SECOND
"""After a snapshot was adopted, another is fetched no sooner than this; the pause doubles with each."""

STALE_AGAIN: Micros = 10 * SECOND
STALE_MOST: Micros = 600 * SECOND
"""Where only a snapshot helps and none could be had, the next is sought after a pause, which doubles each time."""

FAR_BEHIND = 64
"""Entries that may be on their way at any time in a busy federation; a site less far behind fetches no snapshot."""

MESSAGES: tuple[type[Message], ...] = (
    Claim,
    Compacted,
    SnapshotAsk,
    SnapshotOffer,
    SnapshotPart,
    Attest,
    WantAmendments,
    Amendments,
    VoteDigest,
    Votes,
)


class Maintenance:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self,
        identity: Identity,
        charter: Charter,
        ledger: Ledger,
        antientropy: AntiEntropy,
        forks: ForkFinder,
        alive: Callable[[], tuple[SiteKey, ...]],
        outbox: deque[Effect],
        rng: Randomness,
        claims: ClaimSettings,
        now: Micros,
        blocked: Callable[[], frozenset[SiteKey]] = frozenset,
    ) -> None:
        def roster() -> int:
            return len(self.amendments.constitution.roster.keys() - blocked())

        self.amendments = AmendmentExchange(identity.key, ledger, alive, outbox)
        self.computing = Computing(outbox)
        self._ledger = ledger
        self._antientropy = antientropy
        self._outbox = outbox
        self._digests = Digests(ledger, self.computing)
        self.fetcher = SnapshotFetcher(
            identity.key,
            len(ledger.accumulator),
            lambda: self.amendments.constitution,
            alive,
            self._told,
            self.computing,
            outbox,
            rng,
            blocked,
            self._helps,
        )
        self.claims = Claims(
            identity, ledger, self._digests, forks, alive, outbox, rng, claims, now, self.fetcher.others
        )
        self.panel = Panel(identity, ledger, alive, outbox, rng, self._suspensions_changed, now)
        self._outvoted = False
        self._server = SnapshotServer(ledger, self.computing, outbox)
        retain = charter.ledger.retain_entries
        keep_bytes = bytes_worth_keeping(len(ledger.accumulator))
        self.retention = Retention(
            identity.key, ledger, roster, alive, antientropy.agreed_with, retain, keep_bytes, outbox, now
        )
        self._adopted = 0
        self._again_us = now
        self._last_resort_us = now
        self._stale_tries = 0
        self._stale_again_us = now
        self._hints: dict[SiteKey, tuple[Vector, Micros]] = {}
        self._next_us = now + BELIEVED_AFTER

    @property
    def fetching(self) -> Wait | None:
        """The wait for a snapshot that is on its way, or has to come."""
        fetcher = self.fetcher
        if self._ledger.stale and not fetcher.needs_operator:
            return Wait(STALE, fetcher.awaited, fetcher.until_us)
        return Wait(fetcher.progress, fetcher.awaited, fetcher.until_us, SNAPSHOT) if fetcher.active else None

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed one of `MESSAGES`, or what a site says of what it holds."""
        match message:
            case Claim():
                if self.claims.on_claim(sender, message, now):
                    self.fetcher.on_claim(sender, message, now)
            case Attest(amendment, vector):
                if amendment == self._ledger.standing:
                    self.claims.tell((sender,), vector)
            case Compacted(amendment, counted):
                if amendment not in self._ledger.amended_rules.hashes:
                    return
                floor = self._ledger.accepted.order.named(counted)
                since_us = self._hints[sender][1] if sender in self._hints else now
                self._hints[sender] = (floor, since_us)
                # Not asked for its headers at once: who sends this all the time would be the only one ever asked.
                self._antientropy.statements.said(sender, floor, now)
            case WantAmendments():
                self.amendments.on_want(sender, message)
            case Amendments():
                known = self.amendments.rivals
                for outcome in self.amendments.on_amendments(sender, message):
                    self._amended(outcome)
                if self.amendments.rivals > known:
                    # Who goes by the new one was shown before it was known here, and where the run is over, nothing
                    # else would have it shown again.
                    self._antientropy.states.others.amended()
            case Have():
                told = self._antientropy.other_peer(sender)
                if told is not None and told.explained and told.vector is not None:
                    for outcome in self.amendments.agrees(sender):
                        self._amended(outcome)
            case Holdings():
                for outcome in self.amendments.told(sender, message):
                    self._amended(outcome)
            case VoteDigest() | Votes():
                self.panel.receive(sender, message, now)
            case SnapshotAsk():
                self._server.on_ask(sender, message, now)
            case SnapshotOffer():
                self.fetcher.on_offer(sender, message, now)
            case SnapshotPart():
                self.fetcher.on_part(sender, message, now)

    def greet(self, site: SiteKey) -> None:
        """A site came up."""
        self.amendments.greet(site)
        self.panel.greet(site)

    def forget(self, site: SiteKey, now: Micros) -> None:
        """A site went away or came back."""
        self._hints.pop(site, None)
        self.fetcher.forget(site, now)
        # It may be the one that has what is needed.
        self._stale_again_us = min(self._stale_again_us, now + STALE_AGAIN)

    def advance(self, now: Micros) -> None:
        """Time passed."""
        for part in (self.claims, self.panel, self.fetcher, self._server, self.retention):
            part.advance(now)
        if now >= self._next_us:
            self._next_us = now + BELIEVED_AFTER
            self._look_behind(now)

    def deadline(self) -> Micros:
        """When `advance` is due next."""
        parts = (self.claims, self.panel, self.fetcher, self._server, self.retention)
        return min([self._next_us, *(m for m in (part.deadline() for part in parts) if m is not None)])

    def turn(self, may_adopt: bool, now: Micros) -> Outcome | None:
        """After every input: go by amendments that overruled ours, and adopt a snapshot that is attested.

        Args:
            may_adopt: no own entry is being stored.
            now: monotonic time.

        Returns:
            What other amendments changed, if they did.
        """
        changed = self._change_over() if may_adopt else None
        self._adopt_what_is_ready(may_adopt, now)
        return changed

    def amend(self, document: AmendmentDocument) -> None:
        """The operator hands over the next amendment.

        Raises:
            ConfigError: it is not in force; says why.
        """
        self._amended(self.amendments.enact(document))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _adopt_what_is_ready(self, may_adopt: bool, now: Micros) -> None:
        self._look_at_the_vote(now)
        self._antientropy.pull.active = not self.fetcher.active
        if self.fetcher.stage is not FetchStage.READY or not may_adopt:
            return
        snapshot, server, attested = self.fetcher.take()
        self._again_us = now + min(AGAIN_FIRST << min(self._adopted, 8), AGAIN_MOST)
        self._adopted += 1
        self._stale_tries = 0
        known = self.amendments.constitution.number
        ended = dict(self._ledger.accepted.ended)
        outcome = self._ledger.adopt(snapshot)
        self._digests.forget()
        self._hints.clear()
        self._antientropy.pull.active = True
        self._outbox.append(Persist(SnapshotRecord(snapshot, outcome.kept, server, attested)))
        self._outbox.append(Emit(SnapshotAdopted(snapshot.vector)))
        if self._outvoted:
            self._outvoted = False
            self._outbox.append(Emit(LedgerRestored()))
        self.claims.vote.forget()
        self.amendments.tell(known)
        self._antientropy.states.others.amended()
        self._antientropy.record(outcome, ended)
        self.panel.store(snapshot.votes)
        self.panel.turn()

    def _change_over(self) -> Outcome | None:
        ended = dict(self._ledger.accepted.ended)
        outcome = self.amendments.change_over()
        if outcome is None:
            return None
        self._digests.forget()
        self._hints.clear()
        self.fetcher.abandon()
        self._antientropy.changed_over()
        self.claims.vote.forget()
        # What does not stand any more was set aside with the amendments, and the ends of logs are recorded anew.
        gone, outcome.retracted = outcome.retracted, []
        for key, end in sorted(self._ledger.accepted.retired.items()):
            self._outbox.append(Persist(RetractionRecord(key, end, RETIRED, ())))
        self._antientropy.record(outcome, ended)
        outcome.retracted = gone
        self.panel.turn()
        return outcome

    def _amended(self, outcome: Outcome) -> None:
        self._digests.forget()
        self._antientropy.states.others.amended()
        self._antientropy.record(outcome, {})
        self.panel.turn()

    def _suspensions_changed(self) -> None:
        """Votes or an amendment changed what counts: sums computed before are of another trunk."""
        self._digests.forget()
        self.claims.vote.forget()

    def _told(self, site: SiteKey) -> Vector:
        return self._antientropy.offered(site)

    def _helps(self, site: SiteKey) -> bool:
        """Whether a site's snapshot may bring what is missing: sites that lack the same attest one another's."""
        parted = self._ledger.stale or self._ledger.accepted.overtaken or self.claims.vote.outvoted
        return bool(parted) or any(number > self._ledger.head(author) for author, number in self._told(site).items())

    def _look_behind(self, now: Micros) -> None:
        """Fetch a snapshot where entries alone cannot help or would take more bytes."""
        for site, (floor, since_us) in sorted(self._hints.items()):
            if all(self._ledger.head(author) >= number for author, number in floor.items()):
                del self._hints[site]
            elif now >= since_us + BELIEVED_AFTER:
                self._want_up_to(floor, now)
        behind = self._antientropy.statements.proved_behind()
        far_behind = behind >= FAR_BEHIND and self._antientropy.bytes_of(behind) > 8 * len(self._ledger.accumulator)
        if self.claims.vote.outvoted:
            self._want(now)
        elif self._ledger.stale:
            self._want_while_stale(now)
        elif far_behind or self._ledger.accepted.overtaken:
            self._want(now)

    def _want_up_to(self, floor: Vector, now: Micros) -> None:
        """Fetch a snapshot if some log certainly goes further than here, and what is missing of it is below `floor`.

        A log that stands still here in spite of a signed header may be a lie of its author. But it also stands still
        where a snapshot was tried in vain: so that is tried again now and then.
        """
        head, statements = self._ledger.head, self._antientropy.statements
        missing = [(author, number) for author, number in floor.items() if head(author) < number]
        if any(number <= statements.proved(author) for author, number in missing):
            self._want(now)
        elif now >= self._last_resort_us and any(number <= statements.known(author) for author, number in missing):
            self._last_resort_us = now + AGAIN_MOST
            self._want(now)

    def _look_at_the_vote(self, now: Micros) -> None:
        """Tell when this ledger is outvoted, or is no longer, and fetch another one."""
        self.claims.vote.count(now)
        sites = self.claims.vote.outvoted
        if bool(sites) == self._outvoted:
            return
        self._outvoted = bool(sites)
        if sites:
            self._outbox.append(Emit(LedgerOutvoted(sites)))
            self._want(now)
        else:
            self._outbox.append(Emit(LedgerRestored()))

    def _want_while_stale(self, now: Micros) -> None:
        if now >= self._stale_again_us and not self.fetcher.active:
            self._stale_again_us = now + min(STALE_AGAIN << min(self._stale_tries, 8), STALE_MOST)
            self._stale_tries += 1
            self.fetcher.want(now)

    def _want(self, now: Micros) -> None:
        """Fetch a snapshot, but not one after the other: what others say is all that speaks for it."""
        if now >= self._again_us:
            self.fetcher.want(now)
