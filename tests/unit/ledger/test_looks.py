"""Parts of the trunk are exact; looks prove harm only where it is large, sure and lasting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.harm.judgement import (
    LOOKS,
    TOLD_AFTER,
    TURNED_COUNTS,
    AuthorFinding,
    Judgement,
    harm_of,
    size_of,
)
from kmel_p2p.core.ledger.harm.parts import WINDOW, trunks_without, windows
from kmel_p2p.core.ledger.harm.turning import NEWEST, TURNED, Turning
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.rounds import EndpointLook, Look
from tests.support.plain_ledgers import PlainCodec, identities, new_ledger, next_entry
from tests.testbed.ledger.toy import ToyCodec, toy_charter, toy_identities, toy_trunk

AUTHOR = SiteKey(b"a" * 32)


def look(loss: float, without: float = 1.0, error: float = 0.01, compounds: int = 50, number: int = 9) -> Look:
    return Look(AUTHOR, 1, number, {0: EndpointLook(compounds, loss, without, error)})


def test_a_trunk_without_a_part_is_as_if_its_entries_had_never_been() -> None:
    sites = identities(3)
    ledger, without, late = new_ledger(sites), new_ledger(sites), new_ledger(sites)
    for number in range(1, 2 * WINDOW + 1):
        for index, site in enumerate(sites):
            entry = next_entry(site, ledger, 1000 + number, index)
            ledger.offer(entry)
            delta = PlainCodec().decode(entry.payload)
            if index != 1:
                without.accumulator.add(delta, entry.weight, entry.head_weights)
            if index != 1 or number < WINDOW + 1:
                late.accumulator.add(delta, entry.weight, entry.head_weights)
    work = trunks_without(ledger, sites[0].key, PlainCodec(), 0)
    assert work is not None
    found = {None if part is None else (part.author, part.first, part.number): trunk for part, trunk in work()}
    others = {site.key for site in sites[1:]}
    assert found.keys() == {None} | {(key, first, 2 * WINDOW) for key in others for first in (1, WINDOW + 1)}
    np.testing.assert_array_equal(found[None], ledger.accumulator.trunk())
    np.testing.assert_array_equal(found[sites[1].key, 1, 2 * WINDOW], without.accumulator.trunk())
    np.testing.assert_array_equal(found[sites[1].key, WINDOW + 1, 2 * WINDOW], late.accumulator.trunk())
    assert trunks_without(new_ledger(sites), sites[0].key, PlainCodec(), 0) is None


@pytest.mark.parametrize("oldest", [1, 5, 30])
def test_windows_cover_the_newest_entries_and_all_that_are_here(oldest: int) -> None:
    for head in range(oldest, 60):
        firsts = windows(oldest, head)
        assert firsts[0] == oldest
        assert all(head - first + 1 >= WINDOW // 2 for first in firsts[1:])
        assert min(head - firsts[-1], head - oldest) < 2 * WINDOW


@pytest.mark.parametrize(
    ("found", "size"),
    [(look(1.05), 0), (look(1.12), 1), (look(1.3), 2), (look(2.5), 3), (look(0.7), -2), (look(1.3, error=0.2), 0),
     (look(1.3, compounds=19), 0)],
)  # fmt: skip
def test_the_size_of_an_effect_is_coarse_and_zero_where_chance_explains_it(found: Look, size: int) -> None:
    assert size_of(found.parts[0]) == size


def test_harm_is_proved_by_looks_one_after_the_other_at_new_entries() -> None:
    judgement = Judgement()
    counts = [judgement.weigh({1: look(1.5, number=n)}).harmful for n in (2, 2, 3)]
    assert counts == [1, 1, 2]
    assert judgement.weigh({1: look(1.01, number=4)}).harmful == 0
    assert [judgement.weigh({1: look(1.5, number=n)}).harmful for n in (5, 6, 7)] == [1, 2, LOOKS]


def test_there_is_no_harm_where_all_entries_together_made_the_loss_smaller_on_the_way() -> None:
    judgement = Judgement()
    helped = [replace(look(1.5, number=n), raised=False) for n in (2, 3, 4, 5)]
    assert [judgement.weigh({1: one}) for one in helped] == [AuthorFinding(one, 0, False) for one in helped]
    assert judgement.quiet(AUTHOR) == 4
    # Such a look breaks a series of harmful ones, too.
    counts = [judgement.weigh({1: one}).harmful for one in (look(1.5, number=6), helped[0], look(1.5, number=7))]
    assert counts == [1, 0, 1]


def test_who_turns_is_found_however_much_it_gave_before() -> None:
    judgement = Judgement()
    turned = [replace(look(0.5, number=n), raised=False, turned_since=13) for n in (16, 16, 18)]
    found = [judgement.weigh({1: one, 9: replace(one, first=9)}) for one in turned]
    assert all(each.turned for each in found)
    assert [each.harmful for each in found] == [TURNED_COUNTS, TURNED_COUNTS, 2 * TURNED_COUNTS]
    assert TOLD_AFTER <= TURNED_COUNTS < LOOKS <= 2 * TURNED_COUNTS
    # Only what came since speaks against it.
    assert {each.look.first for each in found} == {13}
    assert judgement.weigh({1: replace(turned[0], number=19, turned_since=None)}).harmful == 0


def test_who_spoilt_more_than_it_gave_is_found_though_the_trunk_is_worse_without_it() -> None:
    judgement = Judgement()
    # The others have trained against it meanwhile: without it, the trunk is worse.
    spoilt = [replace(look(0.5, number=n), spoilt=True) for n in (10, 13, 16)]
    found = [judgement.weigh({1: one, 9: replace(one, first=9)}) for one in spoilt]
    assert [each.harmful for each in found] == [1, 2, LOOKS]
    assert not any(each.turned for each in found)
    assert {each.look.first for each in found} == {1}
    # All that it gave speaks against it, also where it turned on the way.
    both = replace(spoilt[0], number=19, turned_since=13)
    assert judgement.weigh({1: both}).look.first == 1


def authored(entries: list[list[float]]) -> float:
    """The cosine that `Turning` finds of an author's entries, given from the oldest to the newest."""
    turning = Turning(len(entries[0]), len(entries))
    for entry in reversed(entries):
        values = np.array(entry)
        turning.add(np.flatnonzero(values), values[np.flatnonzero(values)])
    return turning.cosine


def test_who_takes_back_what_it_gave_is_told_from_who_goes_on() -> None:
    forth = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]] * 2
    assert authored(forth * 2) > 0.5
    back = [[-value for value in entry] for entry in forth]
    assert authored([*forth, *back]) == pytest.approx(-authored(forth * 2))
    assert authored([*forth, *back]) < TURNED
    assert authored(back * 2) == pytest.approx(authored(forth * 2)), "against everybody from the start is no turn"
    # Something new altogether is neither; and of too few entries nothing is said.
    assert authored([[0.0, 0.0, 1.0]] * NEWEST + [[1.0, 0.0, 0.0]] * NEWEST) == 0.0
    assert authored([*forth[1:], *back]) == 1.0
    # Who turned some time ago is still told: its newest entries are compared with its oldest.
    assert authored([*forth, *forth, *back, *back]) == pytest.approx(authored([*forth, *forth]) * -1, rel=0.5)
    assert authored([*forth, *forth, *back, *back]) < TURNED


def test_a_look_tells_of_an_author_whose_entries_take_back_its_earlier_ones() -> None:
    sites = identities(3)
    ledger = new_ledger(sites)
    for number in range(1, 2 * NEWEST + 1):
        for index, site in enumerate(sites):
            ledger.offer(next_entry(site, ledger, 1000 + number, index))
    log = ledger.accepted.log(sites[1].key).after(0)
    dense = [entry_values(entry) for entry in log]
    before, newest = np.sum(dense[:NEWEST], axis=0), np.sum(dense[NEWEST:], axis=0)
    norm = np.linalg.norm(newest) * sum(float(one @ one) for one in dense[:NEWEST]) ** 0.5
    work = trunks_without(ledger, sites[0].key, PlainCodec(), 0)
    assert work is not None
    found = {part.author: part.cosine for part, _ in work() if part is not None and part.first == 1}
    assert found[sites[1].key] == pytest.approx(float(newest @ before) / norm, rel=1e-4)


def entry_values(entry: Entry) -> NDArray[np.float64]:
    """What one entry adds to the trunk, float64[d]."""
    alone = Accumulator.from_trunk(np.zeros_like(toy_trunk()))
    alone.add(PlainCodec().decode(entry.payload), entry.weight, entry.head_weights)
    return alone.trunk().astype(np.float64)


def test_the_window_that_shows_most_harm_is_the_one_told() -> None:
    late = Look(AUTHOR, 9, 14, {0: EndpointLook(50, 2.0, 1.0, 0.01)})
    assert Judgement().weigh({1: look(0.5), 9: late}) == AuthorFinding(late, 1, False)
    assert harm_of(look(0.5)) == 0.0


def test_one_endpoint_alone_counts_with_the_others() -> None:
    parts = {0: EndpointLook(50, 1.0, 1.0, 0.01), 1: EndpointLook(50, 1.2, 1.0, 0.01)}
    assert harm_of(Look(AUTHOR, 1, 5, parts)) == pytest.approx(0.1)


def test_the_largest_weight_grows_with_a_sites_history_and_first_entries_are_bounded_by_the_optimiser() -> None:
    charter = toy_charter(toy_identities(4), {"weight_cap": 2.0, "trusted_after": 11})
    rules = Rules.of(charter, ToyCodec.codec_id, toy_trunk())
    assert [rules.cap_at(number) for number in (1, 6, 11, 100)] == [2**14, 2**13 * 3, 2**15, 2**15]
    assert rules.share_at(1) == 1.0
    # Learning rate 0.001, 10 steps, 16 values: 0.04.
    assert rules.first_norm_squared == pytest.approx((0.04 * 2**24) ** 2, rel=1e-9)


def test_a_site_that_finds_harm_in_most_of_the_others_is_the_odd_one() -> None:
    judgement, others = Judgement(), [SiteKey(bytes([at]) * 32) for at in range(1, 5)]
    for at, key in enumerate(others[:3]):
        for number in range(2, 2 + LOOKS):
            # One that helped at times is none of them.
            judgement.weigh({1: replace(look(1.5, number=number), author=key)})
        judgement.weigh({1: replace(look(1.5 if at < 2 else 1.0, number=2 + LOOKS), author=key)})
    assert not judgement.is_odd(others)
    assert judgement.is_odd(others[:3])
    # Those that do not count any more are not asked about.
    assert judgement.is_odd(others[:1])
    assert not judgement.is_odd(others[2:])
    assert not Judgement().is_odd(others)
    assert not judgement.is_odd([])


def test_a_site_is_quiet_after_looks_at_new_entries_that_found_nothing() -> None:
    judgement = Judgement()
    assert judgement.quiet(AUTHOR) == 0
    found = []
    for number in (2, 2, 3, 4):
        judgement.weigh({1: look(1.01, number=number)})
        found.append(judgement.quiet(AUTHOR))
    assert found == [1, 1, 2, 3]
    judgement.weigh({1: look(1.5, number=5)})
    assert judgement.quiet(AUTHOR) == 0


def test_after_a_lift_looks_begin_with_what_the_author_published_under_it() -> None:
    sites = toy_identities(3)
    charter = toy_charter(sites, pace={"start_sites": 1})
    ledger = Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), Rules.of(charter, 7, toy_trunk()))
    constitution = Constitution(charter)
    ledger.amend(constitution)

    def publish(count: int) -> None:
        for number in range(count):
            for place, site in enumerate(sites):
                entry = next_entry(site, ledger, 1000 + place, number % 16, charter_id=charter.id)
                assert ledger.offer(entry).verdict is Verdict.APPLIED

    def firsts() -> set[int]:
        work = trunks_without(ledger, sites[0].key, ToyCodec(), 0)
        assert work is not None
        return {part.first for part, _ in work() if part is not None}

    publish(5)
    assert firsts() == {1}
    document = constitution.draft(lift=["site1", "site2"])
    for site in sites:
        document = document.signed_by(site, constitution)
    ledger.amend(constitution.followed_by(document))
    assert firsts() == set()
    publish(2)
    assert firsts() == {6}
