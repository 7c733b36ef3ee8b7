"""Large messages are decoded beside the event loop, in the order of each site, within a budget."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ProtocolError, RemoteError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Message
from kmel_p2p.core.ledger.sync.messages import SCHEMAS, Bodies
from kmel_p2p.core.types import Lane
from kmel_p2p.core.wire import CHARTER_TAG_BYTES, PROTOCOL, Wire
from kmel_p2p.net.decoding import INLINE_BYTES, WAITING_BYTES, Data, Decoding
from tests.support.net_peers import until

A, B = SiteKey(b"a" * 32), SiteKey(b"b" * 32)
LARGE = INLINE_BYTES + 1


class Bench:
    """A decoding whose decoder waits at a gate and tells its thread; a message is its bytes."""

    def __init__(self, decode: Callable[[Data], Message] | None = None) -> None:
        self.got: list[tuple[SiteKey, bytes]] = []
        self.refused: list[tuple[SiteKey, RemoteError]] = []
        self.faults: list[tuple[str, BaseException]] = []
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.decoding = Decoding(
            decode or self._decode,
            lambda sender, message: self.got.append((sender, message)),  # type: ignore[arg-type]
            lambda sender, error: self.refused.append((sender, error)),
            lambda where, error: self.faults.append((where, error)),
        )

    def _decode(self, data: Data) -> Message:
        self.threads.append(threading.get_ident())
        if len(data) > INLINE_BYTES:
            self.gate.wait(10)
        if data[:1] == b"?":
            raise WireError("no")
        if data[:1] == b"!":
            raise MemoryError("a defect")
        return bytes(data)  # type: ignore[return-value]


def large(first: bytes, size: int = LARGE) -> bytes:
    return first.ljust(size, b".")


async def test_only_large_bulk_messages_leave_the_loop() -> None:
    bench, here = Bench(), threading.get_ident()
    bench.decoding.take(A, b"small", Lane.BULK)
    bench.decoding.take(A, large(b"control"), Lane.CONTROL)
    assert [len(data) for _, data in bench.got] == [5, LARGE]
    assert set(bench.threads) == {here}
    bench.decoding.take(A, memoryview(large(b"bulk")), Lane.BULK)
    await until(lambda: len(bench.got) == 3)
    assert bench.threads[-1] != here
    bench.decoding.close()


async def test_a_large_message_holds_up_its_site_alone_and_no_control_message() -> None:
    bench = Bench()
    bench.gate.clear()
    bench.decoding.take(A, large(b"1"), Lane.BULK)
    bench.decoding.take(A, b"2", Lane.BULK)
    bench.decoding.take(A, b"ping", Lane.CONTROL)
    bench.decoding.take(B, b"3", Lane.BULK)
    assert [data for _, data in bench.got] == [b"ping", b"3"]
    bench.gate.set()
    await until(lambda: len(bench.got) == 4)
    assert [data[:1] for sender, data in bench.got if sender == A] == [b"p", b"1", b"2"]
    bench.decoding.close()


async def test_sites_take_turns() -> None:
    bench = Bench()
    bench.gate.clear()
    for number in b"1234":
        bench.decoding.take(A, large(bytes([number])), Lane.BULK)
    bench.decoding.take(B, large(b"b"), Lane.BULK)
    bench.gate.set()
    await until(lambda: len(bench.got) == 5)
    assert [data[:1] for _, data in bench.got] == [b"1", b"b", b"2", b"3", b"4"]
    bench.decoding.close()


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.booleans()), max_size=30))
@settings(deadline=None, max_examples=30)
def test_the_order_of_each_site_is_kept(sent: list[tuple[SiteKey, bool]]) -> None:
    async def run() -> None:
        bench = Bench()
        whole = [(site, number.to_bytes(2, "big").ljust(LARGE if is_large else 3, b".")) for number, (site, is_large) in
                 enumerate(sent)]  # fmt: skip
        for site, data in whole:
            bench.decoding.take(site, data, Lane.BULK)
        await until(lambda: len(bench.got) == len(whole))
        for site in (A, B):
            assert [got for got in bench.got if got[0] == site] == [own for own in whole if own[0] == site]
        bench.decoding.close()

    asyncio.run(run())


async def test_what_waits_of_one_site_is_bounded() -> None:
    bench = Bench()
    bench.gate.clear()
    half = WAITING_BYTES // 2
    bench.decoding.take(A, large(b"1", 2 * WAITING_BYTES), Lane.BULK)  # one may be larger
    bench.decoding.take(A, large(b"2", half), Lane.BULK)
    for number in b"345":
        bench.decoding.take(B, large(bytes([number]), half), Lane.BULK)
    assert [(site, type(error)) for site, error in bench.refused] == [(A, ProtocolError), (B, ProtocolError)]
    bench.gate.set()
    await until(lambda: len(bench.got) == 3)
    bench.decoding.take(B, large(b"6", half), Lane.BULK)
    await until(lambda: len(bench.got) == 4)
    assert sorted(data[:1] for _, data in bench.got) == [b"1", b"3", b"4", b"6"]
    bench.decoding.close()


async def test_what_does_not_decode_is_refused_and_a_defect_is_told() -> None:
    bench = Bench()
    for first in (b"?", b"!", b"ok"):
        bench.decoding.take(A, large(first), Lane.BULK)
    await until(lambda: bench.got)
    assert [(site, str(error)) for site, error in bench.refused] == [(A, "no")]
    assert [(where, type(error)) for where, error in bench.faults] == [("decode", MemoryError)]
    bench.decoding.close()


async def test_nothing_comes_after_the_end() -> None:
    bench = Bench()
    bench.gate.clear()
    bench.decoding.take(A, large(b"1"), Lane.BULK)
    bench.decoding.take(A, large(b"2"), Lane.BULK)
    await until(lambda: bench.threads)
    bench.decoding.close()
    bench.gate.set()
    await until(lambda: all(not thread.name.startswith("decode") for thread in threading.enumerate()))
    await asyncio.sleep(0)
    assert bench.got == bench.refused == bench.faults == []


@pytest.mark.parametrize("hostile", [False, True])
async def test_eight_megabytes_cost_the_loop_next_to_nothing(hostile: bool) -> None:
    """Processor time of the loop's own thread: nothing of the decoding is in it, however loaded the machine is."""
    wire = Wire(bytes(32), SCHEMAS)
    size = 8 * 1024 * 1024
    if hostile:  # a list of as many empty lists as there are bytes
        head = b"\x94" + msgpack.packb(PROTOCOL) + msgpack.packb(bytes(CHARTER_TAG_BYTES)) + msgpack.packb(22)
        data = head + b"\xdd" + size.to_bytes(4, "big") + b"\x90" * size
    else:
        data = wire.encode(Bodies(tuple(bytes([number]) * (size // 64) for number in range(64))))
    bench = Bench(wire.decode)
    began = time.thread_time()
    bench.decoding.take(A, data, Lane.BULK)
    await until(lambda: bench.got or bench.refused)
    assert time.thread_time() - began < 0.1
    assert bool(bench.refused) is hostile
    bench.decoding.close()
