"""What a ledger takes is told before a charter is signed, with advice where its sites are too many for it."""

from __future__ import annotations

import pytest

from kmel_p2p.core.ledger.log.kept_headers import HEADERS_BYTES, KEPT_HEADERS
from kmel_p2p.core.ledger.snapshot.needs import MIB, needs

VALUES, PAYLOAD = 1_000_000, 20_000


@pytest.mark.parametrize("sites", [2, 16, 80, 300, 1000, 4096])
def test_headers_take_bounded_memory_with_any_number_of_sites(sites: int) -> None:
    found = needs(sites, VALUES, 64, PAYLOAD)
    assert 1 <= found.headers <= KEPT_HEADERS
    assert found.headers_bytes <= HEADERS_BYTES
    assert found.snapshot_bytes == 8 * VALUES + found.headers_bytes


def test_few_sites_need_no_advice_and_many_are_told_what_to_set() -> None:
    (line,) = needs(16, VALUES, 64, PAYLOAD).in_words()
    assert "34 MiB of headers and 16 MiB of entries" in line
    _, advice = needs(1000, VALUES, 64, PAYLOAD).in_words()
    assert "19 headers of each are kept, fewer than averaging.retain_entries (64): set that to 19" in advice


def test_large_payloads_are_kept_only_up_to_what_the_sum_takes() -> None:
    assert needs(4, VALUES, 64, 10 * MIB).payloads_bytes == 4 * 8 * 10 * MIB
    assert needs(4, 100_000_000, 64, 10 * MIB).payloads_bytes == 800_000_000
