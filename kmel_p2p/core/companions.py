"""How far this site may run ahead of those that train beside it.

`max_lead` bounds how far a site may run ahead of the slowest site that trains beside it and that membership calls
alive; a dead, preparing, listening or stuck site holds nobody back (DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Micros


@dataclass(frozen=True, slots=True)
class Companion:
    """Another training site since we train beside it."""

    head: int
    """Its newest entry here."""
    moved_at: Micros
    """When that was last seen to change, or the site was first noted."""
    own_start: int
    head_start: int
    """Where we and it stood when the count began. A site that comes late or comes back holds nobody up until it has
    made up for its absence: only what is trained side by side counts."""

    def lead(self, own_head: int) -> int:
        """Entries by which we are ahead of it since the count began."""
        return (own_head - self.own_start) - (self.head - self.head_start)


class Companions:
    """How far this site runs ahead of those that train beside it, and which of them are stuck.

    A site that membership calls alive may still be stuck: its trainer hangs, its disk is full. It holds the others back
    for their patience and no longer, until its log moves again.
    """

    def __init__(self, max_lead: int) -> None:
        """`max_lead`: entries this site may be ahead of any companion that is not stuck."""
        self._max_lead = max_lead
        self._known: dict[SiteKey, Companion] = {}

    def note(self, heads: Mapping[SiteKey, int], own_head: int, now: Micros) -> None:
        """Take in where the training sites stand; sites not named are forgotten."""
        self._known = {key: self._noted(key, head, own_head, now) for key, head in heads.items()}

    def holding_back(self, own_head: int, patience: Micros, now: Micros) -> Micros | None:
        """Until when this site must wait before its next entry; None when it need not.

        Args:
            own_head: this site's newest entry.
            patience: how long a companion whose log does not move counts as not stuck.
        """
        ends = [c.moved_at + patience for c in self._known.values() if c.lead(own_head) >= self._max_lead]
        return min((end for end in ends if end > now), default=None)

    def _noted(self, key: SiteKey, head: int, own_head: int, now: Micros) -> Companion:
        known = self._known.get(key)
        if known is None:
            gap = own_head - head
            return Companion(head, now, own_head - (gap if 0 <= gap <= self._max_lead else 0), head)
        moved = known if known.head == head else replace(known, head=head, moved_at=now)
        if moved.lead(own_head) < 0:
            # Having been behind earns no right to run far ahead afterwards: the count begins anew.
            return replace(moved, own_start=own_head, head_start=head)
        return moved
