"""How often this site asks for what it lacks, and how much it gives a site that asks.

Every statement is sent to all at once; what is asked for makes up for what was lost, or for a site that was away. So
honest recovery has a size: all of a round, all sums. A site gets that some times over at once and then as time goes,
and not as often as it likes: vectors and sums of megabytes for a question of some bytes would fill the line.
"""

from __future__ import annotations

from collections.abc import Sequence

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import SECOND, Micros

FIRST_WAIT_US: Micros = 2 * SECOND
"""Before what was asked for is asked for again."""
LONGEST_WAIT_US: Micros = 64 * SECOND
"""The wait doubles: over a slow line the answer may be on its way."""

STATEMENTS_BYTES = 16 * 1024
"""Of a round, for each site: its statements without the vector, in ten ballots of sixteen sites."""
WHOLE_ROUNDS = 4
"""A site gets all of a round so many times at once..."""
ROUND_PERIOD_US: Micros = 10 * SECOND
"""...and once more with every round and in every so long. In virtual time, with a third of the messages lost and a
site killed every five seconds, no site ever had 2.3 of them from another (90 rounds)."""
LEAST_RUN_BYTES = 128 * 1024
"""The sums of a run that has hardly begun count as so many."""
WHOLE_RUNS = 2
"""A site gets all sums so many times at once..."""
RUN_PERIOD_US: Micros = 600 * SECOND
"""...and once more in every so long: a site that lost its disk takes them once."""


class Questions:
    """What this site asked for, and when it may ask again."""

    def __init__(self) -> None:
        self._again: dict[bytes, tuple[Micros, Micros]] = {}
        """What -> (when it may be asked for again, the wait after that)."""
        self._asked: dict[bytes, set[SiteKey]] = {}
        """What -> who was asked for it in vain."""

    def is_open(self, what: bytes) -> bool:
        """Whether it was asked for and no answer has come."""
        return what in self._again

    def may_ask(self, what: bytes, now: Micros) -> bool:
        """Whether it has not been asked for, or long enough ago."""
        return now >= self._again.get(what, (now, 0))[0]

    def ask(self, what: bytes, now: Micros) -> None:
        """It is asked for now."""
        wait_us = self._again.get(what, (now, FIRST_WAIT_US))[1]
        self._again[what] = (now + wait_us, min(2 * wait_us, LONGEST_WAIT_US))

    def ask_next(self, what: bytes, holders: Sequence[SiteKey], now: Micros) -> SiteKey:
        """It is asked for now; of whom. Each is asked once before any is asked again: one that says it has what it does
        not give would otherwise be asked each time, if it says so most often.

        Args:
            holders: sites that say that they have it, one at least.
        """
        self.ask(what, now)
        asked = self._asked.setdefault(what, set())
        if asked >= set(holders):
            asked.clear()
        giver = next(site for site in holders if site not in asked)
        asked.add(giver)
        return giver

    def answered(self, what: bytes) -> None:
        """The answer is here."""
        self._again.pop(what, None)

    def forget(self) -> None:
        """The round is over."""
        self._again.clear()
        self._asked.clear()


class AnswerAllowance:
    """How much each site has been given because it asked for it.

    Args:
        times: a site gets everything so often at once.
        period_us: and once more in every so long.
    """

    def __init__(self, times: int, period_us: Micros) -> None:
        self._most_us, self._period_us = times * period_us, period_us
        self._paid_us: dict[SiteKey, Micros] = {}
        """When all that a site was given is paid off."""

    def spend(self, site: SiteKey, size: int, whole: int, now: Micros) -> bool:
        """Whether a site may be given so many bytes now; if so, they are noted.

        Args:
            size: bytes. One answer may go beyond the allowance, so that no large one waits for ever.
            whole: bytes of everything that a site can lack.
        """
        paid_us = max(self._paid_us.get(site, now), now)
        if paid_us - now >= self._most_us:
            return False
        self._paid_us[site] = paid_us + size * self._period_us // whole
        return True

    def used(self, site: SiteKey, now: Micros) -> float:
        """How often the whole a site has been given, less what time has paid off."""
        return max(0, self._paid_us.get(site, now) - now) / self._period_us

    def round_over(self) -> None:
        """There is a new round to recover: everybody may have it once more."""
        for site in self._paid_us:
            self._paid_us[site] -= self._period_us
