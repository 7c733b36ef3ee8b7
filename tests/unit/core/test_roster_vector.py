"""Vectors in roster order: one spelling each, read within bounds, the same under more amendments."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.roster_vector import (
    MAX_NUMBER,
    MAX_VECTOR_BYTES,
    NOTHING,
    RosterOrder,
    RosterVector,
)

numbers = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 300), st.integers(0, MAX_NUMBER)), max_size=40)
ORDER = RosterOrder([SiteKey(bytes([n]) * 32) for n in (5, 9, 1, 7)])


def vector(values: list[int]) -> RosterVector:
    return RosterVector.of(np.array(values, np.int64))


def plainly(values: list[int]) -> bytes:
    """LEB128 as the page describes it."""
    while values and not values[-1]:
        values = values[:-1]
    packed = bytearray()
    for value in values:
        while value >= 128:
            packed.append(value & 127 | 128)
            value >>= 7
        packed.append(value)
    return bytes(packed)


@given(numbers)
@settings(deadline=None)
def test_a_vector_reads_back_and_has_one_spelling(values: list[int]) -> None:
    made = vector(values)
    assert made.packed == plainly(values)
    read = RosterVector.read(made.packed)
    assert read == made
    assert hash(read) == hash(made)
    assert read.padded(len(values)).tolist() == values
    assert [read.at(place) for place in range(len(values) + 2)] == [*values, 0, 0]
    assert dict(read.items()) == {place: value for place, value in enumerate(values) if value}


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_refused_or_the_spelling_of_what_they_read_as(data: bytes) -> None:
    try:
        read = RosterVector.read(data)
    except WireError:
        return
    assert plainly(read.numbers.tolist()) == data
    assert all(0 <= number <= MAX_NUMBER for number in read.numbers.tolist())


@pytest.mark.parametrize(
    "packed",
    [
        b"\x80",  # cut off
        b"\x01\x00",  # zeros at the end
        b"\x80\x00\x01",  # 0 in two bytes
        b"\xff\xff\xff\xff\xff\x7f",  # above 2**40
        b"\x81" * 9 + b"\x01",  # a number without end
        b"\x01" * (MAX_SITES + 1),
        b"\x01" * (MAX_VECTOR_BYTES + 1),
        "\x01",
        [1],
        None,
    ],
)
def test_other_spellings_are_refused(packed: object) -> None:
    with pytest.raises(WireError):
        RosterVector.read(packed)


def test_a_thousand_sites_take_two_kilobytes_at_most() -> None:
    assert len(vector([2**14 - 1] * 1000).packed) == 2000
    assert len(vector([127] * 1000).packed) == 1000
    assert len(vector([MAX_NUMBER] * MAX_SITES).packed) == MAX_VECTOR_BYTES


def test_hostile_vectors_take_little_memory() -> None:
    worst = [b"\x01" * MAX_VECTOR_BYTES, b"\x81" * MAX_VECTOR_BYTES, b"\xff" * (MAX_VECTOR_BYTES - 1) + b"\x01"]
    for packed in (*worst, bytes(10_000_000)):
        tracemalloc.start()
        with pytest.raises(WireError):
            RosterVector.read(packed)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * MAX_VECTOR_BYTES


@given(st.dictionaries(st.sampled_from(ORDER.keys), st.integers(0, 500)))
def test_an_order_names_what_it_counted(counted: dict[SiteKey, int]) -> None:
    named = ORDER.named(ORDER.vector(counted))
    assert named == {key: number for key, number in counted.items() if number}
    assert list(named) == sorted(named)


def test_a_vector_under_fewer_amendments_reads_the_same_under_more() -> None:
    more = RosterOrder((*ORDER.keys, SiteKey(bytes(32))))
    counted = {ORDER.keys[0]: 3, ORDER.keys[3]: 400}
    assert more.named(ORDER.vector(counted)) == counted
    assert ORDER.named(more.vector({**counted, SiteKey(bytes(32)): 7})) == counted


def test_a_vector_is_cut_to_the_places_that_are_known() -> None:
    made = vector([0, 3, 0, 9])
    assert made.cut(4) is made
    assert made.cut(3) == vector([0, 3])
    assert made.cut(1) == NOTHING


@pytest.mark.parametrize("values", [[-1], [MAX_NUMBER + 1], [1] * (MAX_SITES + 1)])
def test_a_vector_out_of_bounds_is_a_defect(values: list[int]) -> None:
    with pytest.raises(Bug):
        vector(values)
    with pytest.raises(Bug):
        vector([1, 2]).padded(1)


def test_a_site_stands_in_one_place() -> None:
    with pytest.raises(Bug, match="two places"):
        RosterOrder([SiteKey(bytes(32)), SiteKey(bytes(32))])
    with pytest.raises(Bug, match="no place"):
        ORDER.place(SiteKey(bytes(32)))
