"""Messages survive the wire; bytes that are not messages raise WireError and nothing else."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.core.effects import Message
from kmel_p2p.core.ledger.sync.messages import (
    SCHEMAS,
    Amendments,
    Announce,
    Attest,
    Bodies,
    Claim,
    Compacted,
    EntryId,
    EntryRange,
    Epochs,
    Have,
    Heads,
    Holdings,
    LogHead,
    Proofs,
    SnapshotAsk,
    SnapshotOffer,
    SnapshotPart,
    Stubs,
    Want,
    WantAmendments,
)
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.wire import ForeignCharterError, Schema, Wire, uint

WIRE = Wire(bytes(range(32)), SCHEMAS)
HASH = bytes(32)

keys = st.binary(min_size=32, max_size=32)
seqs = st.integers(0, 2**40)
vectors = st.lists(seqs, max_size=8).map(lambda numbers: RosterVector.of(np.array(numbers, np.int64)))
messages = st.one_of(
    st.builds(
        Have,
        state=st.binary(min_size=16, max_size=16),
        phase=st.integers(0, 2),
        step_us=st.integers(0, 2**40),
        heads=st.lists(st.integers(0, 1023), max_size=9).map(tuple),
        reply=st.booleans(),
    ),
    st.builds(
        Holdings,
        amendments=st.integers(0, 2**32),
        amendment=keys,
        vector=vectors,
        chains=keys,
        ended=st.dictionaries(st.integers(0, 4095), seqs, max_size=5),
        epochs=keys,
        headers=st.lists(st.binary(max_size=99), max_size=3).map(tuple),
        reply=st.booleans(),
    ),
    st.builds(
        Want,
        ranges=st.lists(st.builds(EntryRange, author=keys, first=seqs, last=seqs), max_size=5).map(tuple),
        evidence=st.lists(keys, max_size=3).map(tuple),
    ),
    st.builds(Bodies, entries=st.lists(st.binary(max_size=200), max_size=5).map(tuple)),
    st.builds(Announce, items=st.lists(st.builds(EntryId, author=keys, number=seqs), max_size=5).map(tuple)),
    st.builds(
        Claim,
        amendment=keys,
        vector=vectors,
        chains=keys,
        digest=keys,
        signature=st.binary(min_size=64, max_size=64),
    ),
    st.builds(Epochs, epochs=st.lists(st.binary(max_size=99), max_size=3).map(tuple)),
    st.builds(Compacted, amendment=keys, floor=vectors),
    st.builds(SnapshotAsk, id=keys, first=st.integers(0, 2**32), count=st.integers(0, 8)),
    st.builds(SnapshotOffer, id=keys, size_bytes=st.integers(0, 2**48), digest=keys),
    st.builds(SnapshotPart, id=keys, index=st.integers(0, 2**32), data=st.binary(max_size=99)),
    st.builds(Attest, amendment=keys, vector=vectors),
    st.builds(WantAmendments, first=st.integers(0, 2**32)),
    st.builds(Amendments, amendments=st.lists(st.binary(max_size=99), max_size=3).map(tuple)),
    st.builds(Proofs, faults=st.lists(st.lists(st.binary(max_size=99), max_size=3).map(tuple), max_size=3).map(tuple)),
    st.builds(Heads, heads=st.lists(st.builds(LogHead, author=keys, number=seqs, hash=keys), max_size=3).map(tuple)),
    st.builds(Stubs, stubs=st.lists(st.binary(max_size=99), max_size=3).map(tuple)),
)


@given(messages)
@settings(deadline=None)
def test_a_message_decodes_to_itself(message: Message) -> None:
    assert WIRE.decode(WIRE.encode(message)) == message


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_random_bytes_raise_only_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        WIRE.decode(data)


@given(messages, st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_messages_never_raise_anything_else(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(WIRE.encode(message))
    position = data.draw(st.integers(0, len(encoded) - 1))
    if data.draw(st.booleans()):
        encoded[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del encoded[position:]
    with contextlib.suppress(WireError):
        WIRE.decode(bytes(encoded))


def test_another_charters_message_is_told_apart_from_garbage() -> None:
    other = Wire(bytes(32), SCHEMAS)
    with pytest.raises(ForeignCharterError) as caught:
        WIRE.decode(other.encode(Bodies(())))
    assert caught.value.tag == bytes(8)


def test_another_protocol_version_names_both_numbers() -> None:
    encoded = msgpack.packb([1, WIRE.charter_tag, 22, []])
    with pytest.raises(WireError, match=r"it speaks protocol 1, this site 2: both need the same version"):
        WIRE.decode(encoded)


@pytest.mark.parametrize(
    "body",
    [
        [0, HASH, b"", HASH, [4, 5, 2, 5], HASH, [], False],  # unsorted places
        [0, HASH, b"", HASH, [4, 5, 4, 5], HASH, [], False],  # a place twice
        [0, HASH, b"", HASH, [4096, 5], HASH, [], False],
        [0, HASH, b"", HASH, [4, -1], HASH, [], False],
        [0, HASH, b"", HASH, [4, True], HASH, [], False],
        [0, HASH, b"", HASH, [], HASH, [b""] * 65, False],
        [0, HASH, [1], HASH, [], HASH, [], False],
        [2**33, HASH, b"", HASH, [], HASH, [], False],
        [0, HASH, b"", HASH, [], HASH, [], 1],
        [0, HASH, b"", HASH, [], HASH, []],
    ],
)
def test_values_out_of_bounds_are_refused(body: list[object]) -> None:
    with pytest.raises(WireError):
        WIRE.decode(msgpack.packb([2, WIRE.charter_tag, 35, *body]))


def test_what_is_refused_above_is_not_refused_for_its_length() -> None:
    WIRE.decode(msgpack.packb([2, WIRE.charter_tag, 35, 0, HASH, b"", HASH, [2, 5, 4, 5], HASH, [], False]))


def test_deep_nesting_is_refused_without_recursion_error() -> None:
    with pytest.raises(WireError):
        unpack_bounded(b"\x91" * 5000 + b"\xc0", 10_000)


def test_a_type_id_cannot_be_used_twice() -> None:
    @dataclass(frozen=True, slots=True)
    class Other(Message):
        n: int

    with pytest.raises(Bug, match="used twice"):
        Wire(bytes(32), (*SCHEMAS, Schema(20, Other, {"n": uint()})))
