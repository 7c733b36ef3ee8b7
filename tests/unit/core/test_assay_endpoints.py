"""Assay endpoints that campaigns add and retire: every site has the same ones, in the same places."""

from __future__ import annotations

from typing import Any

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.amendment_words import changes_in_words
from kmel_p2p.agreement.errors import ConfigError
from tests.testbed.ledger.toy import toy_charter, toy_identities
from tests.unit.core.test_amendment import signed

SITES = toy_identities(3)
CHARTER = toy_charter(SITES)
FIRST = [endpoint.name for endpoint in CHARTER.assay_endpoints]
HERG = {"name": "hERG", "unit": "nM", "transform": "log10", "valid_range": (0.1, 1e6), "center": 4.0}


def rule(number: int = 2, **changes: Any) -> dict[str, Any]:
    return {"number": number, "entries": 4, "after": {f"site{at}": 0 for at in range(3)}, **changes}


def opened(constitution: Constitution, **changes: Any) -> Constitution:
    campaign = rule(constitution.campaign.number + 1, **changes)
    return constitution.followed_by(signed(constitution, SITES[:2], campaign=campaign))


def test_each_keeps_its_place_whatever_comes_and_goes() -> None:
    second = opened(Constitution(CHARTER), add_endpoints=[HERG])
    third = opened(second, retire_endpoints=["hERG"], add_endpoints=[{"name": "CYP", "kind": "classification"}])
    endpoints = third.campaign.assay_endpoints
    assert endpoints.names == [*FIRST, "hERG", "CYP"]
    assert (endpoints.founding, endpoints.added, endpoints.retired) == (len(FIRST), 2, {"hERG": 3})
    assert [endpoint.name for endpoint in endpoints.current] == [*FIRST, "CYP"]
    assert endpoints.unmapped(FIRST) == ["CYP"]
    assert [campaign.assay_endpoints.names for campaign in third.campaigns] == [
        FIRST, [*FIRST, "hERG"], [*FIRST, "hERG", "CYP"]
    ]  # fmt: skip


def test_a_campaign_that_changes_none_is_hashed_and_written_as_before() -> None:
    plain = Constitution(CHARTER).draft(campaign=rule())
    empty = Constitution(CHARTER).draft(campaign=rule(add_endpoints=[], retire_endpoints=[]))
    assert plain.amendment.hash == empty.amendment.hash
    assert "endpoints" not in plain.render()
    changed = Constitution(CHARTER).draft(campaign=rule(add_endpoints=[HERG], retire_endpoints=FIRST[:1]))
    assert changed.amendment.hash != plain.amendment.hash
    for read in (AmendmentDocument.decode(changed.encode()), AmendmentDocument.parse(changed.render(), "file")):
        assert read == changed
        assert read.amendment.hash == changed.amendment.hash


def test_the_amendment_says_what_their_values_mean() -> None:
    document = Constitution(CHARTER).draft(campaign=rule(add_endpoints=[HERG], retire_endpoints=FIRST[:1]))
    words = changes_in_words(document.amendment)
    assert "adds assay endpoint hERG: log10(nM), 0.1 to 1e+06 nM, centre 4, scale 1, private head" in words
    assert f"retires assay endpoint {FIRST[0]}: it is trained no more" in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"add_endpoints": [{"name": FIRST[0]}]}, "is there already"),
        ({"add_endpoints": [{"name": "old"}]}, "was retired in campaign 3; what is measured otherwise needs a name"),
        ({"add_endpoints": [HERG, HERG]}, "it adds assay endpoint 'hERG' twice"),
        ({"add_endpoints": [{**HERG, "head": "shared"}]}, "give it head = 'private'"),
        ({"add_endpoints": [{**HERG, "unit": "x" * 40}]}, "unit"),
        ({"add_endpoints": [{**HERG, "scale": 0.0}]}, "scale"),
        ({"add_endpoints": [{"name": f"assay {at}"} for at in range(65)]}, "64"),
        ({"retire_endpoints": ["hERG"]}, "which there is not; there are:"),
        ({"retire_endpoints": ["old"]}, "was retired in campaign 3 already"),
        ({"retire_endpoints": [FIRST[0], FIRST[0]]}, "twice"),
        ({"retire_endpoints": FIRST}, "no assay endpoint would be left"),
    ],
)
def test_what_cannot_be_added_or_retired_is_said(changes: dict[str, Any], words: str) -> None:
    constitution = opened(Constitution(CHARTER), add_endpoints=[{"name": "old"}])
    constitution = opened(constitution, retire_endpoints=["old"])
    with pytest.raises(ConfigError) as error:
        constitution.draft(campaign=rule(4, **changes))
    assert words in str(error.value)
