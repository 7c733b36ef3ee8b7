"""Takes contributions out of the sum while their entries stay in the log, and puts them back: exactly, both ways."""

from __future__ import annotations

from collections.abc import Mapping

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accepted_logs import ENDLESS, AcceptedLogs
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.rules.payload import Decoder


def withdraw(starts: Mapping[SiteKey, int], accepted: AcceptedLogs, accumulator: Accumulator, decoder: Decoder) -> None:
    """Make the entries from `starts` on the only ones that do not count.

    Where entries that change are compacted here, the logs are stale from then on, and only a snapshot helps, or what
    brings the former start back.

    Args:
        starts: author -> first entry that does not count.
        accepted: the logs; what they say of withdrawn entries is changed.
        accumulator: the sum, changed in place.
        decoder: decodes payloads.
    """
    for author in sorted(starts.keys() | accepted.withdrawn.keys()):
        before, after = accepted.withdrawn.get(author, ENDLESS), starts.get(author, ENDLESS)
        if before == after:
            continue
        low, high = min(before, after), max(before, after)
        log = accepted.log(author)
        change = accumulator.subtract if after < before else accumulator.add
        for entry in log.after(low - 1):
            if entry.number >= high:
                break
            change(decoder.decode(entry.payload), entry.weight, entry.head_weights)
        accepted.withdrawn.pop(author, None)
        if after < ENDLESS:
            accepted.withdrawn[author] = after
