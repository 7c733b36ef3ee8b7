"""A payload counts once: whoever signs it again under a new number, its own or another's, ends its log."""

from __future__ import annotations

import pytest

from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.validity import REPLAY_WINDOW, Refusal, is_replay
from tests.support.plain_ledgers import PlainCodec, identities, new_ledger, next_entry

A, B, C = SITES = identities(3)


def grown() -> Ledger:
    ledger = new_ledger(SITES)
    for site in (A, B, A, B, C):
        assert ledger.offer(next_entry(site, ledger)).verdict is Verdict.APPLIED
    return ledger


@pytest.mark.parametrize(("author", "number"), [(A, 1), (A, 2), (B, 1), (B, 2), (C, 1)])
def test_a_payload_signed_again_is_refused_and_proved_to_who_has_seen_nothing(author, number: int) -> None:  # type: ignore[no-untyped-def]
    ledger = grown()
    good = ledger.digest()
    taken = ledger.accepted.get(author.key, number)
    assert taken is not None
    again = next_entry(C, ledger, payload=taken.payload)
    outcome = ledger.offer(again)
    assert (outcome.verdict, outcome.refusal) == (Verdict.REFUSED, Refusal.REPLAY)
    assert ledger.digest() == good
    assert ledger.faults[C.key].number == 2
    stranger = new_ledger(SITES)
    assert stranger.offer_proof(ledger.faults[C.key].evidence).faults[0].reason == Refusal.REPLAY.value
    for entry in ledger.entries():
        stranger.offer(entry)
    assert stranger.digest() == good


def test_two_sites_that_had_not_seen_each_other_are_blamed_for_nothing() -> None:
    ledger = grown()
    payload = PlainCodec.encode([3], [1234])
    first, second = (next_entry(site, ledger, payload=payload) for site in (A, B))
    assert ledger.offer(first).verdict is Verdict.APPLIED
    assert ledger.offer(second).verdict is Verdict.APPLIED
    assert not ledger.faults


def test_a_delta_of_zeros_is_nobodys_work() -> None:
    ledger = grown()
    for site in (A, B, A):
        entry = next_entry(site, ledger, payload=PlainCodec.encode([], []))
        assert entry.norm_squared == 0
        assert ledger.offer(entry).verdict is Verdict.APPLIED
    assert not ledger.faults


def test_only_a_window_counts_whose_headers_every_site_holds() -> None:
    ledger = new_ledger(SITES)
    first = next_entry(A, ledger)
    ledger.offer(first)
    payload = first.payload
    for number, replayed in ((REPLAY_WINDOW, True), (REPLAY_WINDOW + 1, False)):
        far = next_entry(B, ledger, payload=payload, base={A.key: number})
        assert is_replay(far, first, ledger.accepted.order.place(A.key)) is replayed
