"""What the store keeps of branches of a log: over restarts, and with the trainer's state."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from kmel_p2p.site.state.set_aside import EPOCH
from kmel_p2p.site.state.store import Store
from tests.support.plain_ledgers import identities, new_ledger, next_entry

SITES = identities(2)
OWN = SITES[0]


def stored(path: Path) -> list[bytes]:
    ledger = new_ledger(SITES)
    encoded = []
    with closing(Store(path)) as store:
        for number in (1, 2, 3):
            entry = next_entry(OWN, ledger, units=1000 + number)
            ledger.offer(entry)
            encoded.append(entry.encode())
            store.append_entry(OWN.key, number, encoded[-1], f"round-{number}")
    return encoded


def test_a_branch_is_set_aside_and_the_log_goes_on_where_it_parted(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    entries = stored(path)
    with closing(Store(path)) as store:
        store.retract(OWN.key, 2, "a fork", (b"one", b"other"))
        assert store.vector() == {OWN.key: 1}
        store.begin_epoch(OWN.key, f"{EPOCH}a 0001", b"the epoch", 0, reopened=True)
    with closing(Store(path)) as store:
        assert store.log_ends() == {}
        assert store.blobs(EPOCH) == {"a 0001": b"the epoch"}
        assert [(kind, body) for _, kind, body in store.evidence(OWN.key)] == [
            ("retracted", entries[1]),
            ("retracted", entries[2]),
        ]
        store.append_entry(OWN.key, 2, entries[1])
        store.drop_retracted(OWN.key, entries[1])
        assert [body for _, _, body in store.evidence(OWN.key)] == [entries[2]]


def test_the_newest_state_of_the_trainer_outlives_the_entry_that_it_was_stored_with(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    entries = stored(path)
    with closing(Store(path)) as store:
        store.begin_epoch(OWN.key, f"{EPOCH}a 0001", b"the epoch", 3, reopened=False)
        assert store.own_state_file(OWN.key) == "round-3"
        store.append_entry(OWN.key, 3, entries[2], "round-9")
        assert store.own_state_file(OWN.key) == "round-9"
