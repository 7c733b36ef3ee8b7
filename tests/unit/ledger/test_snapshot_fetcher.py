"""No giver and no witness keeps a newcomer waiting for a snapshot for ever."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.computing import Computing
from kmel_p2p.core.effects import Effect, Emit
from kmel_p2p.core.ledger.events import SnapshotRefused
from kmel_p2p.core.ledger.snapshot.attempt import Attempt, FetchStage
from kmel_p2p.core.ledger.snapshot.fetcher import ASK_PERIOD, IN_VAIN_STALLED, STALLED, SnapshotFetcher
from kmel_p2p.core.ledger.sync.messages import PART_BYTES, Claim, SnapshotOffer, SnapshotPart
from kmel_p2p.core.types import SECOND
from tests.support.plain_ledgers import identities, new_ledger, next_entry

OWN, LIAR, *OTHERS = (site.key for site in identities(5))
SIZE = 4 * PART_BYTES // 8


class Roster:
    """What the fetcher asks of a constitution."""

    roster = everyone = dict.fromkeys((OWN, LIAR, *OTHERS))
    number = 0


def fetcher(*others: bytes) -> tuple[SnapshotFetcher, deque[Effect]]:
    """`others`: givers beside the liar, not as far ahead."""
    outbox: deque[Effect] = deque()
    constitution: Any = Roster()
    made = SnapshotFetcher(
        OWN,
        SIZE,
        lambda: constitution,
        lambda: (LIAR, *OTHERS),
        lambda site: {LIAR: 9} if site == LIAR else {LIAR: 1} if site in others else {},
        Computing(outbox),
        outbox,
        random.Random(1),
    )
    made.want(0)
    return made, outbox


def refused(outbox: deque[Effect]) -> set[bytes]:
    events = [effect.event for effect in outbox if isinstance(effect, Emit)]
    return {event.server for event in events if isinstance(event, SnapshotRefused)}


def attesting(*others: bytes) -> tuple[SnapshotFetcher, deque[Effect], Claim]:
    """A snapshot of the liar is here, and nobody has attested it yet; also what attests it."""
    made, outbox = fetcher(*others)
    return made, outbox, fetched(made, LIAR, 0)


def fetched(made: SnapshotFetcher, giver: SiteKey, now: int) -> Claim:
    """A giver's snapshot is here and to be attested; returns what attests it."""
    ledger = new_ledger(identities(5))
    ledger.offer(next_entry(identities(5)[0], ledger))
    snapshot = ledger.snapshot()
    vector = ledger.accepted.held
    made._attempt = Attempt(giver, SnapshotOffer(bytes(32), 8 * SIZE + 1, bytes(32)), snapshot=snapshot, vector=vector)
    made._enter(FetchStage.ATTESTING, now)
    made._due_us = now
    return Claim(snapshot.standing, vector, snapshot.chains, bytes(32), bytes(64))


def test_a_witness_that_repeats_itself_buys_no_time() -> None:
    made, outbox, good = attesting(*OTHERS)
    claim = replace(good, digest=b"\x01" * 32)
    for now in range(0, 4 * STALLED, SECOND):
        made.on_claim(LIAR, claim, now)
        made.advance(now)
    assert LIAR in refused(outbox)


def test_where_nobody_else_holds_the_ledger_an_operator_may_take_the_word_of_one_site() -> None:
    made, outbox, claim = attesting()
    with pytest.raises(LocalError, match="has not attested"):
        made.trust(LIAR, SECOND)
    made.on_claim(LIAR, claim, SECOND)
    for now in range(SECOND, 10 * STALLED, SECOND):
        made.advance(now)
    assert made.stage is FetchStage.ATTESTING
    assert "1 of 3 needed, and too few are in sight" in made.progress
    assert "kmel-peer trust" in made.progress
    assert made.until_us is None
    assert not refused(outbox)
    with pytest.raises(LocalError, match="has not attested"):
        made.trust(OTHERS[0], 10 * STALLED)
    made.trust(LIAR, 10 * STALLED)
    assert made.take()[1:] == (LIAR, (LIAR,))


def test_no_word_of_one_site_is_taken_while_others_could_attest() -> None:
    made, _, claim = attesting(*OTHERS)
    made.on_claim(LIAR, claim, SECOND)
    assert "trust" not in made.progress
    with pytest.raises(LocalError, match="nothing here waits"):
        made.trust(LIAR, SECOND)


def in_vain(*givers: SiteKey) -> tuple[SnapshotFetcher, deque[Effect], int]:
    """Each giver's snapshot was here for as long as it may, and nobody else attested it; also when that was over."""
    made, outbox = fetcher(*givers)
    now = 0
    for giver in (LIAR, *givers):
        claim = fetched(made, giver, now)
        made.on_claim(giver, claim, now)
        assert "trust" not in made.progress
        now += 2 * STALLED
        made.advance(now)
    assert refused(outbox) == {LIAR, *givers}
    assert not made.active
    outbox.clear()
    made.want(now)
    return made, outbox, now


def test_where_no_giver_is_attested_an_operator_may_take_the_word_of_one() -> None:
    made, _, now = in_vain(*OTHERS)
    claim = fetched(made, OTHERS[0], now)
    with pytest.raises(LocalError, match="has not attested"):
        made.trust(OTHERS[0], now)
    made.on_claim(OTHERS[0], claim, now)
    assert "1 of 3 needed, and of what each site in sight gave" in made.progress
    assert made.until_us == now + IN_VAIN_STALLED
    made.trust(OTHERS[0], now)
    assert made.take()[1:] == (OTHERS[0], (OTHERS[0],))
    # The next time, the others are asked first again.
    made.want(now)
    made.on_claim(LIAR, fetched(made, LIAR, now), now)
    assert "trust" not in made.progress


def test_a_giver_whose_snapshot_nobody_ever_attests_has_its_turn_only() -> None:
    made, outbox, now = in_vain(*OTHERS)
    made.on_claim(LIAR, fetched(made, LIAR, now), now)
    made.advance(now + IN_VAIN_STALLED - 1)
    assert not refused(outbox)
    made.advance(now + IN_VAIN_STALLED + ASK_PERIOD)
    assert refused(outbox) == {LIAR}
    assert made.stage is FetchStage.SEEKING


def test_whoever_comes_back_shortens_the_turn_of_a_giver_that_nobody_attests() -> None:
    made, outbox, now = in_vain(*OTHERS)
    made.on_claim(LIAR, fetched(made, LIAR, now), now)
    made.forget(OTHERS[2], now)
    made.advance(now + STALLED)
    assert refused(outbox) == {LIAR}


def test_what_another_site_denies_is_left_to_no_operator() -> None:
    made, _, now = in_vain(*OTHERS)
    claim = fetched(made, LIAR, now)
    made.on_claim(LIAR, claim, now)
    made.on_claim(OTHERS[0], replace(claim, digest=b"\x01" * 32), now)
    assert "trust" not in made.progress
    with pytest.raises(LocalError, match="nothing here waits"):
        made.trust(LIAR, now)


def test_only_who_may_bring_what_is_missing_is_asked() -> None:
    made, outbox = fetcher(*OTHERS)
    made._helps = lambda site: site == OTHERS[1]
    made.abandon()
    made.want(SECOND)
    assert made.awaited == (OTHERS[1],)
    made.advance(STALLED)
    assert refused(outbox) == {OTHERS[1]}
    assert not made.active


def test_a_giver_that_changes_what_it_offers_buys_no_time() -> None:
    made, outbox = fetcher()
    for number, now in enumerate(range(0, 4 * STALLED, SECOND)):
        offer = SnapshotOffer(number.to_bytes(32, "big"), 8 * SIZE + 100, bytes(32))
        made.on_offer(LIAR, offer, now)
        made.on_part(LIAR, SnapshotPart(offer.id, 0, bytes(PART_BYTES)), now)
        made.advance(now)
    assert refused(outbox) == {LIAR}


def test_a_giver_that_gives_a_part_now_and_then_is_left_for_another_one() -> None:
    for others, left in (((), set()), ((OTHERS[0],), {LIAR})):
        made, outbox = fetcher(*others)
        offer = SnapshotOffer(bytes(32), 8 * SIZE + 100, bytes(32))
        made.on_offer(LIAR, offer, SECOND)
        for now in range(SECOND, 4 * STALLED, SECOND):
            if now % (50 * SECOND) == 0:
                made.on_part(LIAR, SnapshotPart(offer.id, now // (50 * SECOND) - 1, bytes(PART_BYTES)), now)
            made.advance(now)
        assert refused(outbox) & {LIAR} == left
