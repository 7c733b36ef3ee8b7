"""Digests and vectors: finds out where two sites hold different things, in few bytes where they do not.

Now and then one site is told in a `Have` what is held here, as a digest, and says the same of itself. A digest that is
not known here and stays so is asked about: both send their `Holdings`, with the signed headers of the logs in which
they are further.

How often a `Have` goes out follows from what they find: rarely while nothing is amiss (`calm_us`), more often to sites
that this one waits for, every second after a digest, a request or an entry showed that something is missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.log.entry import decode_stub
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import MAX_SHOWN, Compacted, Have, Holdings
from kmel_p2p.core.ledger.sync.other_peers import OtherPeer, OtherPeers
from kmel_p2p.core.ledger.sync.own_states import OwnStates
from kmel_p2p.core.ledger.sync.statements import LogStatements
from kmel_p2p.core.roster_vector import NOTHING, RosterVector
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros, Randomness

MAX_ASKED = 3
"""Sites asked at once what they hold; after a partition every site of the other side has something to tell."""

SHOWN_BYTES = 32 * 1024
"""Headers sent along with a vector: they fit the control lane."""

ANSWERS_APART: Micros = SECOND // 2
"""Vectors are answered no sooner after the last answer to the same site: the question is small, the answer is not."""

GREETED_JUST_NOW: Micros = 2 * SECOND
"""Who was told something so lately is not told the same when it asks: its question and ours crossed."""


@dataclass(frozen=True, slots=True)
class AntiEntropySettings:
    """Periods and sizes of the exchange."""

    interval_us: Micros = 1 * SECOND
    """Between two digests while something is amiss, and between two looks at whether anything is."""
    calm_us: Micros = 30 * SECOND
    """Between two digests while nothing is. Bounds how long a lost push goes unnoticed if no later entry shows it."""
    awaited_us: Micros = 2 * SECOND
    """Between two digests to sites that this one waits for."""
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


class Rhythm:
    """When the next digest is due."""

    def __init__(self, settings: AntiEntropySettings, rng: Randomness, now: Micros) -> None:
        self._settings = settings
        self._rng = rng
        self._interval_us = settings.interval_us
        self._sent_us = now
        self._due_us = now + rng.randrange(settings.interval_us)

    def amiss(self, now: Micros) -> None:
        """Something is missing here or elsewhere: the next digest goes out soon."""
        self._interval_us = self._settings.interval_us
        self._due_us = min(self._due_us, now + self._interval_us)

    def is_due(self, now: Micros, waits: bool) -> bool:
        """Whether a digest is to be sent now; then the next one is due later than after the last.

        Args:
            now: monotonic time.
            waits: this site waits for others.
        """
        most = self._settings.awaited_us if waits else self._settings.calm_us
        if now < min(self._due_us, self._sent_us + most):
            return False
        self._interval_us = min(2 * self._interval_us, most)
        self._sent_us = now
        self._due_us = now + self._interval_us // 2 + self._rng.randrange(self._interval_us)
        return True


class StateExchange:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self,
        ledger: Ledger,
        forks: ForkFinder,
        statements: LogStatements,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        settings: AntiEntropySettings,
        refuse: Callable[[SiteKey, SiteKey | None, str], None],
        now: Micros,
    ) -> None:
        """`refuse`: told whom it was that sent something invalid, of which author, and why."""
        self.phase = Phase.PREPARING
        self.step_us: Micros = 0
        """Told to the others: this site's time per training step, 0 when unknown."""
        self.heads: tuple[int, ...] = ()
        """Told to the others: the shared heads that this site trains, by number."""
        self.awaited: frozenset[SiteKey] = frozenset()
        """Sites that this one waits for: they are asked more often than others."""
        self._ledger = ledger
        self._statements = statements
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._refuse = refuse
        self._own = OwnStates(ledger)
        self.others = OtherPeers(ledger, forks, statements, self._own)
        self._rhythm = Rhythm(settings, rng, now)
        self._now = now
        self._greeted: dict[SiteKey, tuple[Have, Micros]] = {}
        self._answered_us: dict[SiteKey, Micros] = {}
        self._announced_step_us: Micros = 0
        self._waited = False

    # ---- machine ------------------------------------------------------------------------------------------------

    def advance(self, alive: list[SiteKey], amiss: bool, now: Micros) -> None:
        """Ask about digests that say nothing here, and send ours when it is due.

        Args:
            alive: sites that can be asked, sorted.
            amiss: something is missing here.
            now: monotonic time.
        """
        self._now = now
        to_ask = self.others.to_ask(alive, self.awaited, now)
        for key in self._rng.sample(to_ask, min(MAX_ASKED, len(to_ask))):
            self._ask(key)
        awaited = [key for key in alive if key in self.awaited]
        if to_ask or amiss or (awaited and not self._waited):
            self._rhythm.amiss(now)
        self._waited = bool(awaited)
        if 4 * abs(self.step_us - self._announced_step_us) > max(self.step_us, self._announced_step_us):
            # A slow site is given fewer steps by all.
            self.announce()
        if alive and self._rhythm.is_due(now, waits=bool(awaited)):
            self._greet(self._rng.choice(awaited or alive), reply=True)

    def forget(self, site: SiteKey) -> None:
        """A site went away or came back: what it told us before no longer holds."""
        self.others.forget(site)
        self._greeted.pop(site, None)
        self._answered_us.pop(site, None)
        self._rhythm.amiss(self._now)

    def greet(self, site: SiteKey, now: Micros) -> None:
        """Tell one site what this one does and, as a digest, holds, and ask for the same in return."""
        self._now = now
        self._greet(site, reply=True)

    def named_our_state(self, sites: Iterable[SiteKey]) -> set[SiteKey]:
        """Those of `sites` that last named the digest of what is held here now, amendments included."""
        own = self._own.now()
        return {site for site in sites if (told := self.others.get(site)) is not None and told.state == own}

    def announce(self) -> None:
        """Tell every reachable site: phase or holdings changed in a way that others wait for."""
        self._announced_step_us = self.step_us
        for key in sorted(self._alive()):
            self._greet(key, reply=False)

    def on_have(self, sender: SiteKey, have: Have, now: Micros) -> bool:
        """A site tells what it does and holds; returns whether it is the first time."""
        self._now = now
        first = self.others.told(sender, have, now)
        mine = self._have()
        greeted = self._greeted.get(sender)
        just_told = greeted is not None and greeted[0] == mine and now < greeted[1] + GREETED_JUST_NOW
        if have.reply and not just_told:
            # The answer asks for nothing in return, so two sites never echo each other.
            self._greet(sender, reply=False)
        if first and self.others.unexplained(sender):
            self._ask(sender)
        return first

    def on_holdings(self, sender: SiteKey, held: Holdings, now: Micros) -> None:
        """A site tells what it holds, log by log."""
        self._now = now
        accepted = self._ledger.accepted
        is_ours = held.amendment in self._ledger.amended_rules.hashes
        if is_ours and len(held.vector) > len(accepted.order):
            self._refuse(sender, None, "its vector counts sites that were never on the roster")
        try:
            for stub in held.headers if is_ours else ():
                self._statements.shown(decode_stub(stub), now)
        except WireError as error:
            self._refuse(sender, None, str(error))
        self.others.holds(sender, held, now)
        told, floor = self.others.get(sender), accepted.floor
        ended = told.ended if told is not None and told.ended is not None else {}
        order = accepted.order
        cut = {key: number for key, number in ended.items() if held.vector.at(order.place(key)) < number}
        if any(number <= floor.get(key, 0) for key, number in cut.items()) or (accepted.overtaken and ended):
            # It took back entries that are compacted here and at a majority.
            self._outbox.append(Send(sender, Compacted(accepted.amendment_hash, accepted.order.vector(floor))))
        if held.reply and now >= self._answered_us.get(sender, -ANSWERS_APART) + ANSWERS_APART:
            self._answered_us[sender] = now
            # It asked without headers. They come with its next answer.
            lacks = not self._is_known(told) if is_ours else not held.headers
            further = lacks and self.others.may_ask(sender, now)
            # Where amendments differ, the newest headers show who goes by ours (`AmendmentExchange`).
            self._send_holdings(sender, self._shown_to(sender, held.vector if is_ours else NOTHING), further)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _have(self) -> Have:
        return Have(self._own.now(), int(self.phase), self.step_us, self.heads, False)

    def _greet(self, to: SiteKey, reply: bool) -> None:
        have = self._have()
        self._greeted[to] = (have, self._now)
        self._outbox.append(Send(to, replace(have, reply=reply)))

    def _ask(self, site: SiteKey) -> None:
        """Ask a site what it holds, and tell it what this one does."""
        self._send_holdings(site, (), reply=True)

    def _send_holdings(self, to: SiteKey, headers: tuple[bytes, ...], reply: bool) -> None:
        accepted = self._ledger.accepted
        chains = accepted.chains(accepted.held)
        assert chains is not None, "the newest header of every log is held"
        if reply:
            self.others.asked(to, self._now)
        held = Holdings(
            accepted.amendment,
            accepted.amendment_hash,
            accepted.held,
            chains,
            self._own.ended,
            accepted.epochs.hash,
            headers,
            reply,
        )
        self._outbox.append(Send(to, held))

    def _is_known(self, told: OtherPeer | None) -> bool:
        """Whether nothing that a site told goes beyond the headers seen here."""
        if told is None or told.vector is None:
            return True
        order, known = self._ledger.accepted.order, self._statements.known
        return all(number <= known(order.keys[place]) for place, number in self._ledger.accepted.beyond(told.vector))

    def _shown_to(self, site: SiteKey, vector: RosterVector) -> tuple[bytes, ...]:
        """Headers of the logs that go further here than `vector` says; that of the receiver's own log first."""
        accepted = self._ledger.accepted
        shown: list[bytes] = []
        size = 0
        for key in sorted(accepted.further_than(vector), key=lambda key: (key != site, key)):
            newest = accepted.log(key).newest
            stub = newest.stub() if newest is not None else b""
            size += len(stub)
            if len(shown) == MAX_SHOWN or size > SHOWN_BYTES:
                break
            shown.append(stub)
        return tuple(shown)
