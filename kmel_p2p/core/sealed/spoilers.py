"""Rounds that were opened and gave no sum of levels: who can have spoiled them, and who is left out for it.

Nothing shows which vector of a spoiled round is nonsense: to look at one is to bare its site, and a member could have
any site bared by spoiling a round. But whoever spoils a round is in its set. So if one site alone does it, that site is
in the sets of all spoiled rounds, and whoever is missing in one is cleared. An opener that has seen two leaves one of
those that remain out of its set, by a choice that nobody else knows when the vectors are made: the round gives a sum,
or clears whoever was left out.

This is no proof, so it shuts nobody out: who is left out is tried again later, and several sites that take turns can
have an honest one left out (they cannot choose which).
"""

from __future__ import annotations

from collections.abc import Collection

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.events import RoundSpoiled

LEAST = 2
"""Spoiled rounds before anybody is left out."""
TRIED_AGAIN = 16
"""Sums without a spoiled round, after which nobody is left out any more. After twice as many, all is forgotten."""
LONGEST = 256
"""The same for a site that spoils a round whenever it is tried again: the number doubles each time."""


class Spoilers:
    """See the module docstring.

    Attributes:
        rounds: spoiled so far.
        suspects: sites that are in the sets of all of them; one of these spoiled them if one site alone did.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.suspects: frozenset[SiteKey] = frozenset()
        self._kept_out: frozenset[SiteKey] = frozenset()
        """Suspects whose vectors are not in the newest sum since the latest spoiled round."""
        self._sums = 0
        """Since the latest spoiled round."""
        self._rest = TRIED_AGAIN

    @property
    def sole(self) -> SiteKey | None:
        """The one suspect that is left; None: there are several, or too little was seen."""
        return next(iter(self.suspects)) if len(self.suspects) == 1 and self._acts else None

    @property
    def _acts(self) -> bool:
        return self.rounds >= LEAST and self._sums < self._rest

    def spoiled(self, number: int, sites: Collection[SiteKey]) -> RoundSpoiled:
        """A round was opened and gave no sum; what to tell of it.

        Args:
            number: of the round.
            sites: whose vectors were in it.
        """
        if self.rounds and self._sums >= self._rest:
            self._rest = min(2 * self._rest, LONGEST)
        left = self.suspects & frozenset(sites)
        # Nobody is in all of them: more than one site spoils rounds, and they are told from this round on.
        self.rounds, self.suspects = (self.rounds + 1, left) if left else (1, frozenset(sites))
        self._sums, self._kept_out = 0, frozenset()
        return RoundSpoiled(number, self.rounds, tuple(sorted(self.suspects)))

    def added(self, sites: Collection[SiteKey]) -> None:
        """A round gave a sum. `sites`: whose vectors are in it."""
        self._sums += 1
        self._kept_out = self.suspects - frozenset(sites)
        if self._sums >= 2 * self._rest:
            self.rounds, self.suspects, self._kept_out = 0, frozenset(), frozenset()
            self._sums, self._rest = 0, TRIED_AGAIN

    def left_out(self, drawn: int) -> SiteKey | None:
        """Whose vector this site leaves out if it is the opener of the next round; None: nobody's.

        Args:
            drawn: a number that no other site knows.
        """
        among = sorted(self._kept_out or self.suspects)
        return among[drawn % len(among)] if self._acts and among else None
