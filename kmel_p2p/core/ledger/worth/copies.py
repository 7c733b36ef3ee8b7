"""Which entries are nearly another author's entry again.

Honest entries have next to nothing in common: each sends the few values that matter most to its own data, and the
cosine of two of them is about 0.01 (docs/benchmarks.md). Exact repeats are refused by the ledger; what is changed a
little is seen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.roster_vector import RosterOrder

ALIKE = 0.5
"""Cosine from which on two entries count as nearly equal."""

MAX_COMPARED = 128
"""Entries compared with one another at most: the newest."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """Author and number of entries that are nearly another author's.

    Attributes:
        copies: their author says by their base that it knew the other entry.
        alike: neither of the two names the other as known: one of the authors hides what it knew, or both have the
            same data.
    """

    copies: set[tuple[SiteKey, int]] = field(default_factory=set)
    alike: set[tuple[SiteKey, int]] = field(default_factory=set)


def likeness(
    entries: Sequence[Entry], earlier: Sequence[Entry], order: RosterOrder, decoder: Decoder, size: int
) -> Likeness:
    """Which of `entries` are nearly equal to another author's among them or to one of the `earlier` ones.

    Args:
        size: of the trunk.
    """
    found = Likeness()
    judged = sorted(entries, key=lambda entry: (-entry.number, entry.author))[:MAX_COMPARED]
    pool = [*judged, *sorted(earlier, key=lambda entry: (-entry.number, entry.author))[:MAX_COMPARED]]
    deltas = [decoder.decode(entry.payload) for entry in pool]
    norms = [delta.norm for delta in deltas]
    scratch = np.zeros(size, np.float32)  # which holds what a codec sends without rounding
    for place, (other, delta) in enumerate(zip(pool, deltas, strict=True)):
        scratch[delta.positions] = delta.values()
        for at, entry in enumerate(judged):
            if entry.author == other.author:
                continue
            product = float(scratch[deltas[at].positions] @ deltas[at].values())
            if product >= ALIKE * norms[at] * norms[place] > 0:
                _judge(entry, other, order, found)
        scratch[delta.positions] = 0
    found.alike.difference_update(found.copies)
    return found


def _judge(entry: Entry, other: Entry, order: RosterOrder, found: Likeness) -> None:
    knew = order.named(entry.base).get(other.author, 0) >= other.number
    known = order.named(other.base).get(entry.author, 0) >= entry.number
    if knew:
        found.copies.add((entry.author, entry.number))
    elif not known:
        found.alike.add((entry.author, entry.number))
