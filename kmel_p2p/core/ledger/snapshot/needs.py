"""What a ledger takes at each site, reckoned before a charter or an amendment is signed: headers, payloads, snapshot.

Nothing of it grows with the length of a run (`kept_headers`, `retention`). But with many sites few headers of each are
kept, and with fewer than the entries that are kept some entries of a site that was away can no longer be judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.core.ledger.log.kept_headers import BYTES_PER_SITE, HEADER_BYTES, kept_headers
from kmel_p2p.core.ledger.snapshot.retention import FEWEST, bytes_worth_keeping

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one site, at most.

    Attributes:
        headers: kept of each author.
        headers_bytes: memory that they take.
        payloads_bytes: memory and disk that the kept entries take.
        snapshot_bytes: what a newcomer fetches.
        retained: entries that the charter wants kept of each author.
    """

    headers: int
    headers_bytes: int
    payloads_bytes: int
    snapshot_bytes: int
    retained: int

    def in_words(self) -> list[str]:
        """For those who read a draft: a few lines, with advice where the sites are too many for the charter."""
        lines = [
            f"Each site keeps at most {_mib(self.headers_bytes)} of headers and {_mib(self.payloads_bytes)} of "
            f"entries; a newcomer fetches at most {_mib(self.snapshot_bytes)}."
        ]
        if self.headers < self.retained:
            lines.append(
                f"With so many sites, {self.headers} headers of each are kept, fewer than averaging.retain_entries "
                f"({self.retained}): set that to {max(8, self.headers)}, or take fewer sites."
            )
        return lines


def needs(sites: int, values: int, retained: int, payload_bytes: int) -> Needs:
    """What a ledger takes at one of its sites.

    Args:
        sites: that take part, and former ones.
        values: of the trunk.
        retained: newest entries of each author that are kept (`averaging.retain_entries`).
        payload_bytes: of one entry, at most.
    """
    headers = kept_headers(sites)
    each = HEADER_BYTES + BYTES_PER_SITE * sites
    # The fewest entries of each author are kept whatever they take (`retention.FEWEST`).
    payloads = min(sites * retained * payload_bytes, max(bytes_worth_keeping(values), sites * FEWEST * payload_bytes))
    return Needs(headers, sites * headers * each, payloads, 8 * values + sites * headers * each, retained)


def _mib(size: int) -> str:
    return f"{max(1, round(size / MIB)):,} MiB"
