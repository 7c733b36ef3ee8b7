"""What sites signed and must not have: each fault once, with the statements that prove it."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.messages import Statement


@dataclass(frozen=True, slots=True)
class SealFault:
    """What a site signed and must not have."""

    site: SiteKey
    reason: str
    statements: tuple[Statement, ...]


class NotYet(WireError):
    """A statement that may stand, once what it rests on is here. Nobody is to blame."""


class Faults:
    """Of one round."""

    def __init__(self) -> None:
        self._new: list[SealFault] = []
        self._known: set[tuple[SiteKey, str]] = set()

    def accuse(self, site: SiteKey, reason: str, *statements: Statement) -> None:
        """A fault of a site; nothing if it is known already."""
        if (site, reason) not in self._known:
            self._known.add((site, reason))
            self._new.append(SealFault(site, reason, statements))

    def take(self) -> list[SealFault]:
        """Those found since the last call."""
        found, self._new = self._new, []
        return found
