"""Who is told what, and what is asked of whom, until all vectors are equal.

Eager push: an author hands a small new entry to every reachable site. Lazy push: of a large one every holder tells the
number to a few, who ask for the body. Pull: one random reachable site per interval is told our vector and tells us its
own; whatever either lacks it asks for. Bodies move only on request or from their author, so in a fault-free run each
arrives once. Entries relay through third sites, which cannot alter them (signatures). Anti-entropy follows Demers et
al. (1987).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message, Send
from kmel_p2p.core.ledger.events import EntryRefused
from kmel_p2p.core.ledger.log.entry import Entry, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome, Verdict, changes
from kmel_p2p.core.ledger.rules.entry_check import Hold
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import (
    MAX_BODIES,
    MAX_NEWS,
    Announce,
    Bodies,
    Compacted,
    EntryId,
    EntryRange,
    Have,
    Heads,
    Proofs,
    Stubs,
    Want,
    WantAmendments,
)
from kmel_p2p.core.ledger.sync.open_requests import OpenRequests
from kmel_p2p.core.ledger.sync.other_peers import OtherPeer, OtherPeers
from kmel_p2p.core.ledger.sync.push import LazyPush
from kmel_p2p.core.ledger.sync.responses import responses
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros, Randomness, Vector

STUCK_AFTER: Micros = 60 * SECOND
"""An entry that could not be judged for so long may never be."""

MAX_TOLD = 32
"""Sites told at once about a change; the periodic summaries reach the rest."""


@dataclass(frozen=True, slots=True)
class AntiEntropySettings:
    """Periods of the exchange, microseconds."""

    interval: Micros = 1 * SECOND
    """Between two summaries to a random site. Bounds how long a lost push stays unnoticed."""
    want_timeout: Micros = 10 * SECOND
    """The longest that something asked of one site is not asked of another. Re-asking costs bytes, never
    correctness."""
    eager_bytes: int = 1024 * 1024
    """An author uploads an entry to every alive site as long as that is no more than this in all; larger ones are
    told by number, and the receivers pass them on."""
    fanout: int = 2
    """Sites told per round of lazy push."""
    spread_period: Micros = 200 * MILLISECOND
    """Length of such a round; half of it is the shortest time after which an ask is repeated."""


class AntiEntropy:
    """Keeps this site's ledger and the others' equal. Effects go to the shared `outbox`."""

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
        self.pulling = True
        """Whether missing entries are asked for; not while a snapshot is on its way."""
        self.behind = 0
        """Entries that the site that knows most has told of and that are not here; looked at now and then."""
        self._own = own
        self._ledger = ledger
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._settings = settings
        self._max_payload_bytes = max_payload_bytes
        self._counterparts = OtherPeers(ledger, forks)
        self._asking = OpenRequests(settings.spread_period // 2, settings.want_timeout)
        self._forks = forks
        self.stuck: set[SiteKey] = set()
        """Authors whose next entry has waited for long for something that nobody could supply."""
        self._held_since: dict[SiteKey, Micros] = {}
        self._hot = LazyPush(settings.fanout, settings.spread_period)
        self._next_summary = now + self._jittered()
        self._seen_entries = 0
        self._seen_bytes = 0

    # ---- what others told us ------------------------------------------------------------------------------------

    def counterpart(self, key: SiteKey) -> OtherPeer | None:
        """What `key` last told us, if anything since it last came up."""
        return self._counterparts.get(key)

    def agreed_with(self, key: SiteKey) -> tuple[Vector, Micros] | None:
        """Up to where `key` was last seen to hold our headers, and when that was."""
        return self._counterparts.agreed_with(key)

    def bytes_behind(self) -> int:
        """What `behind` will take, going by the entries seen so far; 0 before the first."""
        return self.behind * self._seen_bytes // self._seen_entries if self._seen_entries else 0

    def forget(self, key: SiteKey) -> None:
        """A site went away or came up anew: what it told us before no longer holds."""
        self._counterparts.forget(key)
        self._asking.forget(key)

    # ---- machine ------------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed a ledger message."""
        match message:
            case Have():
                self._on_have(sender, message, now)
            case Want():
                self._outbox += responses(message, self._ledger.accepted, sender)
            case Bodies():
                self._on_bodies(sender, message, now)
            case Announce():
                self._on_announce(sender, message, now)
            case Proofs():
                self._on_proofs(sender, message)
            case Heads():
                self._forks.on_heads(sender, message)
            case Stubs():
                self._on_stubs(sender, message)

    def advance(self, now: Micros) -> None:
        """Go on applying, tell news, repeat what got no answer, send the periodic summary: whatever is due."""
        if self._ledger.unsettled:
            self._take(self._own, self._ledger.settle())
        alive = sorted(self._alive())
        for key, items in self._hot.round(alive, now, self._rng):
            for start in range(0, len(items), MAX_NEWS):
                self._outbox.append(Send(key, Announce(items[start : start + MAX_NEWS])))
        self._ask_again(now)
        if now < self._next_summary:
            return
        self._next_summary = now + self._jittered()
        self.behind = self._counterparts.missing()
        if alive:
            self.greet(self._rng.choice(alive))
        self._help_held_up(alive)
        held = {entry.author for entry, _ in self._ledger.held_up()}
        self._held_since = {key: self._held_since.get(key, now) for key in held}
        self.stuck = {key for key, since in self._held_since.items() if now >= since + STUCK_AFTER}
        self._counterparts.agree(now)

    def deadline(self) -> Micros:
        """When `advance` has something to do; in the past when at once."""
        if self._ledger.unsettled:
            return 0
        moments = (self._next_summary, self._hot.deadline(), self._asking.deadline())
        return min(m for m in moments if m is not None)

    def greet(self, to: SiteKey, reply: bool = True) -> None:
        """Tell one site what is here, and ask it the same."""
        ended = self._ledger.accepted.ended
        vector = self._ledger.vector
        chains = self._ledger.accepted.chains(vector)
        assert chains is not None, "the newest header of every log is held"
        self._outbox.append(
            Send(
                to,
                Have(
                    vector,
                    chains,
                    int(self.phase),
                    self.step_us,
                    ended,
                    self._ledger.amended_rules.number,
                    self.heads,
                    reply,
                ),
            )
        )

    def announce(self) -> None:
        """Tell reachable sites what is here: phase or vector changed in a way others wait for."""
        alive = sorted(self._alive())
        told = alive if len(alive) <= MAX_TOLD else self._rng.sample(alive, MAX_TOLD)
        for key in told:
            self.greet(key, reply=False)

    def push(self, entry: Entry, now: Micros) -> None:
        """Hand an own new entry to every reachable site, or begin to tell of it if that is too much to upload."""
        encoded = entry.encode()
        alive = sorted(self._alive())
        if self._is_lazy(len(encoded), len(alive)):
            self._hot.add(EntryId(entry.author, entry.number), len(alive), now)
            return
        body = Bodies((encoded,))
        for key in alive:
            self._outbox.append(Send(key, body, Lane.BULK))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _jittered(self) -> Micros:
        interval = self._settings.interval
        return interval // 2 + self._rng.randrange(interval)

    def _is_lazy(self, entry_bytes: int, sites: int) -> bool:
        return entry_bytes * sites > self._settings.eager_bytes

    def _on_have(self, sender: SiteKey, have: Have, now: Micros) -> None:
        if self._counterparts.told(sender, have, now):
            self.behind = self._counterparts.missing()
        floor = self._ledger.accepted.floor
        if any(number <= floor.get(key, 0) for key, number in have.ended.items()):
            # It took back what is folded away here and at a majority.
            self._outbox.append(Send(sender, Compacted(floor)))
        self._pull(sender, now)
        if have.reply:
            # The answer asks for nothing back, so two sites never echo each other.
            self.greet(sender, reply=False)

    def _on_announce(self, sender: SiteKey, news: Announce, now: Micros) -> None:
        wanted: list[EntryId] = []
        for author, number in news.items:
            self._hot.knows(EntryId(author, number), sender)
            wanted += self._missing(author, number, sender, MAX_BODIES - len(wanted), now)
        self._want(sender, wanted, (), now)

    def _pull(self, sender: SiteKey, now: Micros) -> None:
        """Ask `sender` for what it has, we lack, and nobody is being asked for."""
        told = self._counterparts.get(sender)
        if told is None:
            return
        wanted: list[EntryId] = []
        for author in sorted(told.vector):
            wanted += self._missing(author, told.vector[author], sender, MAX_BODIES - len(wanted), now)
        accepted = self._ledger.accepted
        evidence = tuple(key for key, number in sorted(told.ended.items()) if not accepted.is_proved(key, number))
        self._want(sender, wanted, evidence, now)

    def _missing(self, author: SiteKey, their_head: int, holder: SiteKey, limit: int, now: Micros) -> list[EntryId]:
        """What of an author's log up to `their_head` is to be asked of `holder`, at most `limit` entries."""
        if not self.pulling or author not in self._ledger.rules.roster:
            return []
        last = min(their_head, self._ledger.accepted.end(author) - 1)
        first = self._ledger.head(author) + 1
        wanted: list[EntryId] = []
        # A head that is far away may be a lie; what is asked for at once is bounded anyway.
        for number in range(first, min(last, first + MAX_BODIES - 1) + 1):
            item = EntryId(author, number)
            if self._ledger.has(author, number):
                continue
            if item in self._asking:
                self._asking.also_has(item, holder)
            elif len(wanted) < limit and not self._asking.full:
                wanted.append(item)
                self._asking.ask(item, holder, now)
        return wanted

    def took(self, outcome: Outcome, ended: Vector) -> None:
        """A snapshot was taken over or an amendment came into force: record what changed, and tell the others.

        Args:
            outcome: what changed.
            ended: logs that had ended before: recorded anew, but no news to the operator.
        """
        self._take(self._own, outcome, ended)
        self.behind = self._counterparts.missing()
        self.announce()

    def _want(self, of: SiteKey, items: Iterable[EntryId], evidence: tuple[SiteKey, ...], now: Micros) -> None:
        """Send one `Want`; `items` are noted as asked already."""
        ranges = _ranges(items)
        if ranges or evidence:
            self._outbox.append(Send(of, Want(ranges, evidence)))

    def _ask_again(self, now: Micros) -> None:
        """Ask another site for what was not answered in time."""
        again: dict[SiteKey, list[EntryId]] = {}
        for item, other in self._asking.overdue(now, self._rng):
            if other is None or self._ledger.has(*item):
                self._asking.give_up(item)
            else:
                self._asking.ask(item, other, now)
                again.setdefault(other, []).append(item)
        for key, items in again.items():
            for start in range(0, len(items), MAX_BODIES):
                self._want(key, items[start : start + MAX_BODIES], (), now)

    def _on_bodies(self, sender: SiteKey, bodies: Bodies, now: Micros) -> None:
        gaps: list[EntryId] = []
        for encoded in bodies.entries:
            try:
                entry = decode(encoded, max_payload_bytes=self._max_payload_bytes)
            except WireError as error:
                self._refuse(sender, None, str(error))
                continue
            self._asking.arrived(EntryId(entry.author, entry.number), sender, now)
            self._seen_entries += 1
            self._seen_bytes += len(encoded)
            outcome = self._ledger.offer(entry)
            self._take(sender, outcome)
            if outcome.refusal is not None or outcome.verdict in (Verdict.REFUSED, Verdict.DROPPED):
                reason = outcome.refusal.value if outcome.refusal else outcome.verdict.value
                self._refuse(sender, entry.author, reason)
            if outcome.verdict in (Verdict.APPLIED, Verdict.WAITING):
                self._pass_on(sender, entry, len(encoded), now)
            if outcome.verdict is Verdict.WAITING:
                # Whoever hands over an entry has what it was made on: no need to wait for a summary to notice the gap.
                for author, number in entry.base.items():
                    gaps += self._missing(author, number, sender, MAX_BODIES - len(gaps), now)
        self._want(sender, gaps, (), now)
        self._pull(sender, now)

    def _on_proofs(self, sender: SiteKey, proofs: Proofs) -> None:
        for evidence in proofs.faults:
            try:
                outcome = self._ledger.offer_proof(evidence, self._max_payload_bytes)
            except WireError as error:
                self._refuse(sender, None, str(error))
                continue
            self._take(sender, outcome)
            if outcome.verdict is Verdict.REFUSED and not outcome.faults:
                self._refuse(sender, None, "its evidence against an author proves nothing")

    def _on_stubs(self, sender: SiteKey, stubs: Stubs) -> None:
        try:
            found = self._forks.proofs(stubs)
        except WireError as error:
            self._refuse(sender, None, str(error))
            return
        for fault in found:
            self._take(sender, self._ledger.offer_proof(fault.evidence, self._max_payload_bytes))

    def _help_held_up(self, alive: list[SiteKey]) -> None:
        """Ask for what keeps a log from going on here: a proof, or the branch that its author saw."""
        for entry, hold in self._ledger.held_up():
            of = entry.author if entry.author in alive and self._rng.random() < 0.5 else None
            if of is None and alive:
                of = self._rng.choice(alive)
            if of is None:
                return
            if hold is Hold.PROOF:
                self._outbox.append(Send(of, Want((), tuple(sorted(entry.basis.ended)))))
            elif hold is Hold.AMENDMENT:
                self._outbox.append(Send(of, WantAmendments(self._ledger.amended_rules.number + 1)))
            elif hold is Hold.CONTEXT:
                self._forks.compare(of, entry.base)

    def _pass_on(self, sender: SiteKey, entry: Entry, entry_bytes: int, now: Micros) -> None:
        """A new entry that its author does not upload to everybody is news here too."""
        sites = len(tuple(self._alive()))
        if self._is_lazy(entry_bytes, sites):
            item = EntryId(entry.author, entry.number)
            self._hot.add(item, sites, now)
            self._hot.knows(item, sender)
            self._hot.knows(item, entry.author)

    def _refuse(self, sender: SiteKey, author: SiteKey | None, reason: str) -> None:
        self._outbox.append(Emit(EntryRefused(sender, author, reason)))

    def _take(self, sender: SiteKey, outcome: Outcome, ended: Vector | None = None) -> None:
        """Store and report what changed."""
        self._outbox += changes(outcome, self._ledger.accepted, sender, ended)
        if outcome.faults:
            self.announce()


def _ranges(items: Iterable[EntryId]) -> tuple[EntryRange, ...]:
    """Runs of consecutive numbers of one author."""
    numbered = enumerate(sorted(items))
    runs = [list(run) for _, run in groupby(numbered, key=lambda at: (at[1].author, at[1].number - at[0]))]
    return tuple(EntryRange(run[0][1].author, run[0][1].number, run[-1][1].number) for run in runs)
