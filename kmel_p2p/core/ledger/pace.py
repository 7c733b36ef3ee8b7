"""When this site may train its next entry, and how heavy that entry is.

Pure functions of what is known now. `max_lead` bounds how far a site may run ahead of the slowest training site that
membership calls alive; a dead, preparing or listening site holds nobody back (DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kmel_p2p.core.ledger.accumulator import WEIGHT_ONE
from kmel_p2p.core.types import Micros, SiteKey

MAX_SIZE_CLASS = 40
"""2**40 measurements; a claimed class above this is taken as this."""


def weight(own_class: int, other_classes: Iterable[int], cap: int) -> int:
    """This site's share of one exchange, in units of 2**-16.

    Args:
        own_class: log2 bucket of this site's measurement count (0 when unknown).
        other_classes: the same of the other training sites that are alive.
        cap: the charter's largest weight.

    Returns:
        At least 1. The weights of any set of sites that see each other sum to at most one.
    """
    share = 1 << min(own_class, MAX_SIZE_CLASS)
    total = share + sum(1 << min(c, MAX_SIZE_CLASS) for c in other_classes)
    return max(1, min(cap, share * WEIGHT_ONE // total))


def slowest(heads: Mapping[SiteKey, int], training: Iterable[SiteKey]) -> int | None:
    """Sequence number of the alive, training site that is furthest behind; None when there is no other."""
    return min((heads.get(key, 0) for key in training), default=None)


class Progress:
    """When the log of each site last moved, as seen here.

    A site that membership calls alive may still be stuck: its trainer hangs, its disk is full. It holds the others back
    for their patience and no longer, until its log moves again.
    """

    def __init__(self) -> None:
        self._seen: dict[SiteKey, tuple[int, Micros]] = {}

    def note(self, heads: Mapping[SiteKey, int], now: Micros) -> None:
        """Take in where the training sites stand; sites not named are forgotten."""
        seen = self._seen
        self._seen = {k: seen[k] if k in seen and seen[k][0] == head else (head, now) for k, head in heads.items()}

    def moved_at(self, key: SiteKey) -> Micros:
        """When the log of a noted site was last seen to move, or the site was first noted."""
        return self._seen[key][1]


def may_run(next_seq: int, slowest_seq: int | None, max_lead: int) -> bool:
    """Whether publishing `next_seq` keeps the lead over the slowest training site within bounds."""
    return slowest_seq is None or next_seq - slowest_seq <= max_lead
