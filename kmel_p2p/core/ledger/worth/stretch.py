"""Which entries came since this site last measured, as a stretch of the trunk's way: computed off the event loop.

The loss falls along the way that the trunk takes, and every entry is a piece of that way. So what an author was worth
is the fall along its pieces: the integral of the loss's gradient along them, here by the midpoint rule. Summed over
authors it is the whole fall, and to second order it is the Shapley value of authors within each stretch. Taking an
author out of the final sum says less: without one of few authors the sum is a network that nobody trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accumulator import SCALE_BITS, WEIGHT_ONE, Accumulator, weights_at
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.ledger.worth.copies import Likeness, likeness
from kmel_p2p.core.rounds.worth import Stretch, StretchPart, StretchWork
from kmel_p2p.core.types import Vector

MAX_PAYLOAD_BYTES = 8 << 20
"""Of the entries of one stretch; in memory they take some sixteen times as much. What is left comes in the next one."""

BEFORE = 2
"""Entries of each author before the stretch that those in it may be copies of."""


def stretch_since(ledger: Ledger, decoder: Decoder, mark: Vector) -> StretchWork | None:
    """The way of the trunk since `mark`; None where no entry came that counts and is still here.

    Entries that were compacted before they were measured are left out: nobody can say any more what they did.

    Args:
        decoder: one that only this work uses.
        mark: up to where this site has measured.
    """
    accepted = ledger.accepted
    since: dict[SiteKey, list[Entry]] = {}
    earlier: dict[SiteKey, list[Entry]] = {}
    for author in sorted(accepted.vector):
        log = [entry for entry in accepted.log(author).after(0) if not accepted.is_withdrawn(author, entry.number)]
        done = mark.get(author, 0)
        since[author] = [entry for entry in log if entry.number > done]
        earlier[author] = [entry for entry in log if entry.number <= done][-BEFORE:]
    taken = _within(since)
    if not any(taken.values()):
        return None
    until = {**mark, **{author: entries[-1].number for author, entries in taken.items() if entries}}
    total, order = ledger.accumulator.copy(), accepted.order

    def work() -> Stretch:
        start = total
        for entries in since.values():
            for entry in entries:
                start.subtract(decoder.decode(entry.payload), entry.weight, entry.head_weights)
        parts = []
        # Before the trunks: it needs room of its own.
        found = likeness([e for part in taken.values() for e in part],
                         [e for part in earlier.values() for e in part], order, decoder, len(total))  # fmt: skip
        before, end = start.trunk(), start
        for author, entries in taken.items():
            if entries:
                parts.append(_part(author, entries, found, decoder, end))
        half_way = end.trunk()
        half_way += before
        half_way /= np.float32(2)
        return Stretch(until, half_way, tuple(parts))

    return work


def _within(since: Mapping[SiteKey, Sequence[Entry]]) -> dict[SiteKey, list[Entry]]:
    """The oldest entries of every author, as many as fit, all authors alike."""
    taken: dict[SiteKey, list[Entry]] = {author: [] for author in since}
    left = MAX_PAYLOAD_BYTES
    for place in range(max((len(entries) for entries in since.values()), default=0)):
        for author, entries in since.items():
            if place < len(entries):
                left -= len(entries[place].payload)
                if left < 0 and any(taken.values()):
                    return taken
                taken[author].append(entries[place])
    return taken


def _part(
    author: SiteKey, entries: Sequence[Entry], found: Likeness, decoder: Decoder, end: Accumulator
) -> StretchPart:
    """An author's part, which is added to `end`."""
    positions, values = [], []
    for entry in entries:
        delta = decoder.decode(entry.payload)
        end.add(delta, entry.weight, entry.head_weights)
        positions.append(delta.positions)
        scaled = delta.units * weights_at(delta, entry.weight, entry.head_weights) * 2.0**-SCALE_BITS
        values.append(scaled.astype(np.float32))
    return StretchPart(
        author,
        entries[0].number,
        entries[-1].number,
        sum(entry.weight for entry in entries) / WEIGHT_ONE,
        sum(len(entry.payload) for entry in entries),
        sum((author, entry.number) in found.copies for entry in entries),
        sum((author, entry.number) in found.alike for entry in entries),
        np.concatenate(positions),
        np.concatenate(values),
    )
