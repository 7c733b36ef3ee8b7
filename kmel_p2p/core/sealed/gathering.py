"""How a round gets its group: sites say that they are ready, and one of them opens the round for all that are.

Who may open goes by turns in an order of hashes, new in every round, so that nobody always does. A site goes by no Open
that leaves out more than a quarter of the sites which it knows to be ready: no opener chooses company for its victims.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.sealed.masking import MAX_MEMBERS
from kmel_p2p.core.sealed.messages import GroupMember, SealOpen
from kmel_p2p.core.sealed.rules import SealedSettings
from kmel_p2p.core.sealed.sealed_round import SealedRound
from kmel_p2p.core.types import Micros

LEFT_OUT = 4
"""An Open may leave out one in so many of the sites that are ready."""


def turns(at: SealedRound, sites: Iterable[SiteKey]) -> list[SiteKey]:
    """The order in which these sites may open the round."""
    return sorted(sites, key=lambda site: _rank(at, site))


def _rank(at: SealedRound, site: SiteKey) -> bytes:
    return digest(b"kmel seal-opener 1", at.chain, at.number.to_bytes(8, "big"), site)


class Gathering:
    """Of one round.

    Args:
        own: this site.
        settings: times.
        min_group: fewest members.
    """

    def __init__(self, own: SiteKey, settings: SealedSettings, min_group: int) -> None:
        self._own = own
        self._settings = settings
        self._min_group = min_group
        self._enough_us: Micros | None = None
        """Since when enough sites are ready."""
        self._full_us: Micros | None = None
        """Since when nobody else is waited for."""
        self._seen: dict[bytes, Micros] = {}
        self.refused: set[bytes] = set()
        """Opens that this site does not go by, whoever waits for them."""
        self.doubted: SiteKey | None = None
        """A site whose Opens it does not go by: it would have its own vector in every sum."""

    def look(self, at: SealedRound, expected: Collection[SiteKey], now: Micros) -> None:
        """Take in who is ready. `expected`: reachable sites that may still become so, this one included."""
        enough = len(at.keys) >= self._min_group
        self._enough_us = (self._enough_us or now) if enough else None
        if self._enough_us is None:
            self._full_us = None
        elif self._full_us is None and (
            set(expected) <= set(at.keys) or now >= self._enough_us + self._settings.gather_us
        ):
            self._full_us = now
        for name in at.opens:
            self._seen.setdefault(name, now)

    def may_open(self, at: SealedRound, now: Micros) -> bool:
        """Whether it is this site's turn to open the round."""
        if self._full_us is None or self._own not in at.keys or at.secret == b"":
            return False
        turn = turns(at, at.keys).index(self._own)
        return now >= self._full_us + turn * self._settings.turn_us

    def make(self, at: SealedRound) -> SealOpen:
        """The Open for everybody that is ready, unsigned. Of more than fit, those whose turns come first."""
        ready = [self._own, *(site for site in turns(at, at.keys) if site != self._own)][:MAX_MEMBERS]
        keys = (at.keys[site] for site in sorted(ready))
        members = tuple(GroupMember(key.author, key.public, key.signature) for key in keys)
        return SealOpen(self._own, at.number, at.chain, members)

    def acceptable(self, at: SealedRound, now: Micros) -> bytes | None:
        """Hash of an Open that this site goes by from now on; None: there is none, or no better one than it has.

        Of two, all sites prefer the one whose opener comes first in the order of turns.
        """
        ready = set(at.keys)
        for name, opened in sorted(at.opens.items(), key=lambda item: _rank(at, item[1].author)):
            if at.group is not None and _rank(at, opened.author) >= _rank(at, at.group.open.author):
                break
            members = {member.site for member in opened.members}
            if opened.author == self.doubted != self._own:
                self.refused.add(name)
                continue
            if LEFT_OUT * len(ready - members) > len(ready) and len(members) < MAX_MEMBERS:
                self.refused.add(name)
                continue
            # Its turn as the sites that it names see it; half of the wait, for clocks and messages take time, too.
            wait_us = self._turn(at, opened) * self._settings.turn_us // 2
            if now >= self._seen.get(name, now) + (wait_us if self._own in members else 0):
                return name
        return None

    def moments(self, at: SealedRound) -> list[Micros]:
        """When time alone may change something; those in the past are of no account."""
        moments: list[Micros] = []
        if self._enough_us is not None and self._full_us is None:
            moments.append(self._enough_us + self._settings.gather_us)
        if self._full_us is not None and self._own in at.keys:
            moments.append(self._full_us + turns(at, at.keys).index(self._own) * self._settings.turn_us)
        for name, opened in at.opens.items():
            if name not in self.refused and name in self._seen:
                moments.append(self._seen[name] + self._turn(at, opened) * self._settings.turn_us // 2)
        return moments

    @staticmethod
    def _turn(at: SealedRound, opened: SealOpen) -> int:
        sites: Sequence[SiteKey] = [member.site for member in opened.members]
        return turns(at, sites).index(opened.author)
