"""How far the sites around this one have come: what pace, and the age of a trunk, are judged by.

Each site tells its progress after every round to its watchers, the next sites in a ring by key. So everybody hears
the same few sites throughout, all of them in a small federation, and no site's traffic grows with the federation's
size. It is told directly over an authenticated connection, so it needs no signature.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.pushsum.statements import Statement, StatementTable
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import Micros

MAX_WATCHERS = 32
"""Sites that hear of each round of one site, and sites that one site hears of."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a site said last about its progress."""

    rounds: int
    step_us: Micros


class ProgressTable:
    """Progress of the sites that told us. Says nothing of sites that are not alive."""

    def __init__(
        self, own: SiteKey, table: StatementTable, alive: Callable[[], tuple[SiteKey, ...]], round_limit: int
    ) -> None:
        self.own = own
        self._table = table
        self._alive = alive
        self._round_limit = round_limit
        self._told: dict[SiteKey, Told] = {}
        self._version = 0
        self._highest = 0
        self._ring: tuple[tuple[SiteKey, ...], tuple[list[SiteKey], list[SiteKey]]] = ((), ([], []))
        self._reached: tuple[tuple[int, int, int, tuple[SiteKey, ...]], int] | None = None

    def take(self, sender: SiteKey, told: Told) -> None:
        """A site tells its progress.

        Raises:
            WireError: beyond the charter's limit.
        """
        if told.rounds > self._round_limit:
            raise WireError(f"progress beyond the charter's {self._round_limit} entries")
        self._told[sender] = told
        self._version += 1
        statement = self._table.get(sender)
        if statement is not None:
            self.note(statement)

    def note(self, statement: Statement) -> None:
        """A site stated something new."""
        told = self._told.get(statement.site)
        rounds = max(statement.rounds, told.rounds) if told else statement.rounds
        self._highest = max(self._highest, statement.offset + rounds)

    def forget(self, site: SiteKey) -> None:
        """A site went away or came up anew: it will tell again."""
        self._told.pop(site, None)
        self._version += 1

    def rounds(self) -> dict[SiteKey, int]:
        """Rounds trained, by site, as far as known; sites at 0 are left out."""
        known = {s.site: s.rounds for s in self._table}
        known.update({key: max(known.get(key, 0), told.rounds) for key, told in self._told.items()})
        return {key: known[key] for key in sorted(known) if known[key]}

    def step_times_us(self) -> list[Micros]:
        """Time per step of the training sites that told theirs."""
        return [self._told[s.site].step_us for s in self._training()]

    def training_levels(self, least: int) -> dict[SiteKey, int]:
        """Level of the training sites that told theirs; those below `least` must be brought up to date first."""
        levels = {s.site: s.offset + self._told[s.site].rounds for s in self._training()}
        return {key: level for key, level in levels.items() if level >= least}

    def reached(self, own_level: int) -> int:
        """The round the federation has reached: upper median of the known levels and ours.

        A median, so that no minority can make the others hold their trunk for old.
        """
        alive = self._alive()
        now = (own_level, self._version, self._table.version, alive)
        if self._reached is None or self._reached[0] != now:
            levels = sorted([own_level, *self._levels().values()])
            self._reached = now, levels[len(levels) // 2]
        return self._reached[1]

    def has_passed(self, level: int, own_level: int) -> bool:
        """Whether the federation has reached more than `level`. Quick in the usual case that nobody has."""
        return self._highest > level and self.reached(own_level) > level

    def at_least(self, level: int) -> list[SiteKey]:
        """Those of the sites we watch that have reached `level`."""
        return [key for key, known in self._levels().items() if known >= level]

    def is_unheard(self) -> bool:
        """Whether a training site that we watch has not told its progress yet: we may be older than we think."""
        return any(s.phase == Phase.TRAINING and s.site not in self._told for s in self._watched())

    def watchers(self) -> list[SiteKey]:
        """Alive sites that are told about each of our rounds: the next ones by key, around the ring."""
        return self._ring_of_alive()[0]

    def _ring_of_alive(self) -> tuple[list[SiteKey], list[SiteKey]]:
        """Those who watch us, and those whom we watch."""
        alive = self._alive()
        if self._ring[0] != alive:
            ring = sorted(alive)
            after = bisect.bisect(ring, self.own)
            ring = ring[after:] + ring[:after]
            self._ring = alive, (ring[:MAX_WATCHERS], ring[-MAX_WATCHERS:])
        return self._ring[1]

    def _watched(self) -> list[Statement]:
        """Statements of the sites that tell us their progress."""
        return [s for s in map(self._table.get, self._ring_of_alive()[1]) if s is not None]

    def _levels(self) -> dict[SiteKey, int]:
        """What a listening site stated stays true; of a training one only what it told itself is fresh enough."""
        levels = {}
        for s in self._watched():
            told = self._told.get(s.site)
            if told is not None and s.phase != Phase.PREPARING:
                levels[s.site] = s.offset + max(told.rounds, s.rounds)
            elif s.phase == Phase.LISTENING:
                levels[s.site] = s.offset + s.rounds
        return levels

    def _training(self) -> list[Statement]:
        return [s for s in self._watched() if s.phase == Phase.TRAINING and s.site in self._told]
