"""What a site holds follows from entries, proofs and epochs, in whatever order they come; an epoch takes back its
author's own entries and excuses nothing else."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.core.effects import Effect
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.epoch import MAX_DISOWNED, TWO_EPOCHS, Epoch, begin, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.proof import fork_of
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.core.ledger.sync.epoch_exchange import EpochExchange
from kmel_p2p.core.ledger.sync.messages import Epochs
from tests.support.plain_ledgers import CHARTER_ID, PlainCodec, identities, new_ledger, next_entry

SITES = identities(3)
A, B, C = SITES


def grow(ledger: Ledger, site: int, count: int, units: int) -> list[Entry]:
    made = []
    for step in range(count):
        mark = bytes([site, step]) + units.to_bytes(4, "big")
        entry = next_entry(SITES[site], ledger, payload=PlainCodec.encode([site], [units + step], mark))
        assert ledger.offer(entry).verdict is Verdict.APPLIED
        made.append(entry)
    return made


def copy_of(entries: list[Entry]) -> Ledger:
    ledger = new_ledger(SITES, epochs=True)
    for entry in entries:
        assert ledger.offer(entry).verdict is Verdict.APPLIED
    return ledger


class Parted:
    """A signs `lost` entries that B knows, then others under their numbers that C knows; B and C go on with them."""

    def __init__(self, lost: int, anew: int) -> None:
        first = new_ledger(SITES, epochs=True)
        self.common = grow(first, 1, 1, 900) + grow(first, 2, 1, 950) + grow(first, 0, 2, 1000)
        b, c = copy_of(self.common), copy_of(self.common)
        self.lost, self.anew = grow(b, 0, lost, 1100), grow(c, 0, anew, 1050)
        self.others = grow(b, 1, 2, 1010) + grow(c, 2, 2, 1020)
        self.epoch = begin(A, CHARTER_ID, 1, 3, tuple(entry.hash for entry in self.anew))
        # What A made anew, published again on top of the other branch.
        top = new_ledger(SITES, epochs=True)
        for step in [*self.common, *self.lost]:
            top.offer(step)
        top.begin_epoch(self.epoch)
        self.again = []
        for old in self.anew:
            entry = next_entry(A, top, payload=old.payload)
            assert top.offer(entry).verdict is Verdict.APPLIED
            self.again.append(entry)
        # B and C know all by then, and go on.
        for entry in self.others:
            top.offer(entry)
        self.later = grow(top, 1, 1, 1001) + grow(top, 2, 1, 1002)
        self.whole = top

    @property
    def entries(self) -> list[Entry]:
        return [*self.common, *self.lost, *self.anew, *self.others, *self.again, *self.later]


CASES = {pair: Parted(*pair) for pair in ((1, 1), (3, 1), (1, 3), (3, 3))}


@given(st.sampled_from(sorted(CASES)), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=150)
def test_any_order_of_entries_proofs_and_epochs_gives_one_state(case, random) -> None:  # type: ignore[no-untyped-def]
    parted = CASES[case]
    fork = fork_of(parted.lost[0], parted.anew[0])
    news: list[Entry | Epoch | tuple[bytes, ...]] = [*parted.entries, parted.epoch, fork.evidence]
    random.shuffle(news)
    ledger = new_ledger(SITES, epochs=True)
    for _ in range(2):
        # The second time stands for what the others give again to whoever lacks it.
        for item in news:
            if isinstance(item, Epoch):
                ledger.begin_epoch(item)
            elif isinstance(item, Entry):
                ledger.offer(item)
            else:
                ledger.offer_proof(item)
    assert not ledger.faults
    assert ledger.vector == parted.whole.vector
    assert ledger.digest() == parted.whole.digest()
    assert ledger.waiting == 0


@pytest.mark.parametrize("knows_first", ["lost", "anew"])
def test_a_fork_ends_a_log_until_its_author_disowns_one_branch(knows_first: str) -> None:
    parted = CASES[3, 3]
    mine, theirs = (parted.lost, parted.anew) if knows_first == "lost" else (parted.anew, parted.lost)
    ledger = copy_of([*parted.common, *mine])
    assert ledger.offer(theirs[0]).refusal is Refusal.FORK
    assert ledger.head(A.key) == 2
    outcome = ledger.begin_epoch(parted.epoch)
    assert [fault.reason for fault in outcome.voided] == [Refusal.FORK.value]
    # The branch that stands comes back at once where it was.
    assert ledger.head(A.key) == (5 if knows_first == "lost" else 2)
    for entry in parted.entries:
        ledger.offer(entry)
    assert ledger.digest() == parted.whole.digest()


def test_an_epoch_voids_no_other_fault() -> None:
    parted = CASES[1, 3]
    ledger = copy_of(parted.common)
    bad = next_entry(A, ledger, weight=65535)
    assert ledger.offer(bad).refusal is Refusal.WEIGHT
    ledger.begin_epoch(begin(A, CHARTER_ID, 1, bad.number, (bad.hash,)))
    assert ledger.faults[A.key].reason == Refusal.WEIGHT.value
    assert ledger.offer(next_entry(A, ledger)).verdict is Verdict.ENDED


def test_a_third_branch_is_a_fork() -> None:
    parted = CASES[1, 1]
    ledger = copy_of([*parted.common, *parted.lost])
    ledger.begin_epoch(parted.epoch)
    third = next_entry(A, copy_of(parted.common), units=1234)
    assert ledger.offer(third).refusal is Refusal.FORK
    assert ledger.faults[A.key].number == 3


def test_nobody_disowns_entries_of_another() -> None:
    parted = CASES[1, 1]
    ledger = copy_of(parted.common)
    theirs = ledger.accepted.header(B.key, 1)
    assert theirs is not None
    before = ledger.digest()
    ledger.begin_epoch(begin(A, CHARTER_ID, 1, 1, (theirs.hash,)))
    assert ledger.digest() == before
    assert not ledger.accepted.epochs.disowns(theirs)


def test_two_epochs_of_one_number_end_the_log_and_prove_it() -> None:
    parted = CASES[3, 3]
    other = begin(A, CHARTER_ID, 1, 4, (b"h" * 32,))
    ledgers = [copy_of([*parted.common, *parted.lost]) for _ in range(2)]
    ledgers[0].begin_epoch(parted.epoch)
    outcome = ledgers[0].begin_epoch(other)
    ledgers[1].begin_epoch(other)
    ledgers[1].begin_epoch(parted.epoch)
    assert [fault.reason for fault in outcome.faults] == [TWO_EPOCHS]
    assert {ledger.faults[A.key].number for ledger in ledgers} == {3}
    assert ledgers[0].digest() == ledgers[1].digest()
    assert ledgers[0].accepted.epochs.hash == ledgers[1].accepted.epochs.hash
    stranger = copy_of([*parted.common, *parted.lost])
    assert [fault.number for fault in stranger.offer_proof(outcome.faults[0].evidence).faults] == [3]


def test_a_replay_is_no_fault_where_the_earlier_entry_is_disowned_or_may_be() -> None:
    parted = CASES[3, 1]
    evidence = (parted.again[0].stub(), parted.anew[0].stub())
    unaware = copy_of([*parted.common, *parted.lost])
    assert not unaware.offer_proof(evidence).faults
    unaware.begin_epoch(parted.epoch)
    assert unaware.offer_proof(evidence).verdict is Verdict.KNOWN
    assert unaware.offer(parted.again[0]).verdict is Verdict.APPLIED


def test_an_epoch_has_one_spelling_and_bounds() -> None:
    epoch = CASES[3, 3].epoch
    assert decode(epoch.encode()) == epoch
    assert epoch.is_signed(CHARTER_ID)
    assert not epoch.is_signed(b"d" * 32)
    assert not replace(epoch, first=4).is_signed(CHARTER_ID)
    for wrong in (
        replace(epoch, number=0),
        replace(epoch, first=0),
        replace(epoch, disowned=()),
        replace(epoch, disowned=(b"x" * 32,) * (MAX_DISOWNED + 1)),
        replace(epoch, number=17),
    ):
        with pytest.raises(WireError):
            decode(wrong.encode())
    with pytest.raises(WireError):
        decode(epoch.encode() + b"\0")


def test_without_epochs_in_the_charter_a_fork_ends_the_log_for_good() -> None:
    parted = Parted(lost=2, anew=2)
    ledger = new_ledger(SITES)
    for entry in [*parted.common, *parted.lost, *parted.anew]:
        ledger.offer(entry)
    assert A.key in ledger.faults
    assert not ledger.aside
    two = begin(A, CHARTER_ID, 1, 3, (parted.lost[0].hash,))
    with pytest.raises(WireError):
        ledger.offer_proof((parted.epoch.encode(), two.encode()))


def test_without_epochs_in_the_charter_a_message_with_one_is_refused() -> None:
    epoch = Parted(lost=2, anew=2).epoch
    outbox: deque[Effect] = deque()
    exchange = EpochExchange(new_ledger(SITES), Mock(), lambda: (), outbox, Mock())
    with pytest.raises(WireError, match="whose charter has none"):
        exchange.on_epochs(B.key, Epochs((epoch.encode(),)))
    assert not outbox
