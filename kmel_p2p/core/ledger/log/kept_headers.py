"""How many headers of compacted entries are kept: so many that they take bounded memory, and fit into a snapshot.

Later entries are checked against them. Where one is no longer kept, nobody is blamed for what it might have excused, so
sites may keep different numbers and still agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import SignedHeader

KEPT_HEADERS = 1024
"""Headers kept of one author's compacted entries at most."""

HEADERS_BYTES = 256 * 1024 * 1024
"""Memory that the kept headers of all authors may take, about."""

HEADER_BYTES, BYTES_PER_SITE = 2000, 12
"""What one header takes in memory: a fixed part, and its base (measured: 2.1 kB at 16 sites, 5.5 kB at 300)."""

Headers = Mapping[SiteKey, Sequence[SignedHeader]]
"""Author -> headers, oldest first."""


def kept_headers(sites: int) -> int:
    """Headers kept of each author's compacted entries where so many sites are or were on the roster; at least 1."""
    each = HEADER_BYTES + BYTES_PER_SITE * sites
    return max(1, min(KEPT_HEADERS, HEADERS_BYTES // (max(1, sites) * each)))


def fitting(
    headers: Mapping[SiteKey, Sequence[SignedHeader]], most_bytes: int
) -> dict[SiteKey, tuple[SignedHeader, ...]]:
    """The newest headers of each author, as many of each as fit into `most_bytes` encoded; at least the newest."""
    kept = {key: tuple(held[-kept_headers(len(headers)) :]) for key, held in headers.items()}
    sizes = {key: [len(header.stub()) for header in held] for key, held in kept.items()}
    count = max((len(held) for held in kept.values()), default=1)
    while count > 1 and sum(sum(held[-count:]) for held in sizes.values()) > most_bytes:
        count = count * 3 // 4
    return {key: held[-count:] for key, held in kept.items()}
