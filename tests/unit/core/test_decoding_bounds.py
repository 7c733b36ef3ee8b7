"""Hostile bytes cost little: neither the time nor the memory that a message would take to decode in full."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from kmel_p2p.agreement.amendment import MAX_AMENDMENT_BYTES, AmendmentDocument
from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.core.ledger.log.entry import decode, decode_stub
from kmel_p2p.core.ledger.sync.messages import SCHEMAS
from kmel_p2p.core.membership.messages import SCHEMAS as MEMBERSHIP
from kmel_p2p.core.pushsum.messages import SCHEMAS as PUSHSUM
from kmel_p2p.core.wire import PROTOCOL, Wire

WIRE = Wire(bytes(32), (*MEMBERSHIP, *SCHEMAS))
PUSHSUM_WIRE = Wire(bytes(32), PUSHSUM)
BULK = 8 * 1024 * 1024


def nested(width: int, size: int) -> bytes:
    """A tree of lists of `width` items, `size` bytes large; its leaves are empty lists."""
    level = msgpack.packb([])
    while len(level) < size:
        level = b"\xdc" + width.to_bytes(2, "big") + level * width
    return level


def message(type_id: int, fields: int, body: bytes) -> bytes:
    head = b"\xdc" + (3 + fields).to_bytes(2, "big") + bytes([PROTOCOL, 0xC4, 8])
    return head + bytes(8) + msgpack.packb(type_id) + body


def cost(work: Callable[[], Any]) -> tuple[float, int]:
    """Processor seconds and peak bytes of a decoding that must be refused."""
    began = time.thread_time()
    with pytest.raises(WireError):
        work()
    took = time.thread_time() - began
    tracemalloc.start()
    with pytest.raises(WireError):
        work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return took, peak


EVERY_TYPE = [
    (wire, schema.type_id, len(schema.fields))
    for wire, schemas in ((WIRE, (*MEMBERSHIP, *SCHEMAS)), (PUSHSUM_WIRE, PUSHSUM))
    for schema in schemas
]


@pytest.mark.parametrize("width", [3, 60, 4000])
@pytest.mark.parametrize(("wire", "type_id", "fields"), EVERY_TYPE, ids=lambda x: str(x) if type(x) is int else "")
def test_a_large_message_of_small_lists_is_refused_at_once(wire: Wire, type_id: int, fields: int, width: int) -> None:
    data = message(type_id, fields, nested(width, BULK // 4))
    took, peak = cost(lambda: wire.decode(data))
    assert took < 0.05
    assert peak < 3 * len(data) + 200_000


@pytest.mark.parametrize("what", [decode, decode_stub, AmendmentDocument.decode])
@pytest.mark.parametrize("width", [3, 60, 4000])
def test_documents_of_small_lists_are_refused_at_once(what: Callable[[bytes], Any], width: int) -> None:
    data = nested(width, MAX_AMENDMENT_BYTES)
    took, peak = cost(lambda: what(data))
    assert took < 0.1
    assert peak < 16 * 1024 * 1024


def test_a_list_that_claims_more_than_there_is_takes_nothing() -> None:
    for data in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        assert cost(lambda data=data: unpack_bounded(data, 10**9))[1] < 100_000
        assert cost(lambda data=data: WIRE.decode(message(22, 1, data)))[1] < 400_000


@pytest.mark.parametrize("schema", [*MEMBERSHIP, *SCHEMAS, *PUSHSUM], ids=lambda schema: schema.cls.__name__)
def test_every_type_has_a_size_of_its_own(schema: Any) -> None:
    assert 0 < schema.max_bytes <= 256 * 1024 * 1024
    largest = {"Bodies", "Proofs", "Amendments", "MassTransfer", "Statements", "Stubs"}
    assert schema.max_bytes < 2 * 1024 * 1024 or schema.cls.__name__ in largest


def test_a_message_larger_than_its_type_is_refused_before_its_fields_are_read() -> None:
    with pytest.raises(WireError, match="it has at most"):
        WIRE.decode(message(33, 1, b"\x01" + bytes(BULK)))


@pytest.mark.parametrize("place", ["protocol", "type id"])
def test_bytes_where_a_small_number_belongs_are_not_written_out(place: str) -> None:
    large = msgpack.packb(b"\xff" * BULK)
    head, tag = (large, b"\xc4\x08" + bytes(8)) if place == "protocol" else (b"\x01", b"\xc4\x08" + bytes(8) + large)
    data = b"\x94" + head + tag + b"\x01\x01"
    took, peak = cost(lambda: WIRE.decode(data))
    assert took < 0.05
    assert peak < 3 * len(data) + 200_000
