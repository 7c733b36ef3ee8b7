"""Sites come, go and change their keys in a running federation; everybody ends with the same trunk."""

from __future__ import annotations

import numpy as np

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.events import EntryPublished
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.rounds import CharterAmended, Phase, RunComplete
from kmel_p2p.core.rounds.settings import AGAIN_US
from kmel_p2p.core.rounds.states import RoundState
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.testbed.ledger.amending import agreed, amend, with_newcomer
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import ToyCodec, toy_trunk, toy_world
from tests.testbed.network.links import Conditions

LOSSY = Conditions(latency_us=20 * MILLISECOND, jitter_us=20 * MILLISECOND, loss=0.2)


def slowly(index: int) -> int:
    return SECOND // 10


def numbers(federation: LedgerFederation) -> set[int]:
    return {federation.averaging(index).ledger.amended_rules.number for index in federation.running()}


def unsee(federation: LedgerFederation, gone: int) -> None:
    """Membership removes a retired site from every view."""
    for index in federation.running():
        if index != gone:
            federation.see(index, gone, False)


def test_a_retired_site_stops_counting_at_the_same_entry_everywhere() -> None:
    federation = LedgerFederation(toy_world(5, {"entry_limit": 20}, step_us=slowly, conditions=LOSSY), 1)
    federation.start_all()
    key = federation.sites[4].key
    federation.run(60 * SECOND, until=lambda: federation.averaging(0).ledger.head(key) >= 6)
    last = federation.averaging(0).ledger.head(key) - 2
    amend(federation, 0, agreed(federation, [0, 1, 2], retire=[{"name": "site4", "last": last}]))
    assert federation.run(60 * SECOND, until=lambda: numbers(federation) == {1})
    unsee(federation, 4)
    federation.run(2 * SECOND)
    assert federation.averaging(4).phase is Phase.LISTENING
    federation.crash(4)
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    for index in range(4):
        ledger = federation.averaging(index).ledger
        assert ledger.head(key) == last
        assert not ledger.faults
        assert len(federation.events(index, CharterAmended)) == 1
        assert all(ledger.head(site.key) == 20 for site in federation.sites[:4])


def test_a_retired_site_is_told_before_nobody_answers_it_any_more() -> None:
    conditions = Conditions(latency_us=20 * MILLISECOND)
    federation = LedgerFederation(toy_world(4, {"entry_limit": 40}, step_us=slowly, conditions=conditions), 1)
    federation.start_all()
    key = federation.sites[3].key
    federation.run(60 * SECOND, until=lambda: federation.averaging(0).ledger.head(key) >= 3)
    amend(federation, 0, agreed(federation, [0, 1, 2], retire=[{"name": "site3", "last": 2}]))
    federation.run(30 * MILLISECOND)
    federation.partition([3], range(3))
    federation.run(5 * SECOND)
    assert federation.averaging(3).phase is Phase.LISTENING


def test_retraction_takes_exactly_the_sites_contribution_out_and_survives_a_restart() -> None:
    federation = LedgerFederation(toy_world(4, {"entry_limit": 12}, step_us=slowly), 2)
    federation.start_all()
    key = federation.sites[3].key
    federation.run(60 * SECOND, until=lambda: federation.averaging(0).ledger.head(key) >= 6)
    document = agreed(federation, [0, 1, 2], retire=[{"name": "site3", "last": 5, "retract_from": 3}])
    amend(federation, 1, document)
    assert federation.run(30 * SECOND, until=lambda: numbers(federation) == {1})
    unsee(federation, 3)
    federation.crash(3)
    federation.crash(2)
    federation.run(5 * SECOND)
    federation.start(2)
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    ledger = federation.averaging(2).ledger
    assert ledger.head(key) == 5
    expected = Accumulator.from_trunk(toy_trunk())
    for entry in ledger.entries():
        if entry.author != key or entry.number < 3:
            expected.add(ToyCodec().decode(entry.payload), entry.weight)
    np.testing.assert_array_equal(ledger.accumulator.trunk(), expected.trunk())
    assert ledger.accumulator.digest() == expected.digest()
    # Its entries stay for judging others.
    assert ledger.accepted.get(key, 4) is not None
    kept = [decode(record.encoded).number for who, record in federation.sites[2].disk.entries.items() if who[0] == key]
    assert kept == [1, 2, 3, 4, 5]


def test_a_site_retired_while_it_stores_an_entry_does_not_keep_it() -> None:
    federation = LedgerFederation(toy_world(4, {"entry_limit": 20}, step_us=slowly), 6)
    federation.start_all()
    key = federation.sites[3].key
    federation.run(60 * SECOND, until=lambda: federation.averaging(3).ledger.head(key) >= 4)
    averaging = federation.averaging(3)
    assert federation.run(60 * SECOND, lambda: averaging._state is RoundState.STORING, step=MILLISECOND)
    last = federation.averaging(3).ledger.head(key)
    amend(federation, 3, agreed(federation, [0, 1, 2], retire=[{"name": "site3", "last": last}]))
    federation.run(5 * SECOND)
    assert federation.averaging(3).ledger.head(key) == last
    assert max(number for who, number in federation.sites[3].disk.entries if who == key) == last


def test_a_retraction_after_the_end_concludes_the_run_anew_everywhere() -> None:
    federation = LedgerFederation(toy_world(4, {"entry_limit": 5}, step_us=slowly), 2)
    federation.start_all()
    assert federation.run(120 * SECOND, until=federation.all_complete)
    federation.run(5 * SECOND)
    concluded = [len(federation.events(index, RunComplete)) for index in range(3)]
    revisions = [federation.averaging(index).revision for index in range(3)]
    amend(federation, 1, agreed(federation, [0, 1, 2], retire=[{"name": "site3", "last": 5, "retract_from": 1}]))
    assert federation.run(30 * SECOND, until=lambda: numbers(federation) == {1})
    unsee(federation, 3)
    federation.crash(3)
    federation.run(5 * SECOND)
    for index in range(3):
        averaging = federation.averaging(index)
        assert averaging.complete
        assert averaging.revision != revisions[index]
    federation.run(AGAIN_US)
    assert all(len(federation.events(index, RunComplete)) > concluded[index] for index in range(3))
    assert len(federation.digests()) == 1


def test_an_added_site_joins_with_the_amendment_that_added_it() -> None:
    federation = with_newcomer(3)
    federation.run(8 * SECOND)
    add = [{"name": "site4", "key": federation.sites[4].key.hex()}]
    document = agreed(federation, [0, 1, 3], add=add)
    amend(federation, 0, document)
    assert federation.run(30 * SECOND, until=lambda: numbers(federation) == {1})
    federation.sites[4].disk.amendments.append(document.encode())
    federation.start(4)
    assert federation.run(240 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    assert federation.averaging(0).ledger.head(federation.sites[4].key) == 15
    entries = [e for e in federation.averaging(0).ledger.entries() if e.author == federation.sites[4].key]
    assert {entry.basis.amendment for entry in entries} == {1}
    caps = [rules.weight_cap for rules in federation.averaging(0).ledger.amended_rules.rules]
    assert caps == [2**15, 2**17 // 5]


def test_an_entry_of_a_site_that_nobody_heard_of_waits_for_its_amendment() -> None:
    federation = with_newcomer(4)
    federation.run(8 * SECOND)
    add = [{"name": "site4", "key": federation.sites[4].key.hex()}]
    document = agreed(federation, [0, 1, 2], add=add)
    # Only the newcomer has it: the others learn it from its first summary.
    federation.sites[4].disk.amendments.append(document.encode())
    federation.start(4)
    assert federation.run(240 * SECOND, until=federation.all_complete)
    assert numbers(federation) == {1}
    assert len(federation.digests()) == 1
    assert federation.averaging(2).ledger.head(federation.sites[4].key) == 15


def test_a_site_goes_on_under_a_new_key() -> None:
    federation = LedgerFederation(toy_world(4, {"entry_limit": 12}, step_us=slowly), 5)
    federation.start_all()
    old = federation.sites[2].key
    federation.run(60 * SECOND, until=lambda: federation.averaging(0).ledger.head(old) >= 4)
    federation.crash(2)
    federation.run(3 * SECOND)
    last = federation.averaging(0).ledger.head(old)
    fresh = Identity(b"n" * 32)
    document = agreed(federation, [0, 1, 3], rekey=[{"name": "site2", "key": fresh.key.hex(), "last": last}])
    amend(federation, 3, document)
    assert federation.run(120 * SECOND, until=federation.all_complete)
    assert len(federation.digests()) == 1
    constitution: Constitution = federation.averaging(0).maintenance.amendments.constitution
    assert constitution.roster[fresh.key].name == "site2"
    assert federation.averaging(1).ledger.head(old) == last
    published = [e for e in federation.events(0, EntryPublished) if isinstance(e, EntryPublished)]
    assert published[-1].number == 12
