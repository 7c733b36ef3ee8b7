"""The ledger is a function of the set of entries: order, repetition and loss do not show in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.log.entry import Entry, decode
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.validity import Refusal
from tests.support.plain_ledgers import CHARTER_ID, PlainCodec, identities, names, new_ledger, next_entry

SITES = identities(4)


def history(draws: list[tuple[int, int, bool]]) -> list[Entry]:
    """Entries by several authors, made on ledgers that saw each other's work only sometimes."""
    ledgers = [new_ledger(SITES) for _ in SITES]
    made: list[Entry] = []
    for author, units, catch_up in draws:
        if catch_up:
            for entry in made:
                ledgers[author].offer(entry)
        own = ledgers[author]
        entry = next_entry(SITES[author], own, units=units, position=author)
        assert own.offer(entry).verdict is Verdict.APPLIED
        made.append(entry)
    return made


draws = st.lists(st.tuples(st.integers(0, 3), st.integers(500, 1500), st.booleans()), min_size=1, max_size=24)


@given(draws, st.randoms(use_true_random=False), st.data())
@settings(deadline=None, max_examples=60)
def test_any_order_and_any_repetition_give_one_state(draws, random, data) -> None:  # type: ignore[no-untyped-def]
    made = history(draws)
    reference = new_ledger(SITES)
    for entry in made:
        reference.offer(entry)
    assert len(list(reference.entries())) == len(made)

    mixed = made + data.draw(st.lists(st.sampled_from(made), max_size=10))
    random.shuffle(mixed)
    other = new_ledger(SITES)
    for entry in mixed:
        other.offer(decode(entry.encode()))
    assert other.vector == reference.vector
    assert other.digest() == reference.digest()
    assert other.waiting == 0
    np.testing.assert_array_equal(other.accumulator.trunk(), reference.accumulator.trunk())


@given(draws, st.data())
@settings(deadline=None, max_examples=40)
def test_a_past_vectors_digest_is_reached_by_subtraction(draws, data) -> None:  # type: ignore[no-untyped-def]
    made = history(draws)
    cut = data.draw(st.integers(0, len(made)))
    early = new_ledger(SITES)
    for entry in made[:cut]:
        early.offer(entry)
    vector, digest = early.accepted.held, early.digest()
    for entry in made[cut:]:
        early.offer(entry)
    assert early.digest(vector) == digest
    assert (early.digest() == digest) == (cut == len(made))


def test_an_entry_waits_until_its_base_is_here() -> None:
    a, b = new_ledger(SITES), new_ledger(SITES)
    first = next_entry(SITES[0], a)
    a.offer(first)
    second = next_entry(SITES[1], a)
    assert b.offer(second).verdict is Verdict.WAITING
    assert names(b, SITES) == [0, 0, 0, 0]
    outcome = b.offer(first)
    assert outcome.verdict is Verdict.APPLIED
    assert [e.author for e in outcome.applied] == [SITES[0].key, SITES[1].key]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"weight": 65535}, Refusal.WEIGHT),
        ({"weight": 0}, Refusal.WEIGHT),
        ({"steps": 0}, Refusal.STEPS),
        ({"codec_id": 8}, Refusal.CODEC),
        ({"payload": b"nonsense"}, Refusal.PAYLOAD),
        ({"payload": PlainCodec.encode([0], [2**31])}, Refusal.NORM),
        ({"previous": b"p" * 32}, Refusal.CHAIN),
    ],
)
def test_what_its_author_signed_against_the_rules_ends_the_log(changes, refusal) -> None:  # type: ignore[no-untyped-def]
    ledger = new_ledger(SITES)
    ledger.offer(next_entry(SITES[0], ledger))
    good = ledger.digest()
    bad = next_entry(SITES[0], ledger, **changes)
    outcome = ledger.offer(bad)
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.refusal is refusal
    assert ledger.faults[SITES[0].key].number == 2
    evidence = ledger.faults[SITES[0].key].evidence
    assert bad.header in evidence[0]
    stranger = new_ledger(SITES)
    assert [f.number for f in stranger.offer_proof(evidence).faults] == [2]
    assert ledger.digest() == good
    assert ledger.offer(next_entry(SITES[0], ledger)).verdict is Verdict.ENDED
    assert ledger.offer(next_entry(SITES[1], ledger)).verdict is Verdict.APPLIED


def test_forged_bytes_are_nobodys_fault_but_the_senders() -> None:
    ledger = new_ledger(SITES)
    entry = next_entry(SITES[0], ledger)
    forged = dataclasses.replace(entry, signature=bytes(64))
    assert ledger.offer(forged).refusal is Refusal.SIGNATURE
    stranger = next_entry(Identity(b"x" * 32), ledger)
    assert ledger.offer(stranger).refusal is Refusal.AUTHOR
    foreign = next_entry(SITES[0], ledger, charter_id=b"d" * 32)
    assert ledger.offer(foreign).refusal is Refusal.CHARTER
    assert not ledger.faults
    assert ledger.offer(entry).verdict is Verdict.APPLIED


def test_a_base_that_goes_backward_ends_the_log() -> None:
    ledger = new_ledger(SITES)
    ledger.offer(next_entry(SITES[1], ledger))
    ledger.offer(next_entry(SITES[0], ledger))
    backward = next_entry(SITES[0], ledger, base={SITES[0].key: 1})
    assert ledger.offer(backward).refusal is Refusal.BASE_BACKWARD


@given(st.permutations(range(6)))
@settings(deadline=None, max_examples=60)
def test_a_fork_is_retracted_exactly_and_alike_in_every_order(order: list[int]) -> None:
    made = new_ledger(SITES)
    first = next_entry(SITES[0], made)
    made.offer(first)
    mate = next_entry(SITES[1], made, units=700, position=1)
    made.offer(mate)
    left = next_entry(SITES[0], made, units=900, position=2)
    right = next_entry(SITES[0], made, units=901, position=2)
    without = new_ledger(SITES)
    for entry in (first, mate):
        without.offer(entry)
    made.offer(left)
    after = next_entry(SITES[0], made, units=800, position=3)
    made.offer(after)
    leaning = next_entry(SITES[2], made, units=850, position=4)
    without.end_log(_fault(left, right))
    without.offer(leaning)

    everything = [first, mate, left, right, after, leaning]
    ledger = new_ledger(SITES)
    for index in order:
        ledger.offer(everything[index])
    assert ledger.faults[SITES[0].key].number == 2
    assert names(ledger, SITES) == [1, 1, 1, 0]
    assert ledger.digest() == without.digest()
    assert ledger.vector == without.vector


def _fault(left: Entry, right: Entry):  # type: ignore[no-untyped-def]
    probe = new_ledger(SITES)
    probe.offer(left)
    return probe.offer(right).faults[0]


@given(st.binary(max_size=400))
@settings(deadline=None)
def test_random_bytes_are_no_entry(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_damaged_entry_is_refused_or_unchanged(data: st.DataObject) -> None:
    ledger = new_ledger(SITES)
    encoded = bytearray(next_entry(SITES[0], ledger).encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        damaged = decode(bytes(encoded))
    except WireError:
        return
    assert ledger.offer(damaged).verdict is Verdict.REFUSED


def test_the_norm_bound_is_the_median_of_the_newest_norms_at_the_base() -> None:
    ledger = new_ledger(SITES, norm_cap=2.0)
    for site, units in zip(SITES[:3], (100, 200, 1000), strict=True):
        ledger.offer(next_entry(site, ledger, units=units, base={}))
    assert ledger.norm_bound_squared(SITES[3].key, ledger.accepted.held) == (2 * 200) ** 2
    within = next_entry(SITES[3], ledger, units=400)
    above = next_entry(SITES[3], ledger, units=401)
    assert ledger.offer(above).refusal is Refusal.NORM
    fresh = new_ledger(SITES, norm_cap=2.0)
    for entry in list(ledger.entries()):
        fresh.offer(entry)
    assert fresh.offer(within).verdict is Verdict.APPLIED
    assert within.charter_id == CHARTER_ID
