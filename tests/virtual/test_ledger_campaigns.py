"""Campaigns: numbered runs of one ledger, each opened by an amendment with a boundary that is the same everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.core.effects import Record
from kmel_p2p.core.ledger.events import SnapshotAdopted
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.rounds import CampaignBegun, Conclude, Listen, Phase, RoundAllowance, RoundOpened, RunComplete
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.amending import agreed, amend, with_newcomer
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.site import VirtualSite
from tests.testbed.ledger.toy import toy_world


def opened(made: LedgerFederation, signers: list[int], number: int, entries: int, **rule: Any) -> None:
    """Open the next campaign at the first signer, after what it holds, and let time pass until it is known."""
    averaging = made.averaging(signers[0])
    roster = averaging.maintenance.amendments.constitution.roster
    after = {site.name: averaging.ledger.head(key) for key, site in roster.items()}
    changes = rule.pop("changes", {})
    campaign = {"number": number, "entries": entries, "after": after, **rule}
    amend(made, signers[0], agreed(made, signers, campaign=campaign, **changes))


def heads(made: LedgerFederation, at: int = 0) -> list[int]:
    return [made.averaging(at).ledger.head(site.key) for site in made.sites]


def done(made: LedgerFederation, *expected: int) -> bool:
    return made.run(200 * SECOND, until=lambda: made.all_complete() and heads(made) == [*expected])


def test_each_campaign_goes_on_from_the_last_trunk_and_ends_with_one_digest() -> None:
    made = LedgerFederation(toy_world(3), seed=31)
    made.start_all()
    assert done(made, 6, 6, 6)
    before = made.averaging(0).trunk()
    opened(made, [0, 1], 2, 4, settings={"averaging.steps_per_entry": 5, "pace.max_lead": 2})
    assert done(made, 10, 10, 10)
    assert len(made.digests()) == 1
    assert (made.averaging(0).trunk() != before).any()
    opened(made, [1, 2], 3, 2)
    assert done(made, 12, 12, 12)
    assert len(made.digests()) == 1
    for index in range(3):
        assert made.events(index, CampaignBegun) == [CampaignBegun(2, 4), CampaignBegun(3, 2)]
        assert len(made.events(index, RunComplete)) == 3
        rounds = [event for event in made.events(index, RoundOpened) if isinstance(event, RoundOpened)]
        assert [(r.campaign, r.before, r.entry_limit) for r in rounds if r.number in (6, 7, 11)] == [
            (1, 0, 6), (2, 6, 10), (3, 10, 12)
        ]  # fmt: skip
        assert {r.steps for r in rounds if r.campaign == 1} == {10}
        assert {r.steps for r in rounds if r.campaign > 1} == {5}


def test_a_campaign_begins_at_a_site_that_ended_early_and_has_more_left_than_it_allows() -> None:
    made = LedgerFederation(toy_world(3, {"entry_limit": 40}), seed=32)
    made.start_all()
    made.run(20 * SECOND, until=lambda: min(heads(made)) > 3, step=SECOND // 10)
    for index in range(3):
        made.network.command(made.host(index), Conclude("enough"))
    assert made.run(60 * SECOND, until=lambda: made.all_complete() and len(made.digests()) == 1)
    ended = heads(made)
    assert max(ended) < 35
    opened(made, [0, 1], 2, 3)
    assert done(made, *(number + 3 for number in ended))


def test_a_site_sits_a_campaign_out_and_takes_the_next_one_up() -> None:
    made = LedgerFederation(toy_world(4), seed=33)
    made.start_all()
    assert done(made, 6, 6, 6, 6)
    opened(made, [0, 1, 2], 2, 3, sits_out=("site2", "site3"))
    assert done(made, 9, 9, 6, 6)
    assert len(made.digests()) == 1
    # It has a model of what the others made of the trunk.
    assert len(made.events(2, RunComplete)) == 2
    opened(made, [0, 1, 2], 3, 2, sits_out=("site3",))
    assert done(made, 11, 11, 8, 6)
    opened(made, [0, 1, 2], 4, 2)
    assert done(made, 13, 13, 10, 8)
    assert len(made.digests()) == 1


def test_a_site_that_was_away_for_two_campaigns_catches_up_and_does_its_part_of_the_newest() -> None:
    made = LedgerFederation(toy_world(4), seed=34)
    made.start_all()
    assert done(made, 6, 6, 6, 6)
    made.crash(3)
    for number in (2, 3):
        made.run(5 * SECOND)
        opened(made, [0, 1, 2], number, 3)
        ended = 6 + 3 * (number - 1)
        assert done(made, ended, ended, ended, 6)
    made.start(3)
    assert done(made, 12, 12, 12, 9)
    assert len(made.digests()) == 1


def test_a_newcomer_begins_with_a_campaign_from_a_snapshot_of_its_boundary() -> None:
    made = with_newcomer(35, entry_limit=40, retain_entries=8)
    assert made.run(400 * SECOND, until=made.all_complete)
    assert made.run(60 * SECOND, until=lambda: min(made.averaging(0).ledger.accepted.floor.values(), default=0) > 16)
    newcomer = made.sites[4]
    boundary = dict(made.averaging(0).vector)
    opened(made, [0, 1, 2], 2, 3, changes={"add": [{"name": "late", "key": newcomer.key.hex()}]})
    document = made.averaging(0).maintenance.amendments.constitution.documents[-1]
    newcomer.disk.amendments.append(document.encode())
    made.start(4)
    assert done(made, *(boundary[made.sites[index].key] + 3 for index in range(4)), 3)
    assert len(made.digests()) == 1
    (adopted,) = (event for event in made.events(4, SnapshotAdopted) if isinstance(event, SnapshotAdopted))
    assert dict(adopted.vector) == boundary


def test_a_campaign_waits_for_the_sites_in_sight_and_for_nobody_without_a_limit() -> None:
    made = LedgerFederation(toy_world(3), seed=36)
    made.start_all()
    assert done(made, 6, 6, 6)
    made.crash(2)
    made.start(2, ready=False)
    made.run(5 * SECOND)
    opened(made, [0, 1], 2, 3)
    made.run(20 * SECOND)
    assert made.averaging(2).phase is Phase.PREPARING
    (wait,) = made.averaging(0).waits
    assert "campaign 2 begins when" in wait.reason
    assert wait.sites == (made.sites[2].key,)
    assert wait.until_us is not None
    made.run(45 * SECOND)
    assert heads(made)[0] > 6


def test_what_a_site_published_beyond_the_boundary_counts_to_the_campaign() -> None:
    made = LedgerFederation(toy_world(3), seed=37)
    made.start_all()
    assert done(made, 6, 6, 6)
    opened(made, [0, 1], 2, 4, after={"site0": 6, "site1": 6, "site2": 4})
    assert done(made, 10, 10, 8)


@pytest.mark.parametrize("away", [0, 2])
@pytest.mark.parametrize("cut", range(1, 6))
def test_a_change_of_campaign_survives_a_power_cut_at_every_write(away: int, cut: int) -> None:
    """Of who opens it, and of who hears of it: at each write around the change, one after another."""
    made = LedgerFederation(toy_world(3), seed=38)
    made.start_all()
    assert done(made, 6, 6, 6)
    written = made.sites[away].disk.writes

    def crash(site: VirtualSite, record: Record) -> None:
        if site.index == away and site.disk.writes == written + cut:
            made.network.call_at(made.network.now + 1, lambda: made.crash(away))

    made.on_write = crash
    opened(made, [0, 1], 2, 3)
    assert made.run(20 * SECOND, until=lambda: away not in made.running())
    made.on_write = None
    made.run(3 * SECOND)
    made.start(away)
    if all(made.averaging(index).campaign == 1 for index in made.running()):
        # Nobody else had heard of it: its operator hands it in again.
        opened(made, [0, 1], 2, 3)
    assert done(made, 9, 9, 9)
    assert len(made.digests()) == 1


def test_a_retracted_campaign_of_a_site_leaves_the_trunk_as_if_it_had_not_taken_part() -> None:
    made = LedgerFederation(toy_world(4), seed=39)
    made.start_all()
    assert done(made, 6, 6, 6, 6)
    opened(made, [0, 1, 2], 2, 3)
    assert done(made, 9, 9, 9, 9)
    amend(made, 0, agreed(made, [0, 1, 2], retire=[{"name": "site3", "last": 9, "retract_from": 7}]))
    ledgers = [made.averaging(index).ledger for index in range(3)]
    assert made.run(20 * SECOND, until=lambda: all(each.accepted.withdrawn for each in ledgers))
    expected = Accumulator.from_trunk(made.world.initial_trunk)
    for entry in ledgers[0].entries():
        if entry.author != made.sites[3].key or entry.number <= 6:
            expected.add(made.world.codec.decode(entry.payload), entry.weight, entry.head_weights)
    assert all((each.accumulator.trunk() == expected.trunk()).all() for each in ledgers)
    assert len({each.digest() for each in ledgers}) == 1


MINORITY, MAJORITY = [0, 1], [2, 3, 4]


def opening(made: LedgerFederation, signers: list[int], entries: int, **rule: Any) -> AmendmentDocument:
    """The amendment that opens the second campaign after six entries of each site."""
    after = {f"site{index}": 6 for index in range(5)}
    campaign = {"number": 2, "entries": entries, "after": after, **rule}
    return agreed(made, signers, campaign=campaign)


def parted_after_a_campaign(seed: int) -> LedgerFederation:
    made = LedgerFederation(toy_world(5), seed)
    made.start_all()
    assert done(made, 6, 6, 6, 6, 6)
    made.partition(MINORITY, MAJORITY)
    made.run(3 * SECOND)
    return made


def payloads(made: LedgerFederation, at: int) -> set[bytes]:
    return {entry.payload_hash for entry in made.averaging(at).ledger.entries()}


def one_ledger(made: LedgerFederation, standing: AmendmentDocument, expected: int, published: set[bytes]) -> bool:
    def settled() -> bool:
        heads_ = {made.averaging(index).ledger.amended_rules.head_hash for index in made.running()}
        agree = heads_ == {standing.amendment.hash} and len(made.digests()) == 1
        return agree and made.all_complete() and heads(made) == [expected] * 5

    assert made.run(240 * SECOND, until=settled)
    for index in made.running():
        ledger = made.averaging(index).ledger
        contents = [entry.payload_hash for entry in ledger.entries()]
        assert published <= set(contents)
        assert len(set(contents)) == len(contents)
        assert not ledger.faults
        assert not ledger.accepted.late
    return True


def heal_once_one_side_is_over(made: LedgerFederation, west: AmendmentDocument, east: AmendmentDocument) -> set[bytes]:
    """Each side publishes under an amendment of its own, the minority all that it may. Returns the payloads."""
    amend(made, 0, west)
    amend(made, 4, east)
    assert made.run(200 * SECOND, until=lambda: heads(made)[:2] == [9, 9] and made.averaging(0).complete)
    assert made.run(200 * SECOND, until=lambda: made.averaging(3).ledger.head(made.sites[3].key) >= 8)
    published = payloads(made, 0) | payloads(made, 4)
    made.heal(MINORITY, MAJORITY)
    return published


def test_of_two_amendments_that_open_a_campaign_one_stays_with_its_settings() -> None:
    made = parted_after_a_campaign(41)
    west = opening(made, [0, 1, 2], 3, settings={"averaging.steps_per_entry": 7}, sits_out=("site4",))
    east = opening(made, [2, 3, 4], 8, settings={"averaging.steps_per_entry": 4, "pace.max_lead": 2})
    published = heal_once_one_side_is_over(made, west, east)
    assert one_ledger(made, east, 14, published)
    for index in MINORITY:
        rounds = [event for event in made.events(index, RoundOpened) if isinstance(event, RoundOpened)]
        assert {(r.steps, r.entry_limit) for r in rounds[-2:]} == {(4, 14)}
        assert made.events(index, CampaignBegun) == [CampaignBegun(2, 3), CampaignBegun(2, 8)]


def test_a_campaign_that_was_overruled_is_taken_back_and_the_former_one_goes_on() -> None:
    made = parted_after_a_campaign(42)
    west = opening(made, [0, 1, 2], 3, settings={"averaging.steps_per_entry": 7})
    east = agreed(made, [2, 3, 4], entries=12)
    published = heal_once_one_side_is_over(made, west, east)
    assert one_ledger(made, east, 12, published)
    for index in MINORITY:
        assert made.averaging(index).campaign == 1
        rounds = [event for event in made.events(index, RoundOpened) if isinstance(event, RoundOpened)]
        assert {(r.steps, r.campaign) for r in rounds[-2:]} == {(10, 1)}
    # The next one opens as if that had never been.
    opened(made, [1, 2, 3], 2, 2)
    assert done(made, *[14] * 5)
    assert len(made.digests()) == 1


def test_a_campaign_that_was_overruled_leaves_no_end_of_a_run_behind_at_a_restart() -> None:
    made = parted_after_a_campaign(43)
    west, east = opening(made, [0, 1, 2], 3), agreed(made, [2, 3, 4], entries=12)
    amend(made, 0, west)
    amend(made, 4, east)
    assert made.run(200 * SECOND, until=lambda: heads(made)[:2] == [9, 9] and made.averaging(0).complete)
    made.run(20 * SECOND)
    published = payloads(made, 0) | payloads(made, 4)
    made.heal(MINORITY, MAJORITY)
    changed = lambda: made.averaging(0).ledger.amended_rules.head_hash == east.amendment.hash  # noqa: E731
    assert made.run(60 * SECOND, until=changed, step=SECOND // 100)
    made.crash(0)
    made.start(0)
    # What a daemon tells its peer where the models of a run were written before the start.
    made.network.command(made.host(0), Listen("the run was complete before this start", RoundAllowance(2, 9)))
    assert one_ledger(made, east, 12, published)
