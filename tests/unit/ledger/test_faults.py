"""Every rule has its refusal, every blame a proof, and no honest author is ever blamed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.log.entry import Entry, context_hash
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.entry_check import Hold
from kmel_p2p.core.ledger.rules.proof import fork_of
from kmel_p2p.core.ledger.rules.validity import Refusal
from tests.support.plain_ledgers import PlainCodec, identities, new_ledger, next_entry

SITES = identities(4)
A, B, C, D = SITES


def lone_ledger() -> Ledger:
    ledger = new_ledger(SITES)
    object.__setattr__(ledger.rules, "lone_entries", 2)
    return ledger


def both(*entries: Entry) -> tuple[Ledger, Ledger]:
    """Two ledgers that hold the same entries."""
    first, second = lone_ledger(), lone_ledger()
    for entry in entries:
        assert first.offer(entry).verdict is Verdict.APPLIED
        assert second.offer(entry).verdict is Verdict.APPLIED
    return first, second


def grown() -> list[Entry]:
    """One entry of A, then B on it, then A and C on both."""
    ledger = lone_ledger()
    made = []
    for site, units in ((A, 1000), (B, 1100), (A, 1200), (C, 900)):
        entry = next_entry(site, ledger, units=units, position=units % 16)
        assert ledger.offer(entry).verdict is Verdict.APPLIED
        made.append(entry)
    return made


BREACHES: list[tuple[Refusal, dict[str, Any]]] = [
    (Refusal.CODEC, {"codec_id": 8}),
    (Refusal.WEIGHT, {"weight": 65535}),
    (Refusal.WEIGHT, {"weight": 0}),
    (Refusal.STEPS, {"steps": 0}),
    (Refusal.BASE_SELF, {"base": {A.key: 2, D.key: 1}}),
    (Refusal.BASE_AUTHOR, {"base": {b"\xff" * 32: 1}}),
    (Refusal.PAYLOAD, {"payload": b"nonsense"}),
    (Refusal.NORM_CLAIM, {"norm_squared": 5}),
    (Refusal.NORM, {"payload": PlainCodec.encode([0], [5000])}),
]


@pytest.mark.parametrize(("refusal", "changes"), BREACHES, ids=lambda x: x.name if isinstance(x, Refusal) else "")
def test_a_breach_ends_the_log_and_its_proof_convinces_who_has_seen_nothing(
    refusal: Refusal, changes: dict[str, Any]
) -> None:
    ledger, _ = both(*grown())
    good = ledger.digest()
    bad = next_entry(D, ledger, **changes)
    outcome = ledger.offer(bad)
    assert (outcome.verdict, outcome.refusal) == (Verdict.REFUSED, refusal)
    assert ledger.faults[D.key].number == 1
    assert ledger.digest() == good
    stranger = lone_ledger()
    assert stranger.offer_proof(ledger.faults[D.key].evidence).faults[0].reason == refusal.value
    assert stranger.offer(bad).verdict is Verdict.ENDED


def test_a_first_entry_chains_to_nothing() -> None:
    ledger = lone_ledger()
    assert ledger.offer(next_entry(A, ledger, previous=b"p" * 32)).refusal is Refusal.CHAIN


@pytest.mark.parametrize(
    ("refusal", "changes"),
    [
        (Refusal.CHAIN, {"previous": b"p" * 32}),
        (Refusal.BASE_BACKWARD, {"base": {B.key: 1, C.key: 1}}),
        (Refusal.BASE_STALE, {"base": {A.key: 2, B.key: 1, C.key: 1}}),
    ],
)
def test_breaches_against_the_chain_and_the_base_are_proved_by_headers(
    refusal: Refusal, changes: dict[str, Any]
) -> None:
    ledger, _ = both(*grown())
    if refusal is Refusal.BASE_STALE:
        # C saw A's second entry; an author that holds C's but only A's first hides what it knows.
        changes = {"base": {A.key: 1, B.key: 1, C.key: 1}, "context": context(ledger, {A: 1, B: 1, C: 1})}
        bad = next_entry(D, ledger, **changes)
    else:
        bad = next_entry(B, ledger, **changes)
    assert ledger.offer(bad).refusal is refusal
    fault = ledger.faults[bad.author]
    assert lone_ledger().offer_proof(fault.evidence).faults == [fault]


def context(ledger: Ledger, base: dict[Identity, int]) -> bytes:
    """The context hash of a base."""
    heads = sorted((site.key, ledger.accepted.header(site.key, number)) for site, number in base.items())
    return context_hash(header.hash for _, header in heads if header is not None)


def test_running_ahead_alone_is_bounded_until_another_site_was_seen() -> None:
    ledger = lone_ledger()
    for _ in range(2):
        assert ledger.offer(next_entry(A, ledger)).verdict is Verdict.APPLIED
    other = lone_ledger()
    first = next_entry(B, other)
    assert ledger.offer(next_entry(A, ledger)).refusal is Refusal.ALONE
    ledger = lone_ledger()
    for _ in range(2):
        ledger.offer(next_entry(A, ledger))
    ledger.offer(first)
    for _ in range(20):
        assert ledger.offer(next_entry(A, ledger)).verdict is Verdict.APPLIED


def test_a_site_cannot_raise_its_bound_with_its_own_norms() -> None:
    ledger = lone_ledger()
    ledger.offer(next_entry(B, ledger, units=1000))
    assert ledger.offer(next_entry(A, ledger, units=4000)).verdict is Verdict.APPLIED
    assert ledger.offer(next_entry(A, ledger, units=4001)).refusal is Refusal.NORM


def test_evidence_that_proves_nothing_changes_nothing() -> None:
    entries = grown()
    ledger, _ = both(*entries)
    stubs = [entry.stub() for entry in entries]
    for evidence in ([stubs[0]], [stubs[2], stubs[0]], [stubs[0], stubs[0]], [stubs[3], stubs[1]], stubs, []):
        outcome = ledger.offer_proof(evidence)
        assert not outcome.faults
    with pytest.raises(WireError):
        ledger.offer_proof([b"\x00"])
    assert not ledger.faults


def test_two_branches_shown_to_two_sites_are_noticed_by_the_context_of_a_third_entry() -> None:
    left, right = both(*grown()[:2])
    ours = next_entry(A, left, units=1201)
    theirs = next_entry(A, right, units=1202)
    left.offer(ours)
    right.offer(theirs)
    third = next_entry(C, right)
    right.offer(third)
    assert left.offer(third).verdict is Verdict.WAITING
    assert [(entry.hash, hold) for entry, hold in left.held_up()] == [(third.hash, Hold.CONTEXT)]
    fault = fork_of(ours, theirs)
    for ledger in (left, right):
        assert [e.author for e in ledger.offer_proof(fault.evidence).retracted] == [A.key]
    assert left.digest() == right.digest()
    assert left.vector == right.vector == {A.key: 1, B.key: 1, C.key: 1}


def test_an_author_that_saw_the_proof_may_go_back_and_one_that_names_an_unknown_one_waits() -> None:
    left, right = both(*grown())
    one, other = (next_entry(A, left, units=units) for units in (1201, 1202))
    left.offer(one)
    left.offer(next_entry(B, left))
    left.offer(other)
    assert left.faults[A.key].number == 3
    after = next_entry(B, left)
    order = left.accepted.order
    assert order.named(after.base)[A.key] == 2
    assert after.basis.ended == {order.place(A.key): 3}
    left.offer(after)
    for entry in left.entries():
        right.offer(entry)
    assert [(entry.hash, hold) for entry, hold in right.held_up()] == [(left.accepted.get(B.key, 2).hash, Hold.BASE)]  # type: ignore[union-attr]
    right.offer(one)
    assert [(entry.hash, hold) for entry, hold in right.held_up()] == [(after.hash, Hold.PROOF)]
    right.offer_proof(left.faults[A.key].evidence)
    assert right.digest() == left.digest()
    assert not right.faults.keys() - {A.key}


def test_one_author_cannot_fill_the_waiting_room() -> None:
    ledger = lone_ledger()
    for number in range(5, 400):
        far = next_entry(A, ledger, number=number, base={A.key: number - 1, B.key: 1}, previous=b"x" * 32)
        ledger.offer(far)
    assert ledger.waiting == 128
    waits = next_entry(C, ledger, base={B.key: 1})
    assert ledger.offer(waits).verdict is Verdict.WAITING


moves = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(["sync", "publish", "publish", "fork"])),
    min_size=4,
    max_size=40,
)


@given(moves, st.integers(0, 2**32))
@settings(deadline=None, max_examples=80)
def test_whatever_a_forking_author_does_honest_sites_agree_and_stay(plan: Any, seed: int) -> None:
    """Site 3 signs different entries for different sites; everybody else is honest and sees only some of it."""
    ledgers = [new_ledger(SITES) for _ in range(3)]
    branches = [new_ledger(SITES) for _ in range(3)]
    units = 500
    for who, other, move in plan:
        units += 1
        if move == "publish" and who < 3:
            ledgers[who].offer(next_entry(SITES[who], ledgers[who], units=units, position=who))
        elif move == "fork" and other < 3:
            # Each site has a branch of the forker's own; what it builds on is what that site holds.
            for entry in ledgers[other].entries():
                branches[other].offer(entry)
            entry = next_entry(D, branches[other], units=units, position=3)
            if branches[other].offer(entry).verdict is Verdict.APPLIED:
                ledgers[other].offer(entry)
        elif move == "sync" and who < 3 and other < 3:
            for entry in list(ledgers[other].entries()):
                ledgers[who].offer(entry)
    exchange(ledgers, random.Random(seed))
    assert all(ledger.faults.keys() <= {D.key} for ledger in ledgers)
    assert len({ledger.digest() for ledger in ledgers}) == 1
    assert len({tuple(ledger.vector.items()) for ledger in ledgers}) == 1
    assert all(ledger.waiting == 0 for ledger in ledgers)


def exchange(ledgers: list[Ledger], rng: random.Random) -> None:
    """Everything known to anybody reaches everybody, in any order, until nothing changes."""
    everything: dict[bytes, Entry] = {}
    for _ in range(60):
        before = [(ledger.digest(), len(ledger.faults), ledger.waiting) for ledger in ledgers]
        for ledger in ledgers:
            everything |= {entry.hash: entry for entry in ledger.entries()}
        for ledger in ledgers:
            known = list(everything.values())
            rng.shuffle(known)
            for entry in known:
                ledger.offer(entry)
            for other in ledgers:
                for fault in list(other.faults.values()):
                    ledger.offer_proof(fault.evidence)
        if before == [(ledger.digest(), len(ledger.faults), ledger.waiting) for ledger in ledgers]:
            return
    raise AssertionError("the exchange never came to rest")
