"""Snapshots carry everything a newcomer needs, and nothing they say is believed for its own sake."""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.core.effects import Effect, Emit
from kmel_p2p.core.ledger.events import LateFault
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome, Verdict
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot, advance, decode, genesis
from kmel_p2p.core.ledger.sync.antientropy import AntiEntropy
from kmel_p2p.core.ledger.sync.forks import ForkFinder
from kmel_p2p.core.ledger.sync.messages import Proofs
from kmel_p2p.core.ledger.sync.state_exchange import AntiEntropySettings
from tests.support.plain_ledgers import PlainCodec, identities, new_ledger, next_entry

SITES = identities(3)


def history(count: int) -> tuple[Ledger, list[Entry]]:
    ledger = new_ledger(SITES)
    made = []
    for number in range(count):
        entry = next_entry(SITES[number % 3], ledger, units=1000 + number, position=number % 16)
        assert ledger.offer(entry).verdict is Verdict.APPLIED
        made.append(entry)
    return ledger, made


def empty() -> Snapshot:
    fresh = new_ledger(SITES)
    return genesis(fresh.rules.charter_id, fresh.accumulator)


@given(st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None, max_examples=30)
def test_a_snapshot_and_the_rest_is_as_good_as_everything(before: int, after: int) -> None:
    whole, made = history(before + after)
    part, _ = history(before)
    snapshot = decode(part.snapshot().encode(), len(whole.accumulator))
    assert snapshot.problem() == ""
    assert snapshot.digest() == part.digest()
    assert snapshot.chains == part.accepted.chains(part.accepted.held)
    joined = new_ledger(SITES)
    assert joined.adopt(snapshot).verdict is Verdict.APPLIED
    for entry in made:
        joined.offer(entry)
    assert joined.digest() == whole.digest()
    assert joined.vector == whole.vector
    # The newcomer judges as one who was there all along.
    for site in SITES:
        assert joined.norm_bound_squared(site.key, joined.accepted.held) == whole.norm_bound_squared(
            site.key, whole.accepted.held
        )


@given(st.integers(1, 30), st.data())
@settings(deadline=None, max_examples=30)
def test_folding_changes_nothing_but_what_is_held(count: int, data: st.DataObject) -> None:
    ledger, made = history(count)
    digest, vector = ledger.digest(), ledger.vector
    until = {site.key: data.draw(st.integers(0, ledger.head(site.key))) for site in SITES}
    ledger.compact(until)
    assert (ledger.digest(), ledger.vector) == (digest, vector)
    stored = advance(empty(), (e for e in made if e.number <= until[e.author]), PlainCodec(), {}, ())
    restarted = new_ledger(SITES)
    restarted.adopt(decode(stored.encode()))
    for entry in ledger.entries():
        assert restarted.offer(entry).verdict in (Verdict.APPLIED, Verdict.WAITING)
    assert restarted.digest() == digest
    assert restarted.accepted.floor == ledger.accepted.floor
    assert ledger.offer(next_entry(SITES[0], ledger)).verdict is Verdict.APPLIED


def test_a_fork_below_the_floor_is_late_and_changes_nothing() -> None:
    ledger, made = history(9)
    other, _ = history(0)
    twin = next_entry(SITES[0], other, units=77)
    ledger.compact({site.key: 2 for site in SITES})
    digest = ledger.digest()
    assert made[0].number == twin.number == 1
    outcome = ledger.offer(twin)
    assert [fault.number for fault in outcome.late] == [1]
    assert not outcome.faults
    assert ledger.digest() == digest
    assert ledger.accepted.is_proved(SITES[0].key, 1)
    assert not ledger.accepted.ended
    # Whoever acted on the proof is understood, and whoever did not goes on.
    assert ledger.offer(next_entry(SITES[1], ledger)).verdict is Verdict.APPLIED
    assert ledger.offer(next_entry(SITES[0], ledger)).verdict is Verdict.APPLIED


def test_true_evidence_accuses_nobody_who_hands_it_over_and_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, _ = history(9)
    witness, _ = history(9)
    fault = witness.offer(next_entry(SITES[0], history(0)[0], units=77)).faults[0]
    ledger.compact({site.key: 2 for site in SITES})
    outbox: deque[Effect] = deque()
    exchange = AntiEntropy(
        SITES[1].key,
        ledger,
        ForkFinder(ledger, outbox),
        lambda: (),
        outbox,
        random.Random(1),
        AntiEntropySettings(),
        1000,
        0,
    )
    looked_at: list[Sequence[bytes]] = []
    offer = ledger.offer_proof

    def counted(evidence: Sequence[bytes], limit: int) -> Outcome:
        looked_at.append(evidence)
        return offer(evidence, limit)

    monkeypatch.setattr(ledger, "offer_proof", counted)
    exchange.receive(SITES[2].key, Proofs((fault.evidence,) * 64), 0)
    told = [type(effect.event) for effect in outbox if isinstance(effect, Emit)]
    assert told == [LateFault]
    assert len(looked_at) == 2


def test_adopting_turns_what_was_taken_back_into_what_the_majority_holds() -> None:
    ledger, made = history(9)
    other, _ = history(0)
    twin = next_entry(SITES[0], other, units=77)
    late = new_ledger(SITES)
    for entry in made[:6]:
        late.offer(entry)
    assert late.offer(twin).faults[0].number == 1
    assert late.head(SITES[0].key) == 0
    ledger.compact({site.key: 2 for site in SITES})
    late.adopt(decode(ledger.snapshot().encode()))
    assert late.digest() == ledger.digest()
    assert not late.accepted.ended
    assert late.accepted.is_proved(SITES[0].key, 1)


def test_a_snapshot_with_false_headers_has_a_problem() -> None:
    ledger, _ = history(6)
    snapshot = ledger.snapshot()
    first, second = SITES[0].key, SITES[1].key
    mine, others = snapshot.headers[first], snapshot.headers[second]
    unsigned = (mine[0], dataclasses.replace(mine[1], signature=bytes(64)))
    for headers, words in (
        ({first: others}, "another author"),
        ({first: (mine[0], others[1])}, "another author"),
        ({first: (mine[1], mine[0])}, "do not follow"),
        ({first: unsigned}, "did not sign"),
    ):
        false = dataclasses.replace(snapshot, headers={**snapshot.headers, **headers})
        assert words in false.problem()


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_damaged_bytes_are_refused_or_change_the_digest(data: st.DataObject) -> None:
    ledger, _ = history(5)
    encoded = bytearray(ledger.snapshot().encode())
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = decode(bytes(encoded), 16)
    except WireError:
        return
    assert (
        read.problem()
        or read.digest() != ledger.digest()
        or read.chains != ledger.accepted.chains(ledger.accepted.held)
    )


@pytest.mark.parametrize("size", [0, 7, 8, 100])
def test_cut_off_bytes_are_refused(size: int) -> None:
    ledger, _ = history(5)
    with pytest.raises(WireError):
        decode(ledger.snapshot().encode()[:size], 16)


def test_an_accumulator_of_another_size_is_refused() -> None:
    snapshot = dataclasses.replace(empty(), accumulator=Accumulator.from_raw(bytes(80), 10))
    with pytest.raises(WireError, match="accumulator of 80 bytes"):
        decode(snapshot.encode(), 16)
