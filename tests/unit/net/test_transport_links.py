"""Transports in one loop: what arrives, over which connection, and how links end (T07, T10, T12 to T16)."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import time

import psutil
import pytest

from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.core.effects import LinkDown, LinkUp, SendFailed
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane
from kmel_p2p.net import dialler
from kmel_p2p.net.link_events import DialFailed, Egress, LinkFault, LinkPhase, PeerMisbehaved
from kmel_p2p.net.settings import CHUNK_BYTES, CONTROL_BYTES_MAX
from kmel_p2p.net.sockets import READABLE, readiness
from tests.support.net_peers import Federation, monotonic, short_settings, until

MIB = 1024 * 1024


async def test_control_messages_arrive_with_the_authenticated_key(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    b.dial(a)
    await until(lambda: a.outbound(b) and b.outbound(a))
    assert a.transport.send(b.key, b"one", Lane.CONTROL)
    assert b.transport.send(a.key, b"two", Lane.CONTROL)
    await until(lambda: a.messages and b.messages)
    assert b.messages == [(a.key, b"one", Lane.CONTROL)]
    assert a.messages == [(b.key, b"two", Lane.CONTROL)]
    assert a.told(LinkUp) == [LinkUp(b.key)]


async def test_bulk_messages_of_every_size_arrive_whole_and_in_order(federation: Federation, pattern) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    sizes = [1, 1000, CHUNK_BYTES, CHUNK_BYTES + 1, 5_000_000, 7]
    for size in sizes:
        assert a.transport.send(b.key, pattern(size), Lane.BULK)
    await until(lambda: len(b.messages) == len(sizes))
    assert [data for _, data, _ in b.messages] == [pattern(size) for size in sizes]
    assert {lane for _, _, lane in b.messages} == {Lane.BULK}
    await until(lambda: a.link(b).queue_bytes == 0)


async def test_a_site_that_only_dials_is_answered_over_its_own_connections(federation: Federation, pattern) -> None:
    a = await federation.add(1)
    inner = await federation.add(2, bind="")
    assert inner.address == ""
    inner.dial(a)
    await until(lambda: a.up(inner) and inner.outbound(a))
    assert not a.link(inner).outbound
    assert a.transport.send(inner.key, b"control", Lane.CONTROL)
    assert a.transport.send(inner.key, pattern(6 * MIB), Lane.BULK)
    assert inner.transport.send(a.key, pattern(3 * MIB), Lane.BULK)
    await until(lambda: len(inner.messages) == 2 and len(a.messages) == 1)
    assert sorted(inner.messages, key=lambda m: len(m[1])) == [
        (a.key, b"control", Lane.CONTROL),
        (a.key, pattern(6 * MIB), Lane.BULK),
    ]
    assert a.messages == [(inner.key, pattern(3 * MIB), Lane.BULK)]


async def test_a_site_that_only_dials_is_known_to_be_gone_when_it_goes(federation: Federation) -> None:
    a = await federation.add(1, settings=short_settings(silence_us=30 * SECOND))
    inner = await federation.add(2, bind="")
    inner.dial(a)
    await until(lambda: a.up(inner))
    await inner.transport.close()
    down = await until(lambda: a.told(LinkDown), within=20)
    assert down[0].key == inner.key
    assert not a.transport.send(inner.key, b"anybody?", Lane.CONTROL)


async def test_nothing_can_be_sent_to_a_site_without_a_link(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    assert not a.transport.send(b.key, b"x", Lane.CONTROL)
    a.transport.dial(b.key, ("tcp://127.0.0.1:1",))
    assert not a.transport.send(b.key, b"x", Lane.CONTROL)
    assert not a.transport.send(b.key, b"x", Lane.BULK)
    assert a.link(b).traffic.refused_sends == {Lane.CONTROL: 1, Lane.BULK: 1}


async def test_messages_must_be_immutable_and_within_their_lane(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    for data, lane, complaint in [
        (bytearray(b"x"), Lane.BULK, "must be bytes"),
        (memoryview(b"x"), Lane.CONTROL, "must be bytes"),
        (b"", Lane.BULK, "1 to"),
        (bytes(CONTROL_BYTES_MAX + 1), Lane.CONTROL, "control message has 1 to 65536 bytes, not 65537"),
        (bytes(8 * MIB + 1), Lane.BULK, "bulk message has"),
    ]:
        with pytest.raises(LocalError, match=complaint):
            a.transport.send(b.key, data, lane)  # type: ignore[arg-type]


async def test_a_received_bulk_message_cannot_be_written_to(federation: Federation, pattern) -> None:
    views: list[memoryview] = []
    a = await federation.add(1)
    b = await federation.add(2, on_message=lambda sender, data, lane: views.append(memoryview(data)))
    a.dial(b)
    await until(lambda: a.outbound(b))
    for size in (100, MIB):
        a.transport.send(b.key, pattern(size), Lane.BULK)
    await until(lambda: len(views) == 2)
    assert all(view.readonly for view in views)
    assert [bytes(view) for view in views] == [pattern(100), pattern(MIB)]


async def test_the_largest_control_message_passes(federation: Federation, pattern) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    assert a.transport.send(b.key, pattern(CONTROL_BYTES_MAX), Lane.CONTROL)
    await until(lambda: b.messages)
    assert b.messages[0][1] == pattern(CONTROL_BYTES_MAX)


async def test_a_receiver_with_a_smaller_limit_refuses_and_the_sender_is_told(federation: Federation) -> None:
    a = await federation.add(1)
    b = await federation.add(2, settings=short_settings(max_message=MIB))
    a.dial(b)
    await until(lambda: a.outbound(b))
    assert a.transport.send(b.key, bytes(2 * MIB), Lane.BULK, label="entry")
    assert a.transport.send(b.key, b"fits", Lane.BULK)
    failed = await until(lambda: a.told(SendFailed))
    assert failed[0].key == b.key
    assert failed[0].label == "entry"
    await until(lambda: b.messages)
    assert [data for _, data, _ in b.messages] == [b"fits"]


async def test_bytes_are_counted_exactly_on_both_sides(federation: Federation, pattern) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    a.transport.send(b.key, pattern(3 * MIB), Lane.BULK)
    a.transport.send(b.key, pattern(1000), Lane.CONTROL)
    await until(lambda: len(b.messages) == 2 and a.link(b).queue_bytes == 0)
    sent, got = a.link(b).traffic, b.link(a).traffic
    assert sent.bytes_out[Lane.BULK] == 3 * MIB + 12 * 41  # twelve chunks, each with its header
    assert got.bytes_in[Lane.BULK] == sent.bytes_out[Lane.BULK]
    await until(lambda: a.link(b).traffic.bytes_out[Lane.CONTROL] == b.link(a).traffic.bytes_in[Lane.CONTROL])
    await until(lambda: b.link(a).traffic.bytes_out == a.link(b).traffic.bytes_in)
    assert sent.messages_out == {Lane.CONTROL: 1, Lane.BULK: 1}
    assert got.messages_in == {Lane.CONTROL: 1, Lane.BULK: 1}


async def test_each_message_is_on_record_before_it_leaves(federation: Federation, pattern) -> None:
    a, b = await federation.add(1, audited=True), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    large, small = pattern(3 * MIB), pattern(100)
    a.transport.send(b.key, large, Lane.BULK, label="entry")
    a.transport.send(b.key, small, Lane.CONTROL, label="ping")
    a.transport.send(b.key, small, Lane.BULK, label="other", digest=b"d" * 32)
    await until(lambda: len(b.messages) == 3)
    assert sorted(a.audit, key=lambda e: e.label) == [
        Egress(b.key, Lane.BULK, "entry", 3 * MIB, digest(large)),
        Egress(b.key, Lane.BULK, "other", 100, b"d" * 32),
        Egress(b.key, Lane.CONTROL, "ping", 100, digest(small)),
    ]


async def test_what_cannot_be_recorded_does_not_leave(federation: Federation, pattern) -> None:
    full, asked = True, []

    def audit(record: Egress) -> bool:
        asked.append(record)
        return not full

    a, b = await federation.add(1, on_egress=audit), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    assert not a.transport.send(b.key, b"x", Lane.CONTROL)
    a.transport.send(b.key, pattern(100), Lane.BULK)
    await until(lambda: len(asked) >= 4)
    assert a.link(b).traffic.messages_out[Lane.CONTROL] == 0
    assert (b.messages, a.transport.faults) == ([], 0)
    full = False
    await until(lambda: b.messages)
    assert asked[-1] == Egress(b.key, Lane.BULK, "", 100, digest(pattern(100)))


async def test_an_audit_that_fails_stops_the_message(federation: Federation, pattern) -> None:
    def audit(record: Egress) -> bool:
        raise OSError(5, "Input/output error")

    a, b = await federation.add(1, on_egress=audit), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    assert not a.transport.send(b.key, b"x", Lane.CONTROL)
    a.transport.send(b.key, pattern(100), Lane.BULK)
    await until(lambda: a.transport.faults >= 3)
    assert b.messages == []


async def test_an_audit_record_is_made_once_however_often_a_transfer_breaks(
    federation: Federation, proxy_before, pattern
) -> None:
    a, b = await federation.add(1, audited=True), await federation.add(2)
    proxy = await proxy_before(b.address)
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    proxy.cut_after = proxy.forwarded + 2 * MIB
    a.transport.send(b.key, pattern(7 * MIB), Lane.BULK)
    await until(lambda: b.messages)
    assert b.messages == [(a.key, pattern(7 * MIB), Lane.BULK)]
    assert len(a.audit) == 1


async def test_a_callback_that_raises_does_not_make_the_peer_deaf(federation: Federation) -> None:
    got: list[bytes] = []

    def on_message(sender, data, lane) -> None:
        got.append(bytes(data))
        raise RuntimeError("a defect in the layer above")

    a = await federation.add(1)
    b = await federation.add(2, on_message=on_message)
    a.dial(b)
    await until(lambda: a.outbound(b))
    for number in range(3):
        a.transport.send(b.key, b"%d" % number, Lane.CONTROL)
    await until(lambda: len(got) == 3)
    assert [fault.where for fault in b.told(LinkFault)] == ["on_message"]
    assert b.transport.faults == 3


async def test_a_flood_neither_starves_the_loop_nor_loses_what_was_taken(federation: Federation) -> None:
    patient = short_settings(heartbeat_us=5 * SECOND, heartbeat_timeout_us=60 * SECOND, silence_us=60 * SECOND)
    a, b = await federation.add(1, settings=patient), await federation.add(2, settings=patient)
    a.dial(b)
    await until(lambda: a.outbound(b))
    worst = 0.0
    running = True

    async def watch() -> None:
        nonlocal worst
        while running:  # processor time, because a busy machine must not fail this test
            turn_began = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - turn_began)

    gc.collect()
    gc.disable()  # its pauses depend on what all other tests left behind
    watcher = asyncio.create_task(watch())
    taken: list[bytes] = []
    while len(taken) < 10_000:
        message = b"%d" % len(taken)
        if a.transport.send(b.key, message, Lane.CONTROL):
            taken.append(message)
        if len(taken) % 64 == 0 or taken[-1:] != [message]:
            await asyncio.sleep(0)
    try:
        await until(lambda: len(b.messages) == len(taken))
    finally:
        running = False
        await watcher
        gc.enable()
    assert a.told(LinkDown) == []
    assert [data for _, data, _ in b.messages] == taken
    assert worst <= 0.050


async def test_control_does_not_wait_behind_bulk(federation: Federation) -> None:
    limits = short_settings(max_message=64 * MIB, reassembly=64 * MIB, queue=128 * MIB)
    a, b = await federation.add(1, settings=limits), await federation.add(2, settings=limits)
    a.dial(b)
    await until(lambda: a.outbound(b))
    assert a.transport.send(b.key, bytes(48 * MIB), Lane.BULK)
    await until(lambda: a.link(b).traffic.bytes_out[Lane.BULK] > MIB)
    for _ in range(20):
        assert a.transport.send(b.key, b"ping", Lane.CONTROL)
        await asyncio.sleep(0)
    await until(lambda: len(b.messages) >= 20)
    assert [lane for _, _, lane in b.messages[:20]] == [Lane.CONTROL] * 20


async def test_a_reset_in_mid_transfer_resumes_and_delivers_once(federation: Federation, proxy_before, pattern) -> None:
    a, b = await federation.add(1), await federation.add(2)
    proxy = await proxy_before(b.address)
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    for megabytes in (3, 5):
        proxy.cut_after = proxy.forwarded + megabytes * MIB
        a.transport.send(b.key, pattern(8 * MIB - megabytes), Lane.BULK)
        await until(lambda: proxy.cut_after is None)
        await until(lambda: a.link(b).queue_bytes == 0)
    assert [data for _, data, _ in b.messages] == [pattern(8 * MIB - 3), pattern(8 * MIB - 5)]
    assert a.link(b).traffic.bytes_out[Lane.BULK] < 16 * MIB + 2 * (4 + 2) * CHUNK_BYTES  # a window each, not a message


async def test_a_slow_path_only_delays(federation: Federation, proxy_before, pattern) -> None:
    a, b = await federation.add(1), await federation.add(2)
    proxy = await proxy_before(b.address)
    proxy.delay_s = 0.02
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    a.transport.send(b.key, pattern(MIB), Lane.BULK)
    await until(lambda: b.messages)
    assert b.messages[0][1] == pattern(MIB)
    round_trip_us = await until(lambda: a.link(b).round_trip_us)
    assert round_trip_us >= 40 * MILLISECOND


async def test_a_black_hole_is_found_by_heartbeats_and_left_again(federation: Federation, proxy_before) -> None:
    a, b = await federation.add(1), await federation.add(2)
    proxy = await proxy_before(b.address)
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    proxy.black_hole = True
    down = await until(lambda: a.told(LinkDown))
    assert "no heartbeat" in down[0].reason
    await until(lambda: a.told(DialFailed))
    proxy.black_hole = False
    await until(lambda: a.outbound(b))


async def test_a_half_closed_connection_ends_the_link_and_is_replaced(federation: Federation, proxy_before) -> None:
    a, b = await federation.add(1), await federation.add(2)
    proxy = await proxy_before(b.address)
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    proxy.half_close()
    await until(lambda: a.told(LinkDown))
    await until(lambda: a.outbound(b))
    assert proxy.connections == 2


async def test_a_peer_that_returns_on_its_port_is_found_again(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    await b.transport.close()
    await until(lambda: a.told(DialFailed))
    assert "nobody listens" in a.link(b).last_error
    again = await federation.add(2, bind=b.address)
    await until(lambda: a.outbound(again))
    a.transport.send(again.key, b"back?", Lane.CONTROL)
    await until(lambda: again.messages)


async def test_hearing_from_a_site_ends_the_pause_before_dialling_it(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = iter([3600 * SECOND])  # the first one; a busy machine may need a further try
    monkeypatch.setattr(dialler, "pause", lambda *given: next(pauses, 50 * MILLISECOND))
    a = await federation.add(1, settings=short_settings())
    b = await federation.add(2, start=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    a.transport.dial(b.key, (f"127.0.0.1:{port}",))
    await until(lambda: a.told(DialFailed))
    # Who has only just failed is not tried again at once.
    tried_again_us = monotonic() + short_settings().backoff_first_us
    await until(lambda: monotonic() > tried_again_us)
    b.transport._bind = f"tcp://127.0.0.1:{port}"
    b.address = await b.transport.start()
    b.dial(a)
    await until(lambda: a.outbound(b))


async def test_the_next_address_is_tried_when_one_fails(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.transport.dial(b.key, ("tcp://127.0.0.1:1", "no-such-host.invalid:7", b.address))
    await until(lambda: a.outbound(b))
    assert [event.address for event in a.told(DialFailed)] == ["tcp://127.0.0.1:1", "no-such-host.invalid:7"]
    assert "does not resolve" in a.told(DialFailed)[1].reason


async def test_names_are_resolved(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b, b.address.replace("127.0.0.1", "localhost"))
    await until(lambda: a.outbound(b))


async def test_dialling_again_keeps_a_living_connection_and_its_successor_uses_the_new_address(
    federation: Federation, proxy_before
) -> None:
    a, b = await federation.add(1), await federation.add(2)
    proxy, later = await proxy_before(b.address), await proxy_before(b.address)
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    a.dial(b, later.address)
    assert a.outbound(b)
    assert a.link(b).address == proxy.address
    proxy.reset()
    await until(lambda: a.outbound(b) and a.link(b).address == later.address)
    assert proxy.connections == 1


async def test_a_wish_to_dial_before_the_start_is_kept(federation: Federation) -> None:
    b = await federation.add(2)
    a = await federation.add(1, start=False)
    a.dial(b)
    assert not a.transport.send(b.key, b"too early", Lane.CONTROL)
    await a.transport.start()
    await until(lambda: a.outbound(b))
    await a.transport.close()
    a.dial(b)
    assert a.transport.links() == {}


async def test_hanging_up_ends_dialling(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    a.transport.hangup(b.key, "left")
    assert a.told(LinkDown)[0].reason == "left"
    assert a.link(b).phase is LinkPhase.IDLE
    await until(lambda: not b.up(a))


async def test_hanging_up_ends_the_sites_own_connection_and_what_came_over_it(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    b.dial(a)
    await until(lambda: a.up(b) and b.outbound(a))
    for number in range(3):
        assert b.transport.send(a.key, b"old %d" % number, Lane.CONTROL)
    port = a.transport._port
    assert port is not None
    deadline = time.monotonic() + 60
    # Without a turn of the loop: they lie in ZeroMQ's queue, as behind a process that stood still.
    while not readiness(port._socket) & READABLE and time.monotonic() < deadline:
        pass
    a.transport.hangup(b.key, "stood still")
    assert a.told(LinkDown)[0].reason == "stood still"
    # The site that was greeted is up before the one that greets: its welcome is still under way.
    await until(lambda: len(a.told(LinkUp)) == 2 and b.outbound(a))
    assert b.transport.send(a.key, b"new", Lane.CONTROL)
    await until(lambda: a.messages)
    assert [data for _, data, _ in a.messages] == [b"new"]


async def test_dialling_somebody_outside_the_roster_or_ourselves_is_our_mistake(federation: Federation) -> None:
    a = await federation.add(1)
    outsider = federation.member(7)
    federation.roster.discard(outsider.key)
    with pytest.raises(LocalError, match="not in the roster"):
        a.transport.dial(outsider.key, ("h:1",))
    with pytest.raises(LocalError, match="not in the roster"):
        a.transport.dial(a.key, ("h:1",))


async def test_a_malformed_address_from_afar_fails_like_any_other(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.transport.dial(b.key, ("ipc:///etc/passwd", b.address))
    await until(lambda: a.outbound(b))
    assert "cannot dial" in a.told(DialFailed)[0].reason


async def test_a_port_in_use_is_named_with_the_remedy_and_nothing_is_left_open(federation: Federation) -> None:
    a = await federation.add(1)
    port = a.address.rpartition(":")[2]
    b = await federation.add(2, bind=a.address, start=False)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=f"port {port} is in use by another program"):
        await b.transport.start()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.parametrize(
    ("bind", "complaint"),
    [("tcp://192.0.2.1:0", "no such address"), ("nonsense", "no port"), ("tcp://127.0.0.1:99999", "port 99999")],
)
async def test_an_address_that_cannot_be_bound_says_why(federation: Federation, bind: str, complaint: str) -> None:
    peer = await federation.add(1, bind=bind, start=False)
    with pytest.raises(ConfigError, match=complaint):
        await peer.transport.start()


@pytest.mark.parametrize(
    ("bind", "dialled"), [("tcp://[::1]:0", "[::1]"), ("tcp://[::]:0", "127.0.0.1"), ("tcp://*:0", "[::1]")]
)
async def test_ipv6_alone_and_both_families_on_one_port(federation: Federation, bind: str, dialled: str) -> None:
    a, b = await federation.add(1), await federation.add(2, bind=bind)
    port = b.address.rpartition(":")[2]
    assert port != "0"
    a.dial(b, f"tcp://{dialled}:{port}")
    await until(lambda: a.outbound(b))


async def test_closing_waits_neither_for_unsent_data_nor_for_a_dead_peer(
    federation: Federation, proxy_before, pattern
) -> None:
    a, b = await federation.add(1), await federation.add(2)
    proxy = await proxy_before(b.address)
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    proxy.black_hole = True
    for _ in range(5):
        a.transport.send(b.key, pattern(4 * MIB), Lane.BULK)
        a.transport.send(b.key, b"left", Lane.CONTROL)
    start = time.monotonic()
    await a.transport.close(linger_ms=1000)
    assert time.monotonic() - start < 60.0  # a linger that has an end, and what a busy machine adds
    assert not a.transport.send(b.key, b"x", Lane.CONTROL)


async def test_a_farewell_sent_right_before_closing_arrives(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    assert a.transport.send(b.key, b"left", Lane.CONTROL)
    await a.transport.close(linger_ms=500)
    await until(lambda: b.messages)


async def test_opening_and_closing_leaves_no_descriptor_and_no_task(federation: Federation) -> None:
    a, b = await federation.add(1), await federation.add(2)

    async def cycle(times: int) -> None:
        for _ in range(times):
            a.dial(b)
            await until(lambda: a.outbound(b))
            a.transport.hangup(b.key, "again")
            await until(lambda: a.told(LinkDown))
            a.events.clear()

    process = psutil.Process()
    await cycle(20)
    await until(lambda: not b.up(a))
    gc.collect()
    descriptors, memory, tasks = process.num_fds(), process.memory_info().rss, len(asyncio.all_tasks())
    await cycle(200)
    await until(lambda: not b.up(a))
    assert len(asyncio.all_tasks()) == tasks
    await until(lambda: process.num_fds() <= descriptors + 4)
    assert process.memory_info().rss - memory < 4 * MIB
    assert b.told(PeerMisbehaved) == []


async def test_an_idle_bulk_connection_is_closed_and_opened_again_when_needed(federation: Federation) -> None:
    a = await federation.add(1, settings=short_settings(bulk_idle_us=200 * MILLISECOND))
    b = await federation.add(2)
    a.dial(b)
    await until(lambda: a.outbound(b))
    for number in range(2):
        a.transport.send(b.key, b"%d" % number, Lane.BULK)
        await until(lambda: len(b.messages) == number + 1)  # noqa: B023
        await until(lambda: a.transport._links[b.key].routes.bulk.connection is None)
    assert a.told(LinkDown) == []


async def test_six_sites_exchange_bulk_all_with_all(federation: Federation) -> None:
    peers = [await federation.add(number) for number in range(1, 7)]
    for one in peers:
        for other in peers:
            if one is not other:
                one.dial(other)
    await until(lambda: all(one.outbound(other) for one in peers for other in peers if one is not other))
    body = {peer.key: random.Random(peer.key).randbytes(600_000) for peer in peers}
    for one in peers:
        for other in peers:
            if one is not other:
                assert one.transport.send(other.key, body[one.key], Lane.BULK)
    await until(lambda: all(len(peer.messages) == 5 for peer in peers))
    for peer in peers:
        assert {sender: data for sender, data, _ in peer.messages} == {
            key: data for key, data in body.items() if key != peer.key
        }
        assert peer.told(LinkFault) == []


async def test_a_transport_starts_once(federation: Federation) -> None:
    a = await federation.add(1)
    with pytest.raises(LocalError, match="started before"):
        await a.transport.start()
    await a.transport.close()
    await a.transport.close()
