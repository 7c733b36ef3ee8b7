"""Folding and adopting: the store stands on one whole snapshot at any time, whatever is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.events import CompactionRecord
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Entry, create, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.core.ledger.snapshot.snapshot import genesis as empty_snapshot
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.trust import Trusted
from tests.testbed.ledger.toy import ToyCodec, toy_charter, toy_identities, toy_trunk

SITES = toy_identities(3)
CHARTER = toy_charter(SITES)
OWN = SITES[0].key


def fresh() -> Ledger:
    rules = Rules.of(CHARTER, ToyCodec.codec_id, toy_trunk())
    return Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), rules)


def genesis() -> Snapshot:
    return empty_snapshot(CHARTER.id, Accumulator.from_trunk(toy_trunk()))


def compaction(until: dict[SiteKey, int]) -> CompactionRecord:
    return CompactionRecord(until, {}, ())


def publish(ledger: Ledger, index: int) -> Entry:
    site = SITES[index]
    payload = ToyCodec.encode([index], [1000 + ledger.head(site.key)])
    entry = create(
        site,
        charter_id=CHARTER.id,
        number=ledger.head(site.key) + 1,
        previous=ledger.head_hash(site.key),
        basis=ledger.accepted.basis_for(site.key),
        weight=500,
        steps=1,
        norm_squared=ledger.measure(payload) or 0,
        codec_id=ToyCodec.codec_id,
        payload=payload,
    )
    assert ledger.offer(entry).verdict is Verdict.APPLIED
    return entry


def filled(path: Path) -> tuple[Store, Ledger]:
    """Four entries of every site, stored in their order of arrival."""
    store, ledger = Store(path), fresh()
    for _ in range(4):
        for index in range(3):
            entry = publish(ledger, index)
            state = f"round-{entry.number}" if index == 0 else None
            store.append_entry(entry.author, entry.number, entry.encode(), state)
    return store, ledger


def reopened(store: Store) -> Ledger:
    """The ledger as a start finds it."""
    ledger = fresh()
    snapshot = store.snapshot()
    if snapshot is not None:
        assert snapshot.problem() == ""
        ledger.adopt(snapshot)
    for stored in store.load_entries("arrival"):
        assert ledger.offer(decode(stored.encoded)).verdict is Verdict.APPLIED
    return ledger


def snapshots(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.glob("snapshot*"))


def test_folding_keeps_the_sum_and_bounds_the_store(tmp_path: Path) -> None:
    store, ledger = filled(tmp_path / "s")
    for until in (1, 3, 3):
        store.compact(compaction({site.key: until for site in SITES}), genesis, ToyCodec())
        again = reopened(store)
        assert again.digest() == ledger.digest()
        assert again.vector == ledger.vector == store.vector()
        assert len(list(store.load_entries())) == 3 * (4 - until)
        assert again.accepted.floor == {site.key: until for site in sorted(SITES, key=lambda s: s.key)}
    assert snapshots(store.path) == ["snapshot-3.kmls"]
    store.close()


def test_the_trainer_state_outlives_the_entry_it_came_with(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    store.compact(compaction({site.key: 4 for site in SITES}), genesis, ToyCodec())
    assert store.own_state_file(OWN) == "round-4"
    store.close()


def test_a_site_with_a_new_key_is_not_given_the_trainer_state_of_its_old_one(tmp_path: Path) -> None:
    store, ledger = filled(tmp_path / "s")
    new = SITES[1].key
    store.compact(compaction({site.key: 2 for site in SITES}), genesis, ToyCodec())
    assert store.own_state_file(new) is None
    entry = publish(ledger, 1)
    store.append_entry(new, entry.number, entry.encode(), "round-5")
    publish(ledger, 0)
    store.compact(compaction({site.key: 4 for site in SITES} | {new: 5}), genesis, ToyCodec())
    assert store.own_state_file(new) == "round-5"
    assert store.own_state_file(OWN) is None
    store.close()


POINTS = ["bump:committed", "snapshot:file", "snapshot:begin", "snapshot:written", "snapshot:committed"]


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_while_folding_leaves_one_whole_snapshot(tmp_path: Path, point: str) -> None:
    store, ledger = filled(tmp_path / "s")
    store.compact(compaction({OWN: 1}), genesis, ToyCodec())

    def fault(at: str) -> None:
        if at == point:
            raise Crash

    store._fault = fault
    with pytest.raises(Crash):
        store.compact(compaction({site.key: 3 for site in SITES}), genesis, ToyCodec())
    store.close()
    store = Store(store.path)
    assert len(snapshots(store.path)) == 1
    again = reopened(store)
    assert again.digest() == ledger.digest()
    assert again.vector == ledger.vector
    store.close()


def test_an_adopted_snapshot_takes_the_place_of_what_it_holds_and_keeps_what_is_above(tmp_path: Path) -> None:
    store, ledger = filled(tmp_path / "s")
    elsewhere = reopened(store)
    own = publish(ledger, 0)
    store.append_entry(OWN, own.number, own.encode(), "round-5")
    for _ in range(3):
        publish(elsewhere, 1)
    snapshot = elsewhere.snapshot()
    store.retract(SITES[2].key, 4, "nothing really", (b"proof",))
    outcome = ledger.adopt(snapshot)
    assert outcome.kept == {OWN: 5}
    trusted = Trusted(snapshot.vector, SITES[1].key, (SITES[1].key, SITES[2].key), 1.5)
    assert Trusted.of(store) is None
    store.adopt(snapshot, outcome.kept, trusted.encode())
    assert Trusted.of(store) == trusted
    assert [(e.author, e.number) for e in store.load_entries()] == [(OWN, 5)]
    assert store.log_ends() == {}
    assert store.own_state_file(OWN) == "round-5"
    assert reopened(store).digest() == ledger.digest()
    store.close()


def test_a_damaged_or_missing_snapshot_says_so(tmp_path: Path) -> None:
    store, _ = filled(tmp_path / "s")
    store.compact(compaction({OWN: 2}), genesis, ToyCodec())
    file = tmp_path / snapshots(store.path)[0]
    content = file.read_bytes()
    file.write_bytes(b"x" + content[1:])
    with pytest.raises(ConfigError, match=r"snapshot-1.kmls: not a snapshot; restore"):
        store.snapshot()
    file.unlink()
    with pytest.raises(ConfigError, match=r"snapshot-1.kmls: cannot read"):
        store.snapshot()
    store.close()
