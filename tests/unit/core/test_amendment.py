"""Amendments: a chain that a quorum signs, checked by whoever has the charter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution, signatures_needed
from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.rules.rules import AmendedRules, Rules
from kmel_p2p.core.ledger.rules.validity import norm_bound_squared
from tests.testbed.ledger.toy import toy_charter, toy_identities

SITES = toy_identities(5)
CHARTER = toy_charter(SITES)
FRESH = Identity(b"f" * 32)


def signed(constitution: Constitution, who: list[Identity], **changes: Any) -> AmendmentDocument:
    document = constitution.draft(**changes)
    for identity in who:
        document = document.signed_by(identity, constitution)
    return document


def retire(name: str, last: int = 3, retract_from: int = 0) -> list[dict[str, Any]]:
    return [{"name": name, "last": last, "retract_from": retract_from}]


def test_a_quorum_puts_an_amendment_in_force_and_less_does_not() -> None:
    constitution = Constitution(CHARTER)
    document = signed(constitution, SITES[:2], retire=retire("site4"))
    assert constitution.why_not_in_force(document).startswith("2 of 3 needed sites have signed; missing among: site2")
    document = document.signed_by(SITES[4], constitution)
    after = constitution.followed_by(document)
    assert after.number == 1
    assert SITES[4].key not in after.roster
    assert SITES[4].key in after.everyone
    assert after.retired[SITES[4].key].last == 3
    assert after.id == CHARTER.id
    assert after.at(0).roster == constitution.roster


def test_changes_of_every_kind() -> None:
    constitution = Constitution(CHARTER)
    constitution = constitution.followed_by(
        signed(constitution, SITES[:3], add=[{"name": "late", "key": FRESH.key.hex(), "addresses": ["tcp://h:1"]}])
    )
    assert constitution.roster[FRESH.key].addresses == ("tcp://h:1",)
    assert constitution.signatures_needed == 4
    other = Identity(b"o" * 32)
    document = signed(constitution, SITES[:3], rekey=[{"name": "site3", "key": other.key.hex(), "last": 7}])
    assert constitution.why_not_in_force(document)
    constitution = constitution.followed_by(document.signed_by(FRESH, constitution))
    assert constitution.roster[other.key].name == "site3"
    assert constitution.retired[SITES[3].key].last == 7
    constitution = constitution.followed_by(signed(constitution, [*SITES[:3], FRESH], quorum="all"))
    assert constitution.signatures_needed == 6
    assert [document.amendment.number for document in constitution.documents] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "it changes nothing"),
        ({"retire": retire("nobody")}, "there is no site 'nobody' now"),
        ({"retire": [*retire("site1"), *retire("site1")]}, "site 'site1' is named twice"),
        ({"add": [{"name": "site1", "key": FRESH.key.hex()}]}, "site 'site1' is named twice"),
        ({"add": [{"name": "new", "key": SITES[1].key.hex()}]}, "was used before"),
        ({"add": [{"name": "new", "key": "ff" * 32}]}, "is no Ed25519 public key"),
        ({"number": 2, "quorum": "all"}, "it has number 2; the next one is 1"),
        ({"charter": "00" * 32, "quorum": "all"}, "it amends another charter"),
        ({"previous": "11" * 32, "quorum": "all"}, "it does not follow the newest amendment"),
        ({"retire": retire("site1", 3, 4)}, "retract_from (4) is above last (3)"),
        ({"entries": 6}, "as 6 do already"),
        ({"retyre": retire("site1")}, "did you mean 'retire'?"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Constitution(CHARTER).draft(**changes)
    assert words in str(caught.value)


def test_a_number_that_is_not_the_next_one_comes_with_what_to_do() -> None:
    first = Constitution(CHARTER)
    document = signed(first, SITES[:3], quorum="all")
    other = signed(first, SITES[:3], quorum="two-thirds")
    amended = first.followed_by(document)
    assert "in force already" in amended.why_not_in_force(document)
    assert "draft it anew" in amended.why_not_in_force(other)
    assert "let the peer run" in first.why_not_in_force(signed(amended, SITES, quorum="majority"))


def test_signatures_count_once_and_only_of_current_sites() -> None:
    constitution = Constitution(CHARTER)
    document = signed(constitution, SITES[:2], quorum="all")
    copied = document.model_copy(update={"signatures": {**document.signatures, "site2": document.signatures["site1"]}})
    assert constitution.signed(copied) == sorted(["site0", "site1"], key=lambda n: SITES[int(n[-1])].key)
    with pytest.raises(ConfigError, match="is not a site"):
        document.signed_by(FRESH, constitution)
    gone = constitution.followed_by(signed(constitution, SITES[:3], retire=retire("site0")))
    with pytest.raises(ConfigError, match="is not a site"):
        gone.draft(quorum="all").signed_by(SITES[0], gone)


def test_a_run_is_extended_and_never_shortened() -> None:
    constitution = Constitution(CHARTER)
    longer = constitution.followed_by(signed(constitution, SITES[:3], entries=9))
    assert (constitution.campaign.entries, longer.campaign.entries) == (6, 9)
    assert longer.followed_by(signed(longer, SITES[:3], quorum="all")).campaign.entries == 9
    with pytest.raises(ConfigError, match="as 9 do already"):
        longer.draft(entries=8)


def test_documents_survive_file_and_wire() -> None:
    document = signed(Constitution(CHARTER), SITES[:3], retire=retire("site4", 9, 2), quorum="two-thirds")
    assert AmendmentDocument.parse(document.render(), "f") == document
    assert AmendmentDocument.decode(document.encode()) == document


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_are_no_amendment(data: bytes) -> None:
    with pytest.raises(WireError):
        AmendmentDocument.decode(data)


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_a_damaged_amendment_is_refused_or_not_in_force_or_the_same(data: st.DataObject) -> None:
    constitution = Constitution(CHARTER)
    document = signed(constitution, SITES[:3], retire=retire("site4"))
    encoded = bytearray(document.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        damaged = AmendmentDocument.decode(bytes(encoded))
    except WireError:
        return
    assert damaged.amendment == document.amendment or constitution.why_not_in_force(damaged)


@given(st.integers(1, 500), st.sampled_from(["majority", "two-thirds", "all"]))
def test_two_quorums_share_a_site(sites: int, quorum: Any) -> None:
    assert 2 * signatures_needed(sites, quorum) > sites
    assert signatures_needed(sites, quorum) <= sites


AFTER = {"number": 2, "entries": 3, "after": {f"site{index}": 6 for index in range(5)}}


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"averaging.steps_per_entry": 10**30}, "'campaign.settings.averaging.steps_per_entry' is 1000"),
        ({"averaging.weight_cap": 10**30}, "expected a number from 0 to 4_294_967_296"),
        ({"averaging.weight_cap": float("nan")}, "is nan: expected a number from 0 to"),
        ({"averaging.norm_cap": float("inf")}, "is inf: expected a number from 0 to"),
        ({"averaging.norm_cap": 4e9}, "'norm_cap' is 4000000000.0: expected at most 1000000000.0"),
        ({"training.learning_rate": -1.0}, "is -1.0: expected a number from 0 to"),
        ({"training.learning_rate": 0}, "'learning_rate' is 0: expected more than 0.0"),
        ({"training.batch_size": True}, "is true: expected a number from 0 to"),
        ({"training.batch_size": 64.0}, "expected a whole number"),
    ],
)
def test_absurd_settings_of_a_campaign_are_refused_by_name(settings_: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Constitution(CHARTER).draft(campaign={**AFTER, "settings": settings_})
    assert words in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_every_bound_on_norms_that_a_charter_or_campaign_may_set_can_be_computed() -> None:
    constitution = Constitution(CHARTER)
    largest = {"averaging.norm_cap": 1e9, "averaging.steps_per_entry": 2**32, "averaging.weight_cap": 2**32}
    document = signed(constitution, SITES[:3], campaign={**AFTER, "settings": largest})
    charter = toy_charter(SITES, {"first_norm": 1e9, "steps_per_entry": 2**32})
    rules = AmendedRules.of(constitution.followed_by(document), Rules.of(charter, 1, np.zeros(1000, np.float32)))
    assert math.isfinite(math.sqrt(norm_bound_squared([2**128 - 1], rules.now)))
    assert math.isfinite(math.sqrt(norm_bound_squared([], rules.now)))
    assert rules.now.cap_at(1) == 2**16 // 5


def test_signatures_that_count_nothing_are_not_kept_once_it_is_in_force() -> None:
    constitution = Constitution(CHARTER)
    document = signed(constitution, SITES[:3], entries=100)
    padded = {**document.signatures, "site4": "0" * 60_000, **{f"x{number}": "0" * 60_000 for number in range(30)}}
    sent = AmendmentDocument.decode(document.model_copy(update={"signatures": padded}).encode())
    (kept,) = constitution.followed_by(sent).documents
    assert kept == document


def test_who_sits_a_campaign_out_does_so_under_a_new_key() -> None:
    constitution = Constitution(CHARTER)
    opening = signed(constitution, SITES[:3], campaign={**AFTER, "sits_out": ("site4",)})
    constitution = constitution.followed_by(opening)
    rekeyed = signed(constitution, SITES[:3], rekey=[{"name": "site4", "key": FRESH.key.hex(), "last": 6}])
    campaign = constitution.followed_by(rekeyed).campaign
    assert campaign.limit_of(FRESH.key) == 0
    assert campaign.limit_of(SITES[0].key) == 9


@pytest.mark.parametrize(
    ("published", "words"),
    [
        ({"site2": 5}, "the entries of site2 up to 6 to earlier campaigns, and the newest here is 5"),
        ({"site2": 9}, "gives it 3, and 9 are here: site2 could publish nothing in it"),
        ({"site2": 8}, ""),
        ({"site4": 20}, ""),
    ],
)
def test_a_boundary_that_no_site_should_sign(published: dict[str, int], words: str) -> None:
    document = Constitution(CHARTER).draft(campaign={**AFTER, "sits_out": ("site4",)})
    assert document.amendment.campaign is not None
    problem = document.amendment.campaign.boundary_problem({f"site{index}": 6 for index in range(5)} | published)
    assert words in problem
    assert bool(words) == bool(problem)


def test_nobody_opens_a_campaign_for_a_single_site_before_anybody_else_has_published() -> None:
    names = [f"site{index}" for index in range(5)]
    alone = {**AFTER, "sits_out": tuple(names[1:])}
    with pytest.raises(ConfigError, match="only site0 would take part, and no other site has published yet"):
        Constitution(CHARTER).draft(campaign={**alone, "after": dict.fromkeys(names, 0)})
    assert Constitution(CHARTER).draft(campaign=alone).amendment.campaign is not None
