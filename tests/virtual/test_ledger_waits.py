"""Every wait names whom it waits for, since when and until when; none depends on a blocked site."""

from __future__ import annotations

from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.rounds import Blocked, Phase, Ready, RunComplete
from kmel_p2p.core.rounds.settings import CONCLUDES_AFTER_US, STUCK_AFTER_US
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import toy_world


def blocked_at(made: LedgerFederation, index: int, other: int) -> None:
    """The operator of one site blocks another; membership knows it no longer."""
    made.see(index, other, False)
    made.network.block([made.host(index)], [made.host(other)])
    made.network.block([made.host(other)], [made.host(index)])
    made.network.command(made.host(index), Blocked(frozenset({made.sites[other].key})))


def test_the_start_names_who_is_missing_and_does_not_wait_for_a_blocked_site() -> None:
    made = LedgerFederation(toy_world(3, pace={"start_sites": 3}), seed=1)
    for index in range(3):
        made.start(index, ready=index < 2)
    made.run(60 * SECOND)
    (wait,) = made.averaging(0).waits
    assert wait.sites == (made.sites[2].key,)
    assert wait.until_us is None
    assert 40 * SECOND <= made.network.now - wait.since_us <= 60 * SECOND
    for index in (0, 1):
        blocked_at(made, index, 2)
    assert made.run(120 * SECOND, until=lambda: made.averaging(0).complete and made.averaging(1).complete)
    assert made.averaging(0).waits == ()


def test_entries_of_a_blocked_site_that_others_hand_on_still_count() -> None:
    made = LedgerFederation(toy_world(4), seed=2)
    made.start_all()
    blocked_at(made, 0, 3)
    assert made.run(300 * SECOND, until=lambda: all(made.averaging(i).complete for i in (0, 1, 2)))
    assert made.averaging(0).ledger.head(made.sites[3].key) == 6
    assert len(made.digests()) == 1
    senders = {record.author for record in made.sites[0].disk.entries.values()}
    assert made.sites[3].key in senders
    assert {decode(record.encoded).author for record in made.sites[0].disk.entries.values()} == senders


def test_the_lead_and_the_end_of_a_run_name_the_slow_site_and_a_moment() -> None:
    made = LedgerFederation(
        toy_world(3, pace={"max_lead": 1}, step_us=lambda index: (400 if index == 2 else 1) * SECOND // 100), seed=3
    )
    made.start_all()
    slow = made.sites[2].key

    def waits_for_slow() -> bool:
        return any(wait.sites == (slow,) for wait in made.averaging(0).waits)

    assert made.run(120 * SECOND, until=waits_for_slow)
    (wait,) = made.averaging(0).waits
    assert wait.until_us is not None
    assert made.network.now < wait.until_us <= made.network.now + STUCK_AFTER_US
    assert made.run(900 * SECOND, until=lambda: made.averaging(0).phase is Phase.LISTENING)
    made.run(2 * SECOND)
    (wait,) = made.averaging(0).waits
    assert wait.sites == (slow,)
    assert wait.until_us is not None
    assert wait.until_us >= made.network.now + CONCLUDES_AFTER_US // 2
    blocked_at(made, 0, 2)
    blocked_at(made, 1, 2)
    assert made.run(30 * SECOND, until=lambda: made.averaging(0).complete)
    assert made.events(0, RunComplete)


def test_one_wait_keeps_its_beginning_although_its_numbers_change() -> None:
    made = LedgerFederation(toy_world(5, pace={"start_sites": 5}), seed=4)
    for index in range(5):
        made.start(index, ready=index < 2)
    made.run(30 * SECOND)
    before = made.averaging(0).waits[0]
    made.network.command(made.host(2), Ready())
    made.run(30 * SECOND)
    after = made.averaging(0).waits[0]
    assert before.reason.startswith("2 of 5")
    assert after.reason.startswith("3 of 5")
    assert after.since_us == before.since_us
    assert set(before.sites) - set(after.sites) == {made.sites[2].key}
