"""Which of two amendments of one number stays: alike wherever both are known, in whatever order they came."""

from __future__ import annotations

from itertools import permutations

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.rival_amendments import (
    have_parted,
    is_settled,
    overrules,
    overruling,
    parting,
    signed_both,
    went_by_each,
)
from tests.testbed.ledger.toy import toy_charter, toy_identities

SITES = toy_identities(5)
KEYS = [site.key for site in SITES]
FOUNDED = Constitution(toy_charter(SITES))


def amended(before: Constitution, signers: list[int], limit: int) -> Constitution:
    document = before.draft(entries=limit)
    for index in signers:
        document = document.signed_by(SITES[index], before)
    return before.followed_by(document)


ONE, OTHER, THIRD = sorted(
    (amended(FOUNDED, signers, 100 + limit) for limit, signers in enumerate(([0, 1, 2], [2, 3, 4], [1, 2, 3]))),
    key=lambda constitution: constitution.head_hash,
)


def test_they_part_at_the_first_that_differs() -> None:
    further = amended(ONE, [0, 1, 2], 200)
    assert parting(ONE, ONE) == 0
    assert parting(ONE, OTHER) == parting(further, OTHER) == 1
    assert parting(further, ONE) == parting(ONE, further) == 2
    assert overrules(further, ONE, {})
    assert not overrules(ONE, further, {})
    assert not overrules(FOUNDED, ONE, {})


def test_without_settled_ones_the_smallest_hash_stays_in_any_order() -> None:
    for order in permutations((ONE, OTHER, THIRD)):
        standing = order[0]
        for rival in order[1:]:
            if overrules(rival, standing, {}):
                standing = overruling(rival, standing)
        assert standing.head_hash == ONE.head_hash
        assert ONE.head_hash not in standing.overruled


@pytest.mark.parametrize("signers", [2, 3])
def test_what_is_settled_gives_way_to_no_smaller_hash(signers: int) -> None:
    went_by = {OTHER.head_hash: set(KEYS[:signers])}
    assert is_settled(OTHER, 1, went_by) == (signers == 3)
    assert overrules(ONE, OTHER, went_by) == (signers == 2)
    assert overrules(OTHER, ONE, went_by) == (signers == 3)
    # A later amendment settles those before it as well.
    assert is_settled(amended(OTHER, [0, 1, 2], 200), 1, {})
    assert not overrules(ONE, amended(OTHER, [2, 3, 4], 200), {})


def test_who_was_not_on_the_roster_before_settles_nothing() -> None:
    strangers = {Identity(bytes([number]) * 32).key for number in range(50, 60)}
    assert not is_settled(OTHER, 1, {OTHER.head_hash: strangers | {KEYS[0]}})


def test_a_site_under_a_new_key_is_the_same_site() -> None:
    fresh = Identity(b"f" * 32)
    document = FOUNDED.draft(rekey=[{"name": "site0", "key": fresh.key.hex(), "last": 3}])
    for index in (0, 1, 2):
        document = document.signed_by(SITES[index], FOUNDED)
    rekeyed = FOUNDED.followed_by(document)
    assert is_settled(rekeyed, 1, {rekeyed.head_hash: {fresh.key, KEYS[1], KEYS[2]}})


def test_where_both_are_settled_nobody_gives_way() -> None:
    went_by = {ONE.head_hash: set(KEYS[:3]), OTHER.head_hash: set(KEYS[2:])}
    assert have_parted(ONE, OTHER, went_by)
    assert not overrules(ONE, OTHER, went_by)
    assert not overrules(OTHER, ONE, went_by)


def test_who_signed_both_is_named() -> None:
    one, other = amended(FOUNDED, [0, 1, 2], 101), amended(FOUNDED, [2, 3, 4], 102)
    assert signed_both(one.documents[0], other.documents[0], FOUNDED) == ["site2"]


def test_what_gave_way_is_remembered_with_all_that_followed_it() -> None:
    further = amended(OTHER, [2, 3, 4], 300)
    winner = overruling(ONE, further)
    assert set(winner.overruled) == {OTHER.head_hash, further.head_hash}
    assert winner.at(0).overruled == winner.overruled
    assert amended(winner, [0, 1, 2], 200).overruled == winner.overruled


def test_three_constitutions_never_overrule_each_other_in_a_circle() -> None:
    """Two of them begin alike, and only what follows in one shows who went by that beginning."""
    fresh = [Identity(bytes([number]) * 32) for number in range(90, 96)]
    everybody = [*SITES, *fresh]
    added = [{"name": f"new{number}", "key": site.key.hex()} for number, site in enumerate(fresh)]

    def by(before: Constitution, signers: list[int], **changes: object) -> Constitution:
        document = before.draft(**changes)
        for index in signers:
            document = document.signed_by(everybody[index], before)
        return before.followed_by(document)

    begun = by(FOUNDED, [0, 1, 2], add=added)
    lone = next(
        found for limit in range(300, 400) if (found := amended(FOUNDED, [2, 3, 4], limit)).head_hash < begun.head_hash
    )
    by_new = by(begun, [0, 5, 6, 7, 8, 9, 10], entries=100)
    by_old = next(
        found
        for limit in range(200, 300)
        if (found := by(begun, [0, 1, 2, 5, 6, 7], entries=limit)).head_hash > by_new.head_hash
    )
    all_three = (lone, by_new, by_old)
    assert overrules(lone, by_new, {})
    assert overrules(by_new, by_old, {})
    assert overrules(by_old, lone, {})
    for order in permutations(all_three):
        standing = order[0]
        for _ in range(3):
            for rival in all_three:
                went_by = went_by_each({}, standing, [other for other in all_three if other is not standing])
                if overrules(rival, standing, went_by):
                    standing = rival
        assert standing is by_new
