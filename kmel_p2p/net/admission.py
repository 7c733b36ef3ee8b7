"""Who may talk to us: the roster as CURVE keys, and who was turned away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey, curve_public
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.net.links import StrangerRefused

STRANGERS_MAX = 256
"""Strangers remembered; beyond it the one seen longest ago is forgotten."""

REPORT_EVERY = 60 * SECOND
"""One stranger is told about this often."""

REPORTS_PER_MINUTE = 20
"""All strangers together are told about this often; the rest are only counted."""

REREAD_EVERY = 10 * MILLISECOND
"""A stranger makes us look at the roster again at most this often."""


class Roster:
    """The sites admitted now. Read from a callable, so that an amendment needs no restart."""

    def __init__(
        self, source: Callable[[], Collection[SiteKey]], own_key: SiteKey, clock: Callable[[], Micros]
    ) -> None:
        self._source = source
        self._own_key = own_key
        self._clock = clock
        self._curve_of: dict[SiteKey, bytes] = {}
        self._site_of: dict[bytes, SiteKey] = {}
        self._revoked: set[SiteKey] = set()
        self._read_at: Micros | None = None
        self.invalid: set[SiteKey] = set()
        """Roster keys that are not points of the curve: nobody can hold them."""

    def refresh(self) -> list[SiteKey]:
        """Read the roster again. Returns the sites that are not in it any more."""
        self._read_at = self._clock()
        wanted = set(self._source()) - {self._own_key}
        self._revoked &= wanted  # a revocation is void once the roster agrees
        wanted -= self._revoked
        gone = [key for key in self._curve_of if key not in wanted]
        for key in gone:
            del self._site_of[self._curve_of.pop(key)]
        for key in sorted(wanted - self._curve_of.keys() - self.invalid):
            try:
                curve = curve_public(key)
            except LocalError:
                self.invalid.add(key)
                continue
            self._curve_of[key] = curve
            self._site_of[curve] = key
        return gone

    def revoke(self, key: SiteKey) -> None:
        """Refuse a site at once, before the roster that says so is in force."""
        self._revoked.add(key)
        curve = self._curve_of.pop(key, None)
        if curve is not None:
            del self._site_of[curve]

    def __contains__(self, key: object) -> bool:
        return key in self._curve_of

    def curve(self, key: SiteKey) -> bytes | None:
        """The CURVE key of an admitted site."""
        return self._curve_of.get(key)

    def site(self, curve_key: bytes) -> SiteKey | None:
        """The admitted site with this CURVE key; the roster is read again for one not known yet."""
        known = self._site_of.get(curve_key)
        if known is None and (self._read_at is None or self._clock() - self._read_at >= REREAD_EVERY):
            self.refresh()
            known = self._site_of.get(curve_key)
        return known


@dataclass(slots=True)
class _Stranger:
    address: str
    attempts: int
    told_at: Micros | None


class Strangers:
    """Counts those turned away, and tells of each once a minute however often it knocks."""

    def __init__(self, tell: Callable[[StrangerRefused], None], clock: Callable[[], Micros]) -> None:
        self._tell = tell
        self._clock = clock
        self._seen: OrderedDict[str, _Stranger] = OrderedDict()
        self._minute_began: Micros = clock()
        self._told_this_minute = 0
        self.refused = 0

    def knocked(self, address: str, curve_key: str, explanation: str) -> None:
        """Somebody was turned away. `curve_key` is empty when none was shown."""
        self.refused += 1
        now = self._clock()
        stranger = self._seen.pop(curve_key, None) or _Stranger(address, 0, None)
        self._seen[curve_key] = stranger
        while len(self._seen) > STRANGERS_MAX:
            self._seen.popitem(last=False)
        stranger.attempts += 1
        stranger.address = address
        if stranger.told_at is not None and now - stranger.told_at < REPORT_EVERY:
            return
        if now - self._minute_began >= 60 * SECOND:
            self._minute_began, self._told_this_minute = now, 0
        if self._told_this_minute < REPORTS_PER_MINUTE:
            self._told_this_minute += 1
            self._tell(StrangerRefused(address, curve_key, stranger.attempts, explanation))
            stranger.told_at = now
            stranger.attempts = 0
