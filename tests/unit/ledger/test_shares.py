"""Weights by share: of any sites that see each other they add up to one exactly, for the trunk and for every head."""

from __future__ import annotations

import dataclasses

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import Bug, ConfigError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accumulator import WEIGHT_ONE, Accumulator
from kmel_p2p.core.ledger.log.entry import Entry, decode, decode_stub
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.proof import prove
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.core.ledger.rules.weights import Trains, shares, weight_cap, weights_of
from kmel_p2p.delta.layout import NO_HEAD, Layout, TensorSpec
from kmel_p2p.delta.sparse import SparseDelta
from tests.support.plain_ledgers import CHARTER_ID, PlainCodec, identities, new_ledger, next_entry, rules

PROPERTY = settings(deadline=None, max_examples=80)
HEADS = 3
SITES = identities(6)
LAYOUT = Layout(
    [
        TensorSpec("trunk", (4,)),
        TensorSpec("head.weight", (HEADS, 3), heads_along=0),
        TensorSpec("head.bias", (HEADS,), heads_along=0),
    ]
)

keys = st.binary(min_size=32, max_size=32).map(SiteKey)
classes = st.dictionaries(keys, st.integers(0, 60), min_size=1, max_size=40)
live = st.dictionaries(
    keys, st.builds(Trains, st.integers(0, 30), st.frozensets(st.integers(0, 4))), min_size=1, max_size=12
)
weights = st.tuples(st.integers(0, WEIGHT_ONE), st.dictionaries(st.integers(0, HEADS - 1), st.integers(1, WEIGHT_ONE)))

weights_of_heads = st.dictionaries(
    st.integers(0, HEADS - 1), st.sampled_from([1, 20000, 25000, 40000, 65536]), max_size=3
)


class HeadCodec(PlainCodec):
    """The plain codec over a layout with heads."""

    def decode(self, payload: bytes) -> SparseDelta:
        plain = super().decode(payload)
        return SparseDelta(plain.positions, plain.units, LAYOUT.heads_at(plain.positions))


def head_rules(sites: int = 6, share: float = 2.0) -> Rules:
    return dataclasses.replace(
        rules(SITES),
        heads=HEADS,
        current=frozenset(site.key for site in SITES[:sites]),
        weight_cap=weight_cap(sites, share),
        cap_share=share,
    )


def head_ledger(**changes: float) -> Ledger:
    base = Accumulator.from_trunk(np.zeros(LAYOUT.size, np.float32))
    return Ledger(base, HeadCodec(), dataclasses.replace(head_rules(), **changes))  # type: ignore[arg-type]


@given(classes)
@PROPERTY
def test_shares_add_up_to_one_and_follow_the_classes(classes: dict[SiteKey, int]) -> None:
    given_shares = shares(classes)
    assert sum(given_shares.values()) == WEIGHT_ONE
    total = sum(1 << min(c, 40) for c in classes.values())
    for key, size_class in classes.items():
        exact = 1 + (WEIGHT_ONE - len(classes)) * (1 << min(size_class, 40)) / total
        assert given_shares[key] >= 1
        assert abs(given_shares[key] - exact) <= 1


@given(classes, st.floats(1.0, 8.0))
@PROPERTY
def test_capped_shares_still_add_up_to_one_where_they_can(classes: dict[SiteKey, int], share: float) -> None:
    cap = weight_cap(len(classes), share)
    given_shares = shares(classes, cap)
    assert given_shares.keys() == classes.keys()
    assert all(1 <= given_share <= cap for given_share in given_shares.values())
    below = [key for key in classes if given_shares[key] < cap]
    assert sum(given_shares.values()) == WEIGHT_ONE or not below
    for key in below:
        assert all(given_shares[key] <= given_shares[other] + 1 for other in classes if classes[other] > classes[key])


def test_who_claims_to_be_huge_leaves_the_others_their_part() -> None:
    honest = {SITES[n].key: 10 for n in range(5)}
    cap = weight_cap(6, 2.0)
    given_shares = shares({**honest, SITES[5].key: 40}, cap)
    assert given_shares[SITES[5].key] == cap == WEIGHT_ONE // 3
    assert all(abs(given_shares[key] - (WEIGHT_ONE - cap) / 5) <= 1 for key in honest)


def capped_sums(sites: int) -> set[int]:
    """One, or what is left of it when all have the cap: with 2 equal shares only where everybody is above it."""
    return {WEIGHT_ONE, min(WEIGHT_ONE, sites * weight_cap(sites, 2.0))}


@given(live)
@PROPERTY
def test_weights_of_a_live_set_add_up_to_one_for_the_trunk_and_every_head(live: dict[SiteKey, Trains]) -> None:
    own = {key: weights_of(key, live, weight_cap(len(live), 2.0), 2.0) for key in live}
    assert sum(w.trunk for w in own.values()) in capped_sums(len(live))
    for head in range(5):
        holders = [key for key in live if head in live[key].heads]
        given_weights = {key: w.heads[head] for key, w in own.items() if head in w.heads}
        assert given_weights.keys() == set(holders)
        assert sum(given_weights.values()) in (capped_sums(len(holders)) if holders else {0})


def test_a_layout_tells_whose_a_value_is() -> None:
    heads = LAYOUT.heads_at(np.arange(LAYOUT.size))
    assert heads is not None
    assert heads.tolist() == [NO_HEAD] * 4 + [0, 0, 0, 1, 1, 1, 2, 2, 2] + [0, 1, 2]
    for head in range(HEADS):
        places = np.concatenate([np.arange(LAYOUT.size)[place] for place in LAYOUT.places_of_head(head)])
        assert places.tolist() == np.flatnonzero(heads == head).tolist()
    ensemble = Layout([TensorSpec("w", (2,)), TensorSpec("members", (2, 2, 3), heads_along=1)])
    assert (ensemble.heads_at(np.arange(14)) == np.array([NO_HEAD] * 2 + [0, 0, 0, 1, 1, 1] * 2)).all()  # type: ignore[union-attr]
    assert ensemble.places_of_head(1) == [slice(5, 8), slice(11, 14)]
    assert Layout([TensorSpec("w", (2, 2))]).heads_at(np.arange(4)) is None
    assert Layout(dataclasses.replace(s, heads_along=None) for s in LAYOUT.specs).hash == LAYOUT.hash
    with pytest.raises(ConfigError, match="no dimension 0"):
        Layout([TensorSpec("s", (), heads_along=0)])


@given(st.lists(st.tuples(st.integers(1, 10**6), weights), max_size=6), st.randoms(use_true_random=False))
@PROPERTY
def test_sums_by_head_are_exact_in_any_order_and_can_be_taken_back(drawn, random) -> None:  # type: ignore[no-untyped-def]
    positions = np.arange(LAYOUT.size)
    heads = LAYOUT.heads_at(positions)
    assert heads is not None
    one = Accumulator.from_trunk(np.zeros(LAYOUT.size, np.float32))
    other, expected = one.copy(), [0] * LAYOUT.size
    parts = [(SparseDelta(positions, units + positions, heads), *w) for units, w in drawn]
    for delta, trunk, by_head in parts:
        one.add(delta, trunk, by_head)
        for at, head in enumerate(heads.tolist()):
            expected[at] += int(delta.units[at]) * (trunk if head == NO_HEAD else by_head.get(head, 0))
    assert np.frombuffer(one.raw(), "<i8").tolist() == expected
    random.shuffle(parts)
    for delta, trunk, by_head in parts:
        other.add(delta, trunk, by_head)
    assert bytes(other.raw()) == bytes(one.raw())
    for delta, trunk, by_head in parts:
        other.subtract(delta, trunk, by_head)
    assert not any(bytes(other.raw()))


def test_a_weight_beyond_one_is_a_defect() -> None:
    delta = SparseDelta(np.array([5]), np.array([1]), np.array([0]))
    with pytest.raises(Bug, match="65537"):
        Accumulator.from_trunk(np.zeros(LAYOUT.size, np.float32)).add(delta, 1, {0: 65537})


def test_an_entry_says_which_heads_it_trains() -> None:
    ledger = head_ledger()
    none = next_entry(SITES[0], ledger)
    some = next_entry(SITES[0], ledger, head_weights={0: 5, 2: 7})
    assert decode(none.encode()).head_weights == {}
    assert decode(some.encode()).head_weights == {0: 5, 2: 7}
    assert decode_stub(some.stub()).head_weights == {0: 5, 2: 7}


@pytest.mark.parametrize("damage", [{"v": 2}, {"v": 4}, {"g": [0, 70000]}, {"g": [1, 1, 0, 1]}, {"g": [1024, 1]}])
def test_headers_that_break_the_format_are_refused(damage: dict[str, object]) -> None:
    values = msgpack.unpackb(next_entry(SITES[0], head_ledger(), head_weights={0: 5}).header)
    with pytest.raises(WireError):
        decode_stub(msgpack.packb([msgpack.packb({**values, **damage}), bytes(64)]))


@pytest.mark.parametrize("wrong", [{HEADS: 1}, {0: 0}])
def test_a_weight_for_no_head_ends_the_log(wrong: dict[int, int]) -> None:
    ledger = head_ledger()
    outcome = ledger.offer(next_entry(SITES[0], ledger, head_weights=wrong))
    assert outcome.refusal is Refusal.HEADS
    assert prove(outcome.faults[0].evidence, ledger.amended_rules, HeadCodec(), 1000) is not None


def test_the_cap_of_a_head_opens_as_others_say_that_they_do_not_train_it() -> None:
    ledger = head_ledger()
    own = SITES[0].key
    caps = []
    for index in (None, 5, 4, 3, 2):
        if index is not None:
            ledger.offer(next_entry(SITES[index], ledger, position=0, head_weights={0: 100}))
        caps.append(ledger.head_caps(own, ledger.accepted.held, [1])[1])
    assert caps == [weight_cap(sites, 2.0) for sites in (6, 5, 4, 3, 2)]
    assert ledger.head_caps(own, ledger.accepted.held, [0])[0] == ledger.rules.weight_cap


def test_a_weight_above_the_cap_of_a_head_is_proved_to_everybody() -> None:
    ledger = head_ledger()
    for index in (4, 5):
        ledger.offer(next_entry(SITES[index], ledger, head_weights={0: 100}))
    cap = ledger.head_caps(SITES[0].key, ledger.accepted.held, [1])[1]
    assert ledger.examine(next_entry(SITES[0], ledger, head_weights={1: cap})) == ""
    outcome = ledger.offer(next_entry(SITES[0], ledger, head_weights={1: cap + 1}))
    assert outcome.verdict is Verdict.REFUSED
    assert outcome.refusal is Refusal.HEAD_WEIGHT
    (fault,) = outcome.faults
    proved = prove(fault.evidence, ledger.amended_rules, HeadCodec(), 1000)
    assert proved is not None
    assert proved.reason == Refusal.HEAD_WEIGHT.value


def test_a_charter_without_shared_heads_allows_no_weight_for_one() -> None:
    fresh = new_ledger(SITES)
    assert fresh.rules.charter_id == CHARTER_ID
    assert fresh.rules.heads == 0
    assert fresh.offer(next_entry(SITES[0], fresh, head_weights={0: 1})).refusal is Refusal.HEADS


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.booleans(), min_size=6, max_size=6), weights_of_heads),
        min_size=6,
        max_size=24,
    ),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=40)
def test_every_peer_decides_the_same_about_weights_of_heads(draws, random) -> None:  # type: ignore[no-untyped-def]
    ledgers = [head_ledger() for _ in SITES]
    made: list[Entry] = []
    for author, sees, heads in draws:
        own, site = ledgers[author], SITES[author]
        for entry in made:
            if sees[[s.key for s in SITES].index(entry.author)]:
                own.offer(entry)
        if site.key not in own.faults:
            entry = next_entry(site, own, units=500 + len(made), position=4, head_weights=heads)
            own.offer(entry)
            made.append(entry)
    one, other = head_ledger(), head_ledger()
    mixed = list(made)
    random.shuffle(mixed)
    for ledger, order in ((one, made), (other, mixed)):
        for entry in order:
            ledger.offer(decode(entry.encode()))
    for ledger, elsewhere in ((one, other), (other, one)):
        for fault in list(elsewhere.faults.values()):
            ledger.offer_proof(fault.evidence)
    assert {key: fault.number for key, fault in one.faults.items()} == {k: f.number for k, f in other.faults.items()}
    assert (one.vector, one.digest()) == (other.vector, other.digest())
