"""A site whose disk was put back unnoticed signs numbers twice, and goes on in a new epoch of its log."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest

from kmel_p2p.core.effects import Emit, Send
from kmel_p2p.core.ledger.events import EntryRefused, EpochBegun, NotPublishedAgain
from kmel_p2p.core.ledger.log.entry import NO_AMENDMENTS
from kmel_p2p.core.ledger.sync.messages import Epochs, Holdings
from kmel_p2p.core.types import SECOND
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.toy import ToyTrainer, toy_world

LOSER, INFORMED, LIMIT = 0, 3, 40


class OwnWayTrainer(ToyTrainer):
    """Trains something else in each life, as a real one does."""

    lives = 0

    def resume(self, state_file: str | None) -> None:
        super().resume(state_file)
        OwnWayTrainer.lives += 1
        self._padding = OwnWayTrainer.lives


def forked(seed: int, lost: int, anew: int) -> LedgerFederation:
    """Four sites; one signed `lost` entries that only one other has, and then `anew` under the same numbers."""
    OwnWayTrainer.lives = 0
    world = toy_world(
        4, {"entry_limit": LIMIT, "epochs": True}, {"max_lead": 100}, padding=64, make_trainer=OwnWayTrainer
    )
    made = LedgerFederation(world, seed)
    made.start_all()
    key = made.sites[LOSER].key
    assert made.run(60 * SECOND, until=lambda: made.averaging(1).ledger.head(key) >= 3)
    image = copy.deepcopy(made.sites[LOSER].disk)
    made.partition([LOSER, INFORMED], [1, 2])
    others = made.averaging(1).ledger.head(key)
    assert made.run(60 * SECOND, until=lambda: made.averaging(INFORMED).ledger.head(key) >= others + lost)
    made.crash(LOSER)
    made.crash(INFORMED)
    made.heal([LOSER, INFORMED], [1, 2])
    made.sites[LOSER].disk = image
    image.crashed(made.network.now)
    made.start(LOSER)
    assert made.run(90 * SECOND, until=lambda: made.averaging(1).ledger.head(key) >= others + anew)
    assert not made.averaging(1).ledger.faults
    return made


def heals(made: LedgerFederation) -> None:
    assert made.run(300 * SECOND, until=made.all_complete)
    assert not any(made.averaging(index).ledger.faults for index in range(4))
    assert len(made.digests()) == 1


def payloads(made: LedgerFederation, index: int) -> list[bytes]:
    key = made.sites[LOSER].key
    return [entry.payload for entry in made.averaging(index).ledger.entries() if entry.author == key]


@pytest.mark.parametrize(("lost", "anew"), [(8, 3), (3, 8), (5, 5)])
def test_both_branches_count_once_and_nobody_is_convicted(lost: int, anew: int) -> None:
    made = forked(31 + lost, lost, anew)
    before = set(payloads(made, 1))
    held = made.sites[INFORMED].disk.entries
    signed = {number: record.encoded for (key, number), record in held.items() if key == made.sites[LOSER].key}
    made.start(INFORMED)
    heals(made)
    after = Counter(payloads(made, 2))
    assert before <= after.keys()
    assert set(after.values()) == {1}
    ledger = made.averaging(2).ledger
    for number, encoded in signed.items():
        entry = ledger.accepted.get(made.sites[LOSER].key, number)
        assert entry is not None
        assert entry.encode() == encoded
    assert made.events(2, EpochBegun)
    assert not made.events(LOSER, NotPublishedAgain)


@pytest.mark.parametrize("at", [LOSER, INFORMED, 1])
def test_a_power_cut_in_the_middle_changes_nothing(at: int) -> None:
    made = forked(47, 6, 4)
    before = set(payloads(made, 1))
    made.start(INFORMED)
    assert made.run(60 * SECOND, until=lambda: bool(made.averaging(at).ledger.faults or made.events(at, EpochBegun)))
    made.crash(at)
    made.run(5 * SECOND)
    made.start(at)
    heals(made)
    after = Counter(payloads(made, 2))
    assert before <= after.keys()
    assert set(after.values()) == {1}


def test_a_site_that_asks_again_and_again_gets_all_epochs_once_in_two_seconds() -> None:
    made = forked(53, 3, 3)
    made.start(INFORMED)
    heals(made)
    averaging, asker, now = made.averaging(1), made.sites[2].key, made.network.now
    held = averaging.ledger.accepted
    question = Holdings(0, NO_AMENDMENTS, held.held, bytes(32), {}, b"x" * 32, (), False)
    list(iter(averaging.poll, None))
    for step in range(40):
        averaging.receive(asker, question, now + step * SECOND // 10)
    sent = [effect.message for effect in iter(averaging.poll, None) if isinstance(effect, Send)]
    told = [message for message in sent if isinstance(message, Epochs)]
    assert 1 <= len(told) <= 3
    assert {len(message.epochs) for message in told} == {1}


def test_what_no_author_signed_is_refused_and_changes_nothing() -> None:
    made = forked(59, 3, 3)
    made.start(INFORMED)
    heals(made)
    averaging, now = made.averaging(1), made.network.now
    epoch = averaging.ledger.accepted.epochs.of(made.sites[LOSER].key)[0]
    before = averaging.ledger.digest()
    for wrong in (replace(epoch, number=2), replace(epoch, author=made.sites[2].key)):
        averaging.receive(made.sites[2].key, Epochs((wrong.encode(),)), now)
    refused = [e.event for e in iter(averaging.poll, None) if isinstance(e, Emit) and isinstance(e.event, EntryRefused)]
    assert [event.sender for event in refused] == [made.sites[2].key] * 2
    assert averaging.ledger.digest() == before
