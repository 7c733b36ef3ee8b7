"""Anti-entropy: keeps this site's ledger and the others' equal, after Demers et al. (1987).

New entries are pushed (`push`). Whatever that misses, digests find: now and then one site is told in a few bytes what
is held here, and says the same of itself. Where a digest says nothing to its receiver, the two exchange vectors, with
the signed headers of what only one of them has, and each asks for what it lacks (`pull`). Bodies move only on request
or from their author, so in a run without faults each arrives once. Any site may hand on any entry: it cannot alter what
the author signed.

See `state_exchange` for digests and vectors. This is about entries, and about what keeps logs from going on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message, Send
from kmel_p2p.core.ledger.events import EntryRefused
from kmel_p2p.core.ledger.log.entry import decode, decode_stub
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome, Verdict, changes
from kmel_p2p.core.ledger.rules.entry_check import Hold
from kmel_p2p.core.ledger.sync.epoch_exchange import EpochExchange
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import (
    MAX_BODIES,
    Announce,
    Bodies,
    EntryId,
    Epochs,
    Have,
    Heads,
    Holdings,
    Proofs,
    Stubs,
    Want,
    WantAmendments,
)
from kmel_p2p.core.ledger.sync.other_peers import OtherPeer
from kmel_p2p.core.ledger.sync.pull import AnswerBudget, Pull, answers
from kmel_p2p.core.ledger.sync.push import Push
from kmel_p2p.core.ledger.sync.state_exchange import AntiEntropySettings, StateExchange
from kmel_p2p.core.ledger.sync.statements import LogStatements
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import SECOND, Micros, Randomness, Vector

STUCK_AFTER: Micros = 60 * SECOND
"""A log whose next entry could not be judged for so long may never go on."""

REFUSED_AT_ONCE = 4
"""After so many refused entries the rest of a message is not looked at: judging costs time, and telling it a log line.
What was honest among the rest comes again from somebody else."""


class AntiEntropy:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self,
        own: SiteKey,
        ledger: Ledger,
        forks: ForkFinder,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        settings: AntiEntropySettings,
        max_payload_bytes: int,
        now: Micros,
    ) -> None:
        self.behind: Vector = {}
        """Author -> entries missing here, by the site that is furthest ahead; updated now and then."""
        self.stuck: set[SiteKey] = set()
        """Authors whose next entry has waited long for something that nobody could supply."""
        self.push = Push(alive, outbox, rng, settings.eager_bytes, settings.fanout, settings.spread_period_us)
        self.pull = Pull(ledger, outbox, rng, settings.spread_period_us // 2, settings.want_timeout_us)
        self._own = own
        self._ledger = ledger
        self._forks = forks
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._interval_us = settings.interval_us
        self._max_payload_bytes = max_payload_bytes
        self.statements = LogStatements(own, ledger, outbox)
        self.states = StateExchange(ledger, forks, self.statements, alive, outbox, rng, settings, self._refuse, now)
        self._other_peers = self.states.others
        self.epochs = EpochExchange(ledger, self.statements, alive, outbox, self._take_epoch)
        self._now = now
        self._held_since_us: dict[SiteKey, Micros] = {}
        self._next_summary_us = now + self._jittered()
        self._budget = AnswerBudget()
        self._seen_entries = 0
        self._seen_bytes = 0

    # ---- what the other peers told us ---------------------------------------------------------------------------

    def other_peer(self, key: SiteKey) -> OtherPeer | None:
        """What `key` last told us, if anything since it last came up."""
        return self._other_peers.get(key)

    def credible(self, key: SiteKey) -> Vector:
        """The vector that `key` last told us, as far as it is to be believed."""
        return self._other_peers.credible(key)

    def lacking(self, key: SiteKey) -> int | None:
        """Entries held here that `key` has not told that it holds; None: it told nothing that can be read here."""
        return self._other_peers.lacking(key)

    def offered(self, key: SiteKey) -> Vector:
        """How far `key` may be asked for entries, or for a snapshot."""
        return self._other_peers.offered(key)

    def ahead(self) -> tuple[SiteKey, ...]:
        """Sites that hold entries which are missing here."""
        return self._other_peers.ahead()

    def holds(self, key: SiteKey, author: SiteKey) -> int:
        """How far `key` says that the log of `author` goes, as far as it is to be believed."""
        return self._other_peers.number(key, author)

    def has_heard(self, key: SiteKey) -> bool:
        """Whether `key` said what it holds since it last came up."""
        told = self._other_peers.get(key)
        return told is not None and (told.explained or told.vector is not None)

    def end_with_us(self, keys: Iterable[SiteKey]) -> set[SiteKey]:
        """Those of `keys` that hold what is held here, as far as they are to be believed."""
        return self._other_peers.hold_the_same(keys)

    def agreed_with(self, key: SiteKey) -> tuple[RosterVector, Micros] | None:
        """The vector up to which `key` was last seen to hold our headers, and when that was."""
        return self._other_peers.agreed_with(key)

    def bytes_of(self, entries: int) -> int:
        """Estimated bytes of so many entries; 0 before any entry arrived."""
        return entries * self._seen_bytes // self._seen_entries if self._seen_entries else 0

    def forget(self, key: SiteKey) -> None:
        """A site went away or came back: what it told us before no longer holds."""
        self.states.forget(key)
        self.pull.forget(key)

    # ---- machine ------------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed a ledger message."""
        self._now = now
        match message:
            case Have():
                if self.states.on_have(sender, message, now):
                    self.behind = self._other_peers.missing()
                self._pull_from(sender, now)
            case Holdings():
                self.states.on_holdings(sender, message, now)
                self.epochs.compare(sender, message, now)
                self.behind = self._other_peers.missing()
                self._pull_from(sender, now)
            case Want():
                self._answer(sender, message, now)
            case Bodies():
                self._on_bodies(sender, message, now)
            case Announce(ids):
                for author, number in ids:
                    self.push.knows(EntryId(author, number), sender)
                self.pull.ask(sender, ids, now)
            case Proofs():
                self._on_proofs(sender, message)
            case Heads():
                self._forks.on_heads(sender, message)
            case Stubs():
                self._on_stubs(sender, message, now)
            case Epochs():
                try:
                    self.epochs.on_epochs(sender, message)
                except WireError as error:
                    self._refuse(sender, None, str(error))
                self._pull_from(sender, now)

    def advance(self, now: Micros) -> None:
        """Go on applying, announce, repeat what got no answer, send the periodic summary: whatever is due."""
        self._now = now
        if self._ledger.unsettled:
            self._take(self._own, self._ledger.settle())
        alive = sorted(self._alive())
        self.push.advance(alive, now)
        self.pull.advance(now)
        if now < self._next_summary_us:
            return
        self._next_summary_us = now + self._jittered()
        self.statements.advance(alive, now, comes=self.pull.active)
        self.behind = self._other_peers.missing()
        held = {entry.author for entry, _ in self._ledger.held_up()}
        # Announcements get lost, and only large entries are announced: beside those a digest costs nothing.
        announced = self.push.deadline() is not None
        self.states.advance(alive, amiss=bool(held) or self.pull.retried or announced, now=now)
        self.pull.retried = False
        self._help_held_up(alive)
        self._held_since_us = {key: self._held_since_us.get(key, now) for key in held}
        self.stuck = {key for key, since_us in self._held_since_us.items() if now >= since_us + STUCK_AFTER}
        self._other_peers.agree(now)

    def deadline(self) -> Micros:
        """When `advance` has something to do; in the past when at once."""
        if self._ledger.unsettled:
            return 0
        moments = (self._next_summary_us, self.push.deadline(), self.pull.deadline())
        return min(m for m in moments if m is not None)

    def changed_over(self) -> None:
        """Other amendments are in force: the places in what was said stand for other sites now."""
        self._other_peers.unread()
        self.statements.unsay()

    def record(self, outcome: Outcome, ended: Vector) -> None:
        """A snapshot was adopted or an amendment came into force: record what changed, and tell the others.

        Args:
            outcome: what changed.
            ended: logs that had ended before; recorded anew, but not reported to the operator again.
        """
        self._take(self._own, outcome, ended)
        self.behind = self._other_peers.missing()
        self.states.announce()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _jittered(self) -> Micros:
        return self._interval_us // 2 + self._rng.randrange(self._interval_us)

    def _pull_from(self, site: SiteKey, now: Micros) -> None:
        """Ask `site` for everything that it told us of and that we lack."""
        told = self._other_peers.get(site)
        if told is None:
            return
        ended = sorted((told.ended or {}).items())
        evidence = tuple(key for key, number in ended if not self._explains(told, key, number))
        further = self._other_peers.further(site)
        if further or evidence:
            self.pull.ask(site, further, now, evidence)

    def _explains(self, told: OtherPeer, author: SiteKey, number: int) -> bool:
        """Whether a proof, an amendment or an epoch here says why a log ends or parted there before `number`."""
        accepted = self._ledger.accepted
        goes_on = told.vector is not None and told.vector.at(accepted.order.place(author)) >= number
        return accepted.is_proved(author, number) if goes_on else accepted.ends_by(author, number)

    def _answer(self, sender: SiteKey, want: Want, now: Micros) -> None:
        if self._budget.left(sender, now) > 0:
            effects = answers(want, self._ledger.accepted, sender)
            self._budget.spend(sender, effects, now)
            self._outbox += effects

    def _on_bodies(self, sender: SiteKey, bodies: Bodies, now: Micros) -> None:
        gaps: list[EntryId] = []
        refused = 0
        for encoded in bodies.entries:
            try:
                entry = decode(encoded, max_payload_bytes=self._max_payload_bytes)
            except WireError as error:
                refused += 1
                self._refuse(sender, None, str(error))
                if refused == REFUSED_AT_ONCE:
                    break
                continue
            self.pull.arrived(EntryId(entry.author, entry.number), sender, now)
            self._seen_entries += 1
            self._seen_bytes += len(encoded)
            outcome = self._ledger.offer(entry)
            self._take(sender, outcome)
            if outcome.refusal is not None or outcome.verdict in (Verdict.REFUSED, Verdict.DROPPED):
                reason = outcome.refusal.value if outcome.refusal else outcome.verdict.value
                refused += outcome.verdict is Verdict.REFUSED
                self._refuse(sender, entry.author, reason)
                if refused == REFUSED_AT_ONCE:
                    break
            if outcome.verdict in (Verdict.APPLIED, Verdict.WAITING):
                self.push.received(sender, entry, len(encoded), now)
            if outcome.verdict is Verdict.WAITING:
                # Whoever hands over an entry has its base: no need to wait for a summary to notice the gap.
                accepted = self._ledger.accepted
                for place, number in accepted.beyond(entry.base.cut(len(accepted.order))):
                    author = accepted.order.keys[place]
                    gaps += self.pull.missing(author, number, sender, MAX_BODIES - len(gaps), now)
        self.pull.send(sender, gaps)
        self._pull_from(sender, now)

    def _on_proofs(self, sender: SiteKey, proofs: Proofs) -> None:
        for evidence in proofs.faults:
            try:
                outcome = self._ledger.offer_proof(evidence, self._max_payload_bytes)
            except WireError as error:
                self._refuse(sender, None, str(error))
                return
            self._take(sender, outcome)
            if outcome.faults or outcome.late:
                continue
            if outcome.author is not None:
                # It rests on what its author has disowned since: the sender does not know that yet.
                self.epochs.show(sender, self._now)
            if outcome.verdict is Verdict.REFUSED:
                self._refuse(sender, None, "its evidence against an author proves nothing")
            # Known already, or worth nothing. Only what is missing is asked for, and looking at it costs signatures.
            return

    def _on_stubs(self, sender: SiteKey, stubs: Stubs, now: Micros) -> None:
        try:
            headers = [decode_stub(stub) for stub in stubs.stubs]
        except WireError as error:
            self._refuse(sender, None, str(error))
            return
        try:
            for header in headers:
                if self.statements.was_asked(header.author):
                    self.statements.shown(header, now)
        except WireError as error:
            self._refuse(sender, None, str(error))
        for fault in self._forks.proofs(headers):
            self._take(sender, self._ledger.offer_proof(fault.evidence, self._max_payload_bytes))

    def _help_held_up(self, alive: list[SiteKey]) -> None:
        """Ask for what keeps a log from going on here: a proof, an amendment, or the branch that its author saw."""
        for entry, hold in self._ledger.held_up():
            of = entry.author if entry.author in alive and self._rng.random() < 0.5 else None
            if of is None and alive:
                of = self._rng.choice(alive)
            if of is None:
                return
            if hold is Hold.PROOF:
                self._outbox.append(Send(of, Want((), tuple(self._ledger.accepted.order.named_at(entry.basis.ended)))))
            elif hold is Hold.AMENDMENT:
                self._outbox.append(Send(of, WantAmendments(self._ledger.amended_rules.number + 1)))
            elif hold is Hold.CONTEXT:
                self._forks.compare(of, entry.base)

    def _take_epoch(self, sender: SiteKey, outcome: Outcome) -> None:
        self._take(sender, outcome)
        if outcome.verdict is Verdict.APPLIED:
            self.behind = self._other_peers.missing()
            self.states.announce()

    def _refuse(self, sender: SiteKey, author: SiteKey | None, reason: str) -> None:
        self._outbox.append(Emit(EntryRefused(sender, author, reason)))

    def _take(self, sender: SiteKey, outcome: Outcome, ended: Vector | None = None) -> None:
        """Store and report what changed."""
        for entry in outcome.applied:
            self._other_peers.made_entry(entry, self._now)
        self._outbox += changes(outcome, self._ledger.accepted, sender, ended)
        if outcome.faults:
            self.states.announce()
