"""How many votes of one voter are taken in: each costs a signature, a write to the store and messages to others.

What is left out comes again by digest, so that a voter with much to say is only slower.
"""

from __future__ import annotations

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import SECOND, Micros

AT_ONCE = 2
"""Votes on every site of the roster that one voter may bring at once."""

APART: Micros = 1 * SECOND
"""After those, one vote per so long."""


class VoteAllowance:
    """See the module docstring."""

    def __init__(self) -> None:
        self._spent_us: dict[SiteKey, Micros] = {}
        """Voter -> when everything that it brought is paid off."""

    def has_left(self, voter: SiteKey, sites: int, now: Micros) -> bool:
        """Whether a vote of this voter may be taken in now. `sites`: on the roster."""
        return self._spent_us.get(voter, now) - now < AT_ONCE * sites * APART

    def spend(self, voter: SiteKey, now: Micros) -> None:
        """A vote is taken in that the voter certainly signed: what others make up in its name costs it nothing."""
        self._spent_us[voter] = max(self._spent_us.get(voter, now), now) + APART
