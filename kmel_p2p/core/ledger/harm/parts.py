"""The parts of the trunk that authors gave, for looks at what they do: computed away from the event loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.harm.suspensions import vote_reach
from kmel_p2p.core.ledger.harm.turning import Turning
from kmel_p2p.core.ledger.log.accumulator import SCALE_BITS, weights_at
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.rounds.looks import TrunkPart, Trunks

WINDOW = 8
"""Beside the whole contribution, a look takes out the entries since the last multiple of it that lies half of it back:
who turns late is hidden by the good that it did before."""

MOST_AUTHORS = 16
"""Authors looked at in one look; with more, they take turns."""


def windows(oldest: int, head: int) -> list[int]:
    """First entries of the parts that a look takes out, of a log whose entries `oldest` to `head` are here."""
    since = (head - WINDOW // 2) // WINDOW * WINDOW + 1
    return [oldest, since] if since > oldest else [oldest]


def trunks_without(ledger: Ledger, own: SiteKey, decoder: Decoder, turn: int) -> Trunks | None:
    """The trunk as it is and without each part of the other authors that count; None where there is nothing to see.

    The work can be done once: it takes each part out of one copy of the sum, and puts it back.

    Args:
        own: this site, which does not look at itself.
        decoder: one that only this work uses.
        turn: which authors come first, where there are many.
    """
    accepted = ledger.accepted
    authors = [key for key in accepted.vector if key != own and key not in ledger.suspended]
    authors = [key for key in authors if accepted.log(key).first <= accepted.head(key)]
    start = turn * MOST_AUTHORS % max(1, len(authors))
    chosen = (authors[start:] + authors[:start])[:MOST_AUTHORS]
    if not chosen:
        return None
    total, reach = ledger.accumulator.copy(), vote_reach(ledger.constitution)
    # An amendment that lifted a suspension decided about what was there: what came after it is looked at anew.
    lifted_at = ledger.constitution.lifted_at if ledger.constitution is not None else {}
    entries = {
        key: [
            entry
            for entry in accepted.log(key).after(0)
            if not accepted.is_withdrawn(key, entry.number) and entry.basis.amendment >= lifted_at.get(key, 0)
        ]
        for key in chosen
    }

    def work() -> Iterator[tuple[TrunkPart | None, NDArray[np.float32]]]:
        yield None, total.trunk()
        for author, log in entries.items():
            below = list(log)
            turning = Turning(len(total), len(log))
            # From the newest window to the whole, so that each entry is decoded once.
            head = log[-1].number if log else 0
            for first in sorted(windows(max(log[0].number, head - reach + 1), head), reverse=True) if log else ():
                while below and below[-1].number >= first:
                    entry: Entry = below.pop()
                    delta = decoder.decode(entry.payload)
                    total.subtract(delta, entry.weight, entry.head_weights)
                    weights = weights_at(delta, entry.weight, entry.head_weights)
                    turning.add(delta.positions, delta.units * weights * 2.0**-SCALE_BITS)
                yield TrunkPart(author, first, log[-1].number, turning.cosine), total.trunk()
            del turning  # It is as long as the trunk.
            # Exact, so that nothing is left of having been without them; a copy would be as long as the trunk.
            for entry in log[len(below) :]:
                total.add(decoder.decode(entry.payload), entry.weight, entry.head_weights)

    return work
