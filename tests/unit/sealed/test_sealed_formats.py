"""The bytes of every message of sealed rounds, and what hostile ones come to."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.core.sealed import masking
from kmel_p2p.core.sealed.group import Group, OwnPart
from kmel_p2p.core.sealed.keystream import words
from kmel_p2p.core.sealed.messages import SCHEMAS, SealClose, SealKey, Statement, hash_of, is_signed, signed
from kmel_p2p.core.sealed.own_part import SealedState, decode_own_state
from kmel_p2p.core.sealed.sums import SumEntry, SumLog, chain_after, decode_sum
from tests.support import sealed_samples as samples

ROOT = Path(__file__).parents[3]


def test_bytes_of_every_message_are_those_on_record() -> None:
    assert samples.golden() == tomllib.loads(samples.GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("name", samples.messages())
def test_a_message_comes_back_and_its_signature_holds_for_nothing_else(name) -> None:
    message = samples.messages()[name]
    encoded = samples.WIRE.encode(message)
    schema = next(schema for schema in SCHEMAS if schema.cls is type(message))
    assert samples.WIRE.decode(encoded) == message
    assert len(encoded) <= schema.max_bytes
    if hasattr(message, "signature"):
        assert is_signed(samples.CHARTER_ID, message)
        assert not is_signed(bytes(32), message)
        assert not is_signed(samples.CHARTER_ID, replace(message, round=message.round + 1))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_altered_bytes_are_refused_or_are_another_message(data) -> None:
    name = data.draw(st.sampled_from(sorted(samples.golden())))
    encoded = bytearray(bytes.fromhex(samples.golden()[name]))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        message = samples.WIRE.decode(bytes(encoded))
    except WireError:
        return
    if isinstance(message, Statement):
        assert not is_signed(samples.CHARTER_ID, message)


def test_the_worked_example_of_the_page_is_that_of_the_samples() -> None:
    said = samples.messages()
    group = Group(said["seal_open"], hash_of(samples.CHARTER_ID, said["seal_open"]), samples.LOG.count, samples.LEVELS)
    parts = [OwnPart(group, *of) for of in zip((site.key for site in samples.SITES), samples.SECRETS, strict=True)]
    sealed = [parts[n].seal(1, samples.Q[n], samples.SELF_SEEDS[n]) for n in (0, 1)]
    entry = decode_sum(said["seal_past"].sums[0])
    seeds = [parts[0].pairs[samples.SITES[1].key], parts[0].pairs[samples.SITES[2].key]]
    seeds.append(parts[1].pairs[samples.SITES[2].key])
    drawn = [words(seed, 4, group.bits) for seed in (*samples.SELF_SEEDS[:2], *(pair.mask_seed for pair in seeds))]
    shown = [
        samples.LOG.chain.hex()[:16],
        seeds[0].mask_seed.hex()[:16],
        *(" ".join(map(str, numbers)) for numbers in drawn),
        *(" ".join(map(str, masking.unpack(each.payload, 4, group.bits))) for each in sealed),
        *(each.payload.hex() for each in sealed),
        entry.packed.hex(),
        chain_after(samples.LOG.chain, entry).hex()[:16],
        parts[1].share_from(sealed[0]).hex()[:16],
        sealed[0].shares.hex()[:16],
    ]
    page = (ROOT / "docs" / "sealed.md").read_text("utf-8")
    assert [each for each in shown if each not in page] == []
    assert samples.LOG.positions(1).tolist() == [6, 8, 10, 13]


def test_a_payload_is_signed_by_its_hash() -> None:
    sealed = samples.messages()["sealed"]
    assert hash_of(samples.CHARTER_ID, replace(sealed, payload=b"other")) != hash_of(samples.CHARTER_ID, sealed)


def test_a_choice_names_group_and_vectors_and_no_voter() -> None:
    close = samples.messages()["seal_close"]
    assert isinstance(close, SealClose)
    assert replace(close, author=samples.SITES[1].key, ballot=3).choice == close.choice
    assert replace(close, open=bytes(32)).choice != close.choice
    assert replace(close, included=close.included[:1]).choice != close.choice


def test_own_state_comes_back_and_shows_no_secret() -> None:
    said = list(samples.messages().values())
    state = SealedState(
        5, 3, b"x" * 32, b"y" * 32, "round-4", said[1], [said[0], said[2]], samples.messages()["seal_sum"]
    )
    assert decode_own_state(state.encode(samples.CHARTER_ID), samples.CHARTER_ID, "store") == state
    assert "x" * 8 not in repr(state)
    after = state.after(5, True)
    assert (after.round, after.committed, after.secret, after.self_seed, after.said) == (6, 4, b"", b"", [])
    for damaged in (b"", b"\x91\x01", state.encode(samples.CHARTER_ID)[:-1], b"\x99" + bytes(9)):
        with pytest.raises(ConfigError, match="store"):
            decode_own_state(damaged, samples.CHARTER_ID, "store")


# ---- sums -------------------------------------------------------------------------------------------------------


def log(size: int = 40) -> SumLog:
    return SumLog(samples.CHARTER_ID, np.zeros(size, np.float32), 0.25, 7, -8)


def test_equal_sums_give_equal_trunks_and_chains() -> None:
    one, other = log(), log()
    rng = np.random.default_rng(1)
    for number in range(1, 9):
        entry = one.entry(2 * number, 0b10111, bytes(32), rng.integers(-28, 29, one.count))
        one.add(entry)
        other.add(decode_sum(entry.encode()))
    assert one.chain == other.chain
    assert one.digest_work()() == other.digest_work()()
    assert np.array_equal(one.trunk(), other.trunk())
    assert one.exponent == other.exponent


def test_a_sum_that_does_not_follow_or_is_too_large_is_refused() -> None:
    held = log()
    good = held.entry(1, 0b1111, bytes(32), np.zeros(held.count, np.int64))
    for bad in (
        replace(good, number=2),
        replace(good, round=0),
        replace(good, sites=0),
        replace(good, sites=2**16),
        replace(good, packed=b"\xff" * len(good.packed)),
        replace(good, packed=good.packed[:-1]),
    ):
        with pytest.raises(WireError):
            held.add(bad)
    assert held.number == 0
    held.add(good)


def test_a_sum_far_above_the_usual_ones_does_not_stand() -> None:
    held = log()
    for number in range(1, 10):
        held.add(held.entry(number, 0b1111, bytes(32), np.full(held.count, 1)))
    while held.exponent < -2:
        held.exponent += 1
    assert "times the usual one" in held.problem(np.full(held.count, 28))
    assert not log().problem(np.full(held.count, 28))


@given(st.binary(max_size=80))
def test_hostile_bytes_are_no_sum(data) -> None:
    try:
        entry = decode_sum(data)
    except WireError:
        return
    assert isinstance(entry, SumEntry)
    assert entry.encode() == data


def test_a_signature_of_a_stranger_is_none() -> None:
    said = signed(samples.SITES[0], samples.CHARTER_ID, SealKey(samples.SITES[1].key, 1, bytes(32)))
    assert not is_signed(samples.CHARTER_ID, said)
