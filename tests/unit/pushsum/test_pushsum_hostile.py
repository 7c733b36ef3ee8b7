"""What a hostile member sends is bounded, refused, counted, and alters nothing; honest mass that is refused returns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.effects import Message, Persist, Send
from kmel_p2p.core.pushsum.events import MassReceived, MassReclaimed, PushSumRefused, Treatment
from kmel_p2p.core.pushsum.holding import MAX_MASS, Holding
from kmel_p2p.core.pushsum.messages import (
    SCHEMAS,
    Hop,
    Inquiry,
    MassTransfer,
    ProgressReport,
    Receipt,
    ShareRequest,
    Statements,
    TransferVerdict,
)
from kmel_p2p.core.pushsum.rules import credible_weight, largest_weight
from kmel_p2p.core.pushsum.share import EXACT, payload_bytes
from kmel_p2p.core.pushsum.statements import Statement
from kmel_p2p.core.rounds import Phase
from kmel_p2p.core.types import SECOND
from kmel_p2p.core.wire import Wire
from tests.support.pushsum_mesh import CHARTER_ID, Mesh, no_drift

SIZE = 8
EMPTY = bytes([8, 0, 0])
"""A share of nothing in 8 bits."""


def running() -> Mesh:
    """Two sites in the middle of a run; site 1 is the hostile one."""
    mesh = Mesh([10, 10, 10], no_drift, size=SIZE, entry_limit=1000)
    mesh.run(lambda: mesh.site(0).state.rounds >= 4, 60 * SECOND)
    mesh.run(lambda: not mesh.site(0).state.owed and not mesh.site(1).state.owed, 90 * SECOND)
    return mesh


def say(mesh: Mesh, message: Message) -> list[Message]:
    """Site 1 says something to site 0; returns the answers to it."""
    site, answers = mesh.site(0), []
    site.receive(mesh.keys[1], message, mesh.now)
    while (effect := site.poll()) is not None:
        if isinstance(effect, Send) and effect.to == mesh.keys[1]:
            answers.append(effect.message)
        mesh._execute(0, site, effect)
    return answers


def transfer(mesh: Mesh, **changes: object) -> MassTransfer:
    """A transfer of site 1 to site 0 that stands, with changes."""
    to, own = mesh.site(0).state, mesh.site(1).state
    good = MassTransfer(own.numbers.get(mesh.keys[0], 0) + 1, own.life, to.life, 2**10, own.age, True, EMPTY)
    return dataclasses.replace(good, **changes)  # type: ignore[arg-type]


def states(statement: Statement) -> Statements:
    return Statements((statement.encoded,), 0, Hop.NOTICE)


def forged(statement: Statement) -> Statement:
    """Its fields under nobody's signature."""
    signed = statement.signed(Identity(b"f" * 32), CHARTER_ID)
    return dataclasses.replace(signed, encoded=bytes(64) + signed.encoded[64:])


def snapshot(mesh: Mesh) -> tuple[int, bytes, int]:
    state = mesh.site(0).state
    return state.holding.mass, state.holding.sums.tobytes(), state.age


@pytest.mark.parametrize(
    "changes",
    [
        {"mass": 0},
        {"mass": MAX_MASS},
        {"payload": b""},
        {"payload": b"\x08"},
        {"payload": b"\x09\x00\x00"},
        {"payload": bytes(payload_bytes(SIZE, EXACT) + 1)},
        {"payload": bytes([EXACT]) + (2**62).to_bytes(8, "little") * SIZE},
        {"payload": bytes([8]) + b"\xff\x20" + b"\x7f" * SIZE},
    ],
)
def test_transfers_that_do_not_stand_are_refused_for_good(changes: dict[str, object]) -> None:
    mesh = running()
    before = snapshot(mesh)
    bad = transfer(mesh, **changes)
    say(mesh, bad)
    assert snapshot(mesh) == before
    assert len(mesh.seen(PushSumRefused)) == 1
    mesh.run_for(SECOND // 10)
    # Also when the same number comes again with something that would stand.
    assert say(mesh, dataclasses.replace(bad, mass=2**10, payload=EMPTY)) == [
        Receipt(bad.number, bad.sender_life, TransferVerdict.REFUSED)
    ]
    assert say(mesh, Inquiry(bad.number, bad.sender_life, bad.receiver_life)) == [
        Receipt(bad.number, bad.sender_life, TransferVerdict.REFUSED)
    ]
    assert not [e for n, e in mesh.seen(MassReceived) if n == 0 and e.treatment is Treatment.REFUSED]


def test_one_transfer_of_huge_mass_captures_nothing() -> None:
    mesh = running()
    before = snapshot(mesh)
    say(mesh, transfer(mesh, mass=2**43))
    assert snapshot(mesh) == before
    refused = mesh.seen(PushSumRefused)[-1][1]
    assert isinstance(refused, PushSumRefused)
    assert "more than the site can honestly hold" in refused.reason


def test_a_huge_stated_weight_counts_for_no_more_than_the_charter_allows() -> None:
    mesh = running()
    site, liar = mesh.site(0), mesh.keys[1]
    true = site.table.get(liar)
    assert true is not None
    lie = dataclasses.replace(true, weight=2**43, counter=true.counter + 1).signed(mesh.identities[1], CHARTER_ID)
    say(mesh, states(lie))
    assert site.table.get(liar).weight == 2**43  # type: ignore[union-attr]
    before = snapshot(mesh)
    say(mesh, transfer(mesh, mass=2**43))
    assert snapshot(mesh) == before
    # Nor does it draw the others' mass to itself.
    kept = site._transfers._share_of_mass(lie, site.state.weight)
    assert kept < site.state.holding.mass * 24 // 25


@given(st.integers(1, 2**40), st.lists(st.integers(1, 2**40), min_size=2, max_size=9), st.sampled_from([1.0, 2.0]))
def test_an_honest_weight_counts_in_full_and_a_lie_within_the_charters_cap(
    stated: int, others: list[int], cap: float
) -> None:
    sites, mean = 1 + len(others), sum(others) / len(others)
    allowed = largest_weight(mean, sites, cap)
    assert credible_weight(min(stated, allowed), others, sites, cap) == min(stated, allowed)
    assert credible_weight(2**44, others, sites, cap) <= 4 * allowed
    if sites > cap:
        assert allowed <= max(1, cap * (allowed + sum(others)) / sites + 1)


def test_what_stands_is_credited_once_and_receipted_only_when_durable() -> None:
    mesh = running()
    mass = mesh.site(0).state.holding.mass
    good = transfer(mesh)
    assert say(mesh, good) == []
    assert say(mesh, good) == []
    assert say(mesh, Inquiry(good.number, good.sender_life, good.receiver_life)) == []
    assert mesh.site(0).state.holding.mass == mass + 2**10
    mesh.run_for(SECOND // 50)
    receipt = Receipt(good.number, good.sender_life, TransferVerdict.APPLIED)
    assert say(mesh, good) == [receipt]
    assert say(mesh, dataclasses.replace(good, number=1)) == [dataclasses.replace(receipt, number=1)]
    credits = [(e.sender, e.number) for n, e in mesh.seen(MassReceived) if n == 0]
    assert credits.count((mesh.keys[1], good.number)) == 1
    assert credits.count((mesh.keys[1], 1)) <= 1


def test_transfers_of_or_to_another_life_are_left_alone() -> None:
    mesh = running()
    before = snapshot(mesh)
    for changes in ({"sender_life": b"x" * 8}, {"receiver_life": b"x" * 8}):
        assert say(mesh, transfer(mesh, **changes)) == []
    assert say(mesh, Inquiry(1, mesh.site(1).state.life, b"x" * 8)) == []
    assert snapshot(mesh) == before


def test_a_claimed_age_counts_no_further_than_the_federation_has_come() -> None:
    mesh = running()
    say(mesh, transfer(mesh, age=999))
    assert mesh.site(0).state.age <= max(mesh.site(n).state.rounds for n in range(3))


def test_one_liar_cannot_make_the_others_hold_their_trunk_for_old() -> None:
    mesh = running()
    say(mesh, ProgressReport(1000, 5))
    liar = next(s for s in mesh.site(0).table if s.site == mesh.keys[1])
    lie = dataclasses.replace(liar, counter=liar.counter + 10**6, phase=2, rounds=1000)
    say(mesh, states(lie.signed(mesh.identities[1], CHARTER_ID)))
    assert mesh.site(0).vector[mesh.keys[1]] == 1000
    assert mesh.site(0).progress.reached(mesh.site(0).state.level) < 20
    assert "too old" not in mesh.site(0).waiting


def test_progress_beyond_the_charters_limit_is_refused() -> None:
    mesh = running()
    before = dict(mesh.site(0).vector)
    say(mesh, ProgressReport(1001, 5))
    assert len(mesh.seen(PushSumRefused)) == 1
    assert mesh.site(0).vector == before


def test_forged_and_foreign_standings_are_refused() -> None:
    mesh = running()
    known = mesh.site(0).table.get(mesh.keys[2])
    assert known is not None
    stranger = Identity(b"s" * 32)
    ahead = dataclasses.replace(known, counter=known.counter + 1)
    for bad in (
        forged(ahead),
        forged(dataclasses.replace(ahead, phase=int(Phase.LISTENING))),
        ahead.signed(mesh.identities[1], CHARTER_ID),
        ahead.signed(mesh.identities[2], b"q" * 32),
        dataclasses.replace(ahead, rounds=1001).signed(mesh.identities[2], CHARTER_ID),
        dataclasses.replace(ahead, site=stranger.key).signed(stranger, CHARTER_ID),
        forged(dataclasses.replace(ahead, site=mesh.keys[0])),
        dataclasses.replace(ahead, encoded=b"x" * 100),
        dataclasses.replace(ahead, encoded=b""),
    ):
        say(mesh, states(bad))
    assert len(mesh.seen(PushSumRefused)) == 9
    assert mesh.site(0).table.get(mesh.keys[2]) == known
    say(mesh, states(ahead.signed(mesh.identities[2], CHARTER_ID)))
    assert mesh.site(0).table.get(mesh.keys[2]) != known


def test_a_refused_transfer_returns_to_its_sender_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = running()
    # Site 1 holds that it may not take more: as if the federation's mass were exhausted.
    full, has_room = mesh.site(1).state.holding, Holding.has_room
    monkeypatch.setattr(Holding, "has_room", lambda self, mass: self is not full and has_room(self, mass))
    mesh.run(lambda: bool([e for n, e in mesh.seen(MassReclaimed) if n == 0]), mesh.now + 30 * SECOND)
    mass, _ = mesh.totals()
    assert mass == 3 * 2**20
    assert {e.reason for _, e in mesh.seen(MassReclaimed)} == {"the site refused it"}


def test_receipts_nobody_waits_for_change_nothing() -> None:
    mesh = running()
    before = snapshot(mesh)
    life = mesh.site(0).state.life
    for verdict in TransferVerdict:
        assert say(mesh, Receipt(10**6, life, verdict)) == []
        assert say(mesh, Receipt(1, b"x" * 8, verdict)) == []
    assert snapshot(mesh) == before


def test_missing_makes_us_send_again_only_when_we_asked() -> None:
    mesh = running()
    mesh.partition({0, 2}, {1})
    mesh.partition()
    mesh.cut = lambda a, b: True
    mesh.run(lambda: mesh.keys[1] in mesh.site(0).state.owed, mesh.now + 30 * SECOND)
    mesh.run_for(SECOND // 10)
    owed = mesh.site(0).state.owed[mesh.keys[1]]
    answer = Receipt(owed.number, mesh.site(0).state.life, TransferVerdict.MISSING)
    assert [say(mesh, answer) for _ in range(5)] == [[]] * 5


def test_asking_drains_a_site_no_further_than_its_least_mass() -> None:
    mesh = running()
    site = mesh.site(0)
    for _ in range(40):
        say(mesh, ShareRequest())
        mesh.run_for(SECOND)
        assert site.state.holding.mass >= site.state.weight >> 4


keys = st.sampled_from([bytes([n + 1, 0]) * 16 for n in range(3)])
lives = st.binary(min_size=8, max_size=8)
small = st.integers(0, 60)
messages = st.one_of(
    st.builds(
        MassTransfer, small, lives, lives, st.integers(0, MAX_MASS), small, st.booleans(), st.binary(max_size=80)
    ),
    st.builds(Inquiry, small, lives, lives),
    st.builds(Receipt, small, lives, st.sampled_from(TransferVerdict)),
    st.builds(ShareRequest),
    st.builds(ProgressReport, small, small),
    st.builds(
        Statements,
        st.lists(
            st.builds(
                Statement,
                keys,
                small,
                small,
                lives,
                st.integers(0, MAX_MASS),
                small,
                small,
                st.integers(0, 2),
                st.booleans(),
            ).map(lambda statement: forged(statement).encoded)
            | st.binary(max_size=256),
            max_size=3,
        ).map(tuple),
        st.integers(0, 2**64 - 1),
        st.sampled_from(Hop),
    ),
)


@given(messages)
@settings(deadline=None, max_examples=150)
def test_messages_survive_the_wire(message: Message) -> None:
    wire = Wire(CHARTER_ID, SCHEMAS)
    assert wire.decode(wire.encode(message)) == message


@given(st.lists(messages, max_size=6), st.booleans())
@settings(deadline=None, max_examples=60)
def test_no_message_stops_a_site(said: list[Message], true_lives: bool) -> None:
    mesh = Mesh([10, 10], no_drift, size=SIZE, entry_limit=50)
    mesh.run_for(4 * SECOND)
    lives = {"sender_life": mesh.site(1).state.life, "receiver_life": mesh.site(0).state.life}
    for message in said:
        if true_lives and isinstance(message, (MassTransfer, Inquiry)):
            message = dataclasses.replace(message, **lives)  # type: ignore[arg-type]
        elif true_lives and isinstance(message, Receipt):
            message = dataclasses.replace(message, life=lives["receiver_life"])
        say(mesh, message)
        mesh.run_for(SECOND // 4)
    mesh.run(lambda: mesh.site(0).state.rounds >= 6, mesh.now + 60 * SECOND)
    assert np.isfinite(mesh.site(0).trunk()).all()


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(WireError):
        Wire(CHARTER_ID, SCHEMAS).decode(data)


def test_nothing_is_stored_for_what_is_not_taken() -> None:
    mesh = running()
    site = mesh.site(0)
    for message in (ShareRequest(), Inquiry(5, b"y" * 8, site.state.life), transfer(mesh, sender_life=b"y" * 8)):
        site.receive(mesh.keys[1], message, mesh.now)
        effects = []
        while (effect := site.poll()) is not None:
            effects.append(effect)
        assert isinstance(message, ShareRequest) or not [e for e in effects if isinstance(e, Persist)]
