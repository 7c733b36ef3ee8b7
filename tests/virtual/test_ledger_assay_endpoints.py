"""Assay endpoints that come and go: all sites have the same ones, whoever was away, crashed or went by another word."""

from __future__ import annotations

from typing import Any

from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.core.ledger.events import AmendmentOverruled, EntryRefused
from kmel_p2p.core.rounds import CharterAmended, EndpointLook, Look, Looked
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.amending import agreed, amend
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world
from tests.virtual.test_ledger_campaigns import done, heads, opened
from tests.virtual.test_ledger_rival_amendments import MAJORITY, MINORITY, slowly

HERG, CYP = {"name": "hERG", "unit": "nM", "transform": "log10"}, {"name": "CYP", "kind": "classification"}


def endpoints_of(made: LedgerFederation, index: int) -> AssayEndpoints:
    return made.averaging(index).maintenance.amendments.constitution.campaign.assay_endpoints


def test_a_site_that_was_away_while_they_came_and_went_has_them_all() -> None:
    made = LedgerFederation(toy_world(4), seed=51)
    made.start_all()
    assert done(made, 6, 6, 6, 6)
    made.crash(3)
    opened(made, [0, 1, 2], 2, 3, add_endpoints=[HERG])
    # One of the others loses its power while the campaign begins.
    made.crash(1)
    made.run(2 * SECOND)
    made.start(1)
    assert done(made, 9, 9, 9, 6)
    opened(made, [0, 1, 2], 3, 3, add_endpoints=[CYP], retire_endpoints=["hERG"])
    assert done(made, 12, 12, 12, 6)
    made.start(3)
    assert done(made, 12, 12, 12, 9)
    assert len(made.digests()) == 1
    for index in range(4):
        assert endpoints_of(made, index).names == ["toy", "hERG", "CYP"]
        assert endpoints_of(made, index).retired == {"hERG": 3}
        assert not made.events(index, EntryRefused)


def test_those_of_an_overruled_campaign_are_gone_everywhere() -> None:
    made = LedgerFederation(toy_world(5, {"entry_limit": 6}, step_us=slowly), 52)
    made.start_all()
    assert done(made, 6, 6, 6, 6, 6)
    made.partition(MINORITY, MAJORITY)
    made.run(3 * SECOND)
    after = {f"site{index}": 6 for index in range(5)}

    def campaign(**changes: Any) -> dict[str, Any]:
        return {"number": 2, "entries": 4, "after": after, **changes}

    west = agreed(made, [0, 1, 2], campaign=campaign(add_endpoints=[HERG]))
    east = agreed(made, [2, 3, 4], campaign=campaign(add_endpoints=[CYP], retire_endpoints=["toy"]))
    amend(made, 0, west)
    amend(made, 4, east)
    made.run(20 * SECOND)
    assert [endpoints_of(made, index).names[1:] for index in range(5)] == [["hERG"]] * 2 + [["CYP"]] * 3
    assert max(heads(made)) > 6
    made.heal(MINORITY, MAJORITY)
    assert made.run(240 * SECOND, until=lambda: made.all_complete() and heads(made) == [10] * 5)
    assert len(made.digests()) == 1
    for index in range(5):
        assert endpoints_of(made, index).names == ["toy", "CYP"]
        assert endpoints_of(made, index).retired == {"toy": 2}
        assert made.events(index, AmendmentOverruled)
    for index in MINORITY:
        # The daemon follows what it is told last.
        told = made.events(index, CharterAmended)[-1]
        assert isinstance(told, CharterAmended)
        assert told.constitution.campaign.assay_endpoints == endpoints_of(made, index)


def test_votes_name_an_added_one_by_its_place() -> None:
    kept = {"entry_limit": 6, "retain_entries": 512, "suspension_quorum": "majority"}
    made = LedgerFederation(toy_world(4, kept, step_us=slowly), seed=53)
    made.start_all()
    assert done(made, 6, 6, 6, 6)
    opened(made, [0, 1, 2], 2, 20, add_endpoints=[HERG])
    bad = made.sites[3].key
    for voter in (0, 1):
        for _ in range(3):
            number = made.averaging(voter).ledger.head(bad)
            seen = EndpointLook(100, 2.0, 1.0, 0.05)
            made.network.command(made.host(voter), Looked((Look(bad, 7, number, {1: seen}),)))
            made.run(10 * SECOND, until=lambda: made.averaging(voter).ledger.head(bad) > number)  # noqa: B023
    assert made.run(
        60 * SECOND, until=lambda: {bad in made.averaging(at).ledger.suspended for at in range(4)} == {True}
    )
