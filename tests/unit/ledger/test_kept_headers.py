"""Headers of compacted entries take bounded memory and always fit into a snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.entry import SignedHeader
from kmel_p2p.core.ledger.log.kept_headers import (
    BYTES_PER_SITE,
    HEADER_BYTES,
    HEADERS_BYTES,
    KEPT_HEADERS,
    fitting,
    kept_headers,
)
from kmel_p2p.core.roster_vector import RosterOrder
from kmel_p2p.site.state import stored_snapshot
from kmel_p2p.site.state.stored_snapshot import SnapshotFiles
from tests.support.plain_ledgers import identities, new_ledger, next_entry


def two_authors() -> dict[SiteKey, tuple[SignedHeader, ...]]:
    """Headers: four of one author, and one of another."""
    sites = identities(2)
    ledger = new_ledger(sites)
    for site in (sites[1], sites[0], sites[0], sites[0], sites[0]):
        ledger.offer(next_entry(site, ledger))
    return {key: tuple(log.headers()) for key, log in ledger.accepted.logs.items()}


MADE = two_authors()


@given(st.integers(1, MAX_SITES))
def test_headers_of_all_authors_take_bounded_memory(sites: int) -> None:
    kept = kept_headers(sites)
    assert 1 <= kept <= KEPT_HEADERS
    assert kept == 1 or kept * sites * (HEADER_BYTES + BYTES_PER_SITE * sites) <= HEADERS_BYTES


def test_small_federations_keep_all_that_they_kept() -> None:
    assert kept_headers(80) == KEPT_HEADERS
    assert kept_headers(300) < KEPT_HEADERS


@given(st.integers(0, 6000))
def test_the_newest_headers_fit_into_the_bytes_there_are(most_bytes: int) -> None:
    kept = fitting(MADE, most_bytes)
    assert kept.keys() == MADE.keys()
    for key, held in kept.items():
        assert held
        assert held == MADE[key][-len(held) :]
    size = sum(len(header.stub()) for held in kept.values() for header in held)
    assert size <= most_bytes or all(len(held) == 1 for held in kept.values())


def test_logs_keep_fewer_headers_when_the_roster_grows() -> None:
    sites = [SiteKey(bytes([index >> 8, index & 255]) * 16) for index in range(400)]
    accepted = AcceptedLogs(RosterOrder(sites[:2]))
    log = accepted.log(sites[0])
    assert log._headers.maxlen == KEPT_HEADERS
    accepted.grow(RosterOrder(sites))
    assert accepted.log(sites[0])._headers.maxlen == kept_headers(400)
    assert accepted.log(sites[1])._headers.maxlen == kept_headers(400)


def test_a_snapshot_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = new_ledger(identities(2)).snapshot()
    monkeypatch.setattr(stored_snapshot, "MAX_META_BYTES", 10)
    with pytest.raises(ConfigError, match="not written: headers, proofs and amendments take"):
        SnapshotFiles(tmp_path).write(1, snapshot)
    assert not list(tmp_path.iterdir())
