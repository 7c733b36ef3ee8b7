"""Anti-entropy: keeps this site's ledger and the others' equal, after Demers et al. (1987).

New entries are pushed (`push`). Whatever that misses, a periodic summary finds: every interval one random reachable
site is sent our vector and answers with its own, and each asks for what it lacks (`pull`). Bodies move only on request
or from their author, so in a run without faults each arrives once. Any site may hand on any entry: it cannot alter what
the author signed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message, Send
from kmel_p2p.core.ledger.events import EntryRefused
from kmel_p2p.core.ledger.log.entry import decode, decode_stub
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome, Verdict, changes
from kmel_p2p.core.ledger.rules.entry_check import Hold
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import (
    MAX_BODIES,
    Announce,
    Bodies,
    Compacted,
    EntryId,
    Have,
    Heads,
    Proofs,
    Stubs,
    Want,
    WantAmendments,
)
from kmel_p2p.core.ledger.sync.other_peers import OtherPeer, OtherPeers
from kmel_p2p.core.ledger.sync.pull import AnswerBudget, Pull, answers
from kmel_p2p.core.ledger.sync.push import Push
from kmel_p2p.core.ledger.sync.statements import LogStatements
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros, Randomness, Vector

STUCK_AFTER: Micros = 60 * SECOND
"""A log whose next entry could not be judged for so long may never go on."""

MAX_TOLD = 32
"""Sites told at once about a change; the periodic summaries reach the rest."""


REFUSED_AT_ONCE = 4
"""After so many refused entries the rest of a message is not looked at: judging costs time, and telling it a log line.
What was honest among the rest comes again from somebody else."""


@dataclass(frozen=True, slots=True)
class AntiEntropySettings:
    """Periods and sizes of the exchange."""

    interval_us: Micros = 1 * SECOND
    """Between two summaries to a random site. Bounds how long a lost push goes unnoticed."""
    want_timeout_us: Micros = 10 * SECOND
    """Longest time before another site is asked for what one site was asked for. Asking again costs bytes, never
    correctness."""
    eager_bytes: int = 1024 * 1024
    """An author uploads an entry to every alive site if that is at most this many bytes in all; larger ones are
    announced by number, and the receivers pass them on."""
    fanout: int = 2
    """Sites told per round of lazy push."""
    spread_period_us: Micros = 200 * MILLISECOND
    """Length of such a round; half of it is the shortest time after which a request is repeated."""


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
        self.phase = Phase.PREPARING
        self.step_us: Micros = 0
        """Told to the others: this site's time per training step, 0 when unknown."""
        self.heads: tuple[int, ...] = ()
        """Told to the others: the shared heads that this site trains, by number."""
        self.behind = 0
        """Entries missing here, by the site that is furthest ahead; updated now and then."""
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
        self._other_peers = OtherPeers(ledger, forks, self.statements)
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

    def offered(self, key: SiteKey) -> Vector:
        """How far `key` may be asked for entries, or for a snapshot."""
        return self._other_peers.offered(key)

    def ahead(self) -> tuple[SiteKey, ...]:
        """Sites that hold entries which are missing here."""
        return self._other_peers.ahead()

    def awaited(self, key: SiteKey, author: SiteKey) -> int:
        """How far `key` says that the log of `author` goes, as far as an own round waits for it."""
        return self._other_peers.awaited(key, author)

    def ends_with_us(self, key: SiteKey) -> bool:
        """Whether `key` holds what is held here, as far as it is to be believed."""
        return self._other_peers.holds_the_same(key) or self.credible(key) == self._ledger.vector

    def agreed_with(self, key: SiteKey) -> tuple[RosterVector, Micros] | None:
        """The vector up to which `key` was last seen to hold our headers, and when that was."""
        return self._other_peers.agreed_with(key)

    def bytes_of(self, entries: int) -> int:
        """Estimated bytes of so many entries; 0 before any entry arrived."""
        return entries * self._seen_bytes // self._seen_entries if self._seen_entries else 0

    def forget(self, key: SiteKey) -> None:
        """A site went away or came back: what it told us before no longer holds."""
        self._other_peers.forget(key)
        self.pull.forget(key)

    # ---- machine ------------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed a ledger message."""
        match message:
            case Have():
                self._on_have(sender, message, now)
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

    def advance(self, now: Micros) -> None:
        """Go on applying, announce, repeat what got no answer, send the periodic summary: whatever is due."""
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
        if alive:
            self.greet(self._rng.choice(alive))
        self._help_held_up(alive)
        held = {entry.author for entry, _ in self._ledger.held_up()}
        self._held_since_us = {key: self._held_since_us.get(key, now) for key in held}
        self.stuck = {key for key, since_us in self._held_since_us.items() if now >= since_us + STUCK_AFTER}
        self._other_peers.agree(now)

    def deadline(self) -> Micros:
        """When `advance` has something to do; in the past when at once."""
        if self._ledger.unsettled:
            return 0
        moments = (self._next_summary_us, self.push.deadline(), self.pull.deadline())
        return min(m for m in moments if m is not None)

    def greet(self, to: SiteKey, reply: bool = True) -> None:
        """Tell one site what is here, and ask for the same in return."""
        accepted = self._ledger.accepted
        chains = accepted.chains(accepted.held)
        assert chains is not None, "the newest header of every log is held"
        ended = {accepted.order.place(key): number for key, number in accepted.ended.items()}
        have = Have(
            accepted.amendment,
            accepted.amendment_hash,
            accepted.held,
            chains,
            int(self.phase),
            self.step_us,
            dict(sorted(ended.items())),
            self.heads,
            reply,
        )
        self._outbox.append(Send(to, have))

    def announce(self) -> None:
        """Tell reachable sites what is here: phase or vector changed in a way that others wait for."""
        alive = sorted(self._alive())
        told = alive if len(alive) <= MAX_TOLD else self._rng.sample(alive, MAX_TOLD)
        for key in told:
            self.greet(key, reply=False)

    def record(self, outcome: Outcome, ended: Vector) -> None:
        """A snapshot was adopted or an amendment came into force: record what changed, and tell the others.

        Args:
            outcome: what changed.
            ended: logs that had ended before; recorded anew, but not reported to the operator again.
        """
        self._take(self._own, outcome, ended)
        self.behind = self._other_peers.missing()
        self.announce()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _jittered(self) -> Micros:
        return self._interval_us // 2 + self._rng.randrange(self._interval_us)

    def _on_have(self, sender: SiteKey, have: Have, now: Micros) -> None:
        if self._other_peers.told(sender, have, now):
            self.behind = self._other_peers.missing()
        accepted, told = self._ledger.accepted, self._other_peers.get(sender)
        if have.amendment in self._ledger.amended_rules.hashes and len(have.vector) > len(accepted.order):
            self._refuse(sender, None, "its vector counts sites that were never on the roster")
        floor = accepted.floor
        if told is not None and any(number <= floor.get(key, 0) for key, number in told.ended.items()):
            # It took back entries that are compacted here and at a majority.
            self._outbox.append(Send(sender, Compacted(accepted.amendment_hash, accepted.order.vector(floor))))
        self._pull_from(sender, now)
        if have.reply:
            # The answer asks for nothing in return, so two sites never echo each other.
            self.greet(sender, reply=False)

    def _pull_from(self, site: SiteKey, now: Micros) -> None:
        """Ask `site` for everything that it told us of and that we lack."""
        told = self._other_peers.get(site)
        if told is None:
            return
        is_proved = self._ledger.accepted.is_proved
        evidence = tuple(key for key, number in sorted(told.ended.items()) if not is_proved(key, number))
        self.pull.ask(site, sorted(self.offered(site).items()), now, evidence)

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
                for author, number in self._ledger.accepted.order.named(entry.base).items():
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
        for header in headers:
            self.statements.shown(header, now)
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

    def _refuse(self, sender: SiteKey, author: SiteKey | None, reason: str) -> None:
        self._outbox.append(Emit(EntryRefused(sender, author, reason)))

    def _take(self, sender: SiteKey, outcome: Outcome, ended: Vector | None = None) -> None:
        """Store and report what changed."""
        self._outbox += changes(outcome, self._ledger.accepted, sender, ended)
        if outcome.faults:
            self.announce()
