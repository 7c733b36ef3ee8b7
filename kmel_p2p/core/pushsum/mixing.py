"""Who is sent the next share, and when outside rounds.

After each round one random partner gets a share. A listening site answers a training one, so that mass does not pile
up where nobody trains. When all listen, each sends a few last shares, in turns that reach everybody, and rests. A site
whose trunk is too old asks.
"""

from __future__ import annotations

from collections.abc import Callable

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.pushsum.progress import ProgressTable
from kmel_p2p.core.pushsum.rules import PushSumRules, PushSumSettings
from kmel_p2p.core.pushsum.share import Bits
from kmel_p2p.core.pushsum.state import PushSumState
from kmel_p2p.core.pushsum.statements import Statement, StatementTable
from kmel_p2p.core.pushsum.transfers import Transfers
from kmel_p2p.core.rounds import Members, Phase
from kmel_p2p.core.types import Micros, Randomness


class Unanimity:
    """Whether something holds for all of many sites. Asked on every input, so one exception is remembered."""

    def __init__(self, table: StatementTable, holds: Callable[[Statement], bool]) -> None:
        self._table = table
        self._holds = holds
        self._sites: tuple[SiteKey, ...] = ()
        self._exception: int | None = None
        self._version = -1

    def of_all(self, sites: tuple[SiteKey, ...]) -> bool:
        """Whether it holds for each of `sites`; it does not for one that has stated nothing."""
        # Mostly the very same tuple: a thousand keys need not be compared one by one.
        unchanged = self._sites is sites or self._sites == sites
        if unchanged:
            if self._exception is None and self._version == self._table.version:
                return True
            if self._exception is not None and not self._is_so(sites[self._exception]):
                return False
        count = len(sites)
        # On from the last exception: those before it held a moment ago, and mostly still do.
        begin = self._exception if unchanged and self._exception is not None else 0
        places = ((begin + step) % count for step in range(count))
        self._exception = next((place for place in places if not self._is_so(sites[place])), None)
        self._sites, self._version = sites, self._table.version
        return self._exception is None

    def holds_for(self, site: SiteKey) -> bool:
        """Whether it holds for one site."""
        return self._is_so(site)

    def _is_so(self, site: SiteKey) -> bool:
        statement = self._table.get(site)
        return statement is not None and self._holds(statement)


class Mixing:
    """See the module docstring."""

    def __init__(
        self,
        state: PushSumState,
        rules: PushSumRules,
        settings: PushSumSettings,
        members: Members,
        table: StatementTable,
        progress: ProgressTable,
        transfers: Transfers,
        weight: Callable[[], int],
        rng: Randomness,
    ) -> None:
        self._state = state
        self._rules = rules
        self._settings = settings
        self._members = members
        self._table = table
        self._progress = progress
        self._transfers = transfers
        self._weight = weight
        self._rng = rng
        self._left: int | None = None
        """Last shares still to send; None while somebody alive trains."""
        self._next_last_us: Micros = 0
        self._listen = Unanimity(table, lambda s: s.phase == Phase.LISTENING)
        self._rest = Unanimity(table, lambda s: s.phase == Phase.LISTENING and s.resting)
        self._work = 0
        """Rounds trained by everybody, as stated when the last shares began."""
        self._rested = -1
        """The same at the last rest."""
        self.without: frozenset[SiteKey] = frozenset()
        """Sites that the end of the run waits for no longer."""
        self._restless: tuple[object, tuple[SiteKey, ...]] = (None, ())
        self._next_ask_us: Micros = 0
        self._answered_us: dict[SiteKey, Micros] = {}

    # ---- shares -------------------------------------------------------------------------------------------------

    def send_one(self, bits: Bits) -> None:
        """Send a share to a random partner, if there is one."""
        partners, weight = self.takers(), self._weight()
        while partners:
            # Nearly everybody can be sent to, so the first drawn mostly is.
            partner = partners.pop(self._rng.randrange(len(partners)))
            if self._transfers.may_send(partner, weight):
                return self._transfers.send(partner, weight, bits)
        return None

    def _send_last(self, number: int) -> None:
        """Send last share `number`, from 0, along the exponential graph: everybody sends one, everybody gets one.

        Sites in a ring by key send 1, 2, 4, ... places ahead (Assran et al., ICML 2019). Random partners would leave
        out some site now and then, which nothing makes up for any more. Among neighbours alone, one after another.
        """
        partners, weight = self._takers_in_ring(), self._weight()
        if not partners:
            return
        steps = len(partners).bit_length()
        place = number if self._settings.neighbours else (1 << number % steps) - 1
        place %= len(partners)
        for partner in (*partners[place:], *partners[:place]):
            if self._transfers.may_send(partner, weight):
                self._transfers.send(partner, weight, self._rules.last_bits)
                return

    def _takers_in_ring(self) -> list[Statement]:
        takers, own = self.takers(), self._progress.own
        return [s for s in takers if s.site > own] + [s for s in takers if s.site < own]

    def takers(self) -> list[Statement]:
        """Reachable sites that take part and that we may send to, in key order."""
        near = self._settings.neighbours
        told = self._table.among(self._members.alive())
        return [s for s in told if s.phase != Phase.PREPARING and (not near or s.site in near)]

    def answer(self, sender: SiteKey) -> None:
        """While we listen: give a training site back what its weight asks for."""
        statement = self._table.get(sender)
        if statement is not None:
            self._send_to(statement)

    def on_share_request(self, sender: SiteKey, now: Micros) -> None:
        """A site with an old trunk asks for a share: at most one per retry period."""
        statement = self._table.get(sender)
        due_us = self._answered_us.get(sender, now)
        if statement is not None and now >= due_us and not self.is_old():
            self._answered_us[sender] = now + self._settings.transfers.retry_first_us
            self._send_to(statement)

    def _send_to(self, statement: Statement) -> None:
        if self._transfers.may_send(statement, self._weight()):
            self._transfers.send(statement, self._weight(), self._rules.bits)

    # ---- age ----------------------------------------------------------------------------------------------------

    def reached(self) -> int:
        """The round the federation has reached, as far as reachable sites tell."""
        return self._progress.reached(self._state.level)

    def is_old(self) -> bool:
        """Whether the trunk here misses too much of the others' work to count."""
        return self._progress.has_passed(self._state.age + self._rules.averaging.age_limit, self._state.level)

    def ask_if_old(self, phase: Phase, now: Micros) -> SiteKey | None:
        """Whom to ask for a share now, if anybody."""
        if phase is Phase.PREPARING or now < self._next_ask_us or not self.is_old():
            return None
        self._next_ask_us = now + self._settings.transfers.retry_first_us
        newer = self._progress.at_least(self.reached())
        return self._rng.choice(newer) if newer else None

    # ---- the end ------------------------------------------------------------------------------------------------

    @property
    def resting(self) -> bool:
        """Whether the last shares are sent and received for."""
        return self._left == 0 and not self._transfers.is_pending

    def wind_down(self, phase: Phase, now: Micros) -> None:
        """Send last shares while everybody reachable listens."""
        if phase is not Phase.LISTENING or not self._all_listen():
            self._left = None
            return
        if self._left is None and self._transfers.is_pending:
            return  # earlier shares first: one that arrived after the last ones would be mixed by its receiver alone
        if self._left is None:
            # Sites that come and go after the end do not start it over, unless one has trained since. Judged by what
            # all have stated, so that all judge alike: work of one alone would reach nobody else evenly.
            self._work = self._state.rounds + sum(statement.rounds for statement in self._table)
            self._left = 0 if self._work == self._rested else self._rules.last_exchanges
            self._next_last_us = now
        while self._left and now >= self._next_last_us:
            self._send_last(self._rules.last_exchanges - self._left)
            self._left -= 1
            self._next_last_us = now + self._settings.interval_us
        if self._left == 0:
            self._rested = self._work

    def deadline(self, phase: Phase) -> Micros | None:
        """When `ask_if_old` or `wind_down` has something to do."""
        moments_us = []
        if self._left:
            moments_us.append(self._next_last_us)
        if phase is not Phase.PREPARING and self.is_old():
            moments_us.append(self._next_ask_us)
        return min(moments_us, default=None)

    def all_rest(self) -> bool:
        """Whether every reachable site that is waited for says that it rests."""
        return self._rest.of_all(self._awaited())

    def restless(self) -> tuple[SiteKey, ...]:
        """Reachable sites that do not say that they rest."""
        now = (self._members.alive(), self._table.version)
        if self._restless[0] != now:
            self._restless = now, tuple(key for key in now[0] if not self._rest.holds_for(key))
        return self._restless[1]

    def _all_listen(self) -> bool:
        return self._listen.of_all(self._awaited())

    def _awaited(self) -> tuple[SiteKey, ...]:
        alive = self._members.alive()
        return tuple(key for key in alive if key not in self.without) if self.without else alive
