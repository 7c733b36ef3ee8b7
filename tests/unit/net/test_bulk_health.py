"""A path that is dead for large messages alone: told with a reason, shown in status, alarmed, over when it heals."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

import pytest

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import SendFailed
from kmel_p2p.core.types import SECOND, Lane
from kmel_p2p.net import bulk_health
from kmel_p2p.net.bulk_health import TOLD_AFTER, BulkHealth
from kmel_p2p.net.link_events import BulkMoves, BulkStuck
from kmel_p2p.net.outbox import Outbox
from kmel_p2p.net.settings import CHUNK_BYTES, TransportSettings
from kmel_p2p.site.modes.ledger import LedgerMode
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.reporting import Reporter
from tests.support.net_peers import Federation, Proxy, short_settings, until

KEY = SiteKey(b"k" * 32)
LIMITS = TransportSettings()
MIB = 1024 * 1024


def an_outbox() -> Outbox:
    return Outbox(LIMITS, (number.to_bytes(16, "big") for number in itertools.count()), 0)


def sent(outbox: Outbox, now: int) -> bytes:
    """Put a message and hand all of it over."""
    transfer = outbox.put(b"body", "", now)
    assert transfer is not None
    part = outbox.peek()
    assert part is not None
    outbox.commit(part)
    return transfer.id


def test_it_is_told_once_after_a_while_and_once_when_something_gets_through() -> None:
    outbox, health = an_outbox(), BulkHealth(KEY)
    outbox.open(b"session1", 1 << 20, 0)
    message = sent(outbox, 0)
    assert health.look(0, True, outbox, True, "") is None
    assert health.look(TOLD_AFTER - 1, True, outbox, True, "") is None
    stuck = health.look(TOLD_AFTER, True, outbox, True, "reset by peer")
    assert isinstance(stuck, BulkStuck)
    assert "20 s" in stuck.reason
    assert "reset by peer" in stuck.reason
    assert health.look(TOLD_AFTER + SECOND, True, outbox, False, "") is None
    assert "there is no bulk connection" in health.problem
    assert outbox.done(message, TOLD_AFTER + 2 * SECOND) is not None
    assert health.look(TOLD_AFTER + 2 * SECOND, True, outbox, True, "") == BulkMoves(KEY)
    assert health.problem == ""


def test_a_site_that_grants_no_room_is_told_from_a_dead_path() -> None:
    outbox, health = an_outbox(), BulkHealth(KEY)
    outbox.open(b"session1", 1 << 20, 0)
    message = sent(outbox, 0)
    for _ in range(4):
        outbox.put(bytes(CHUNK_BYTES), "", 0)
    while (part := outbox.peek()) is not None:
        outbox.commit(part)
    assert outbox.wants_credit()
    assert outbox.done(message, SECOND) is not None
    assert health.look(0, True, outbox, True, "") is None
    stuck = health.look(SECOND + TOLD_AFTER, True, outbox, True, "")
    assert isinstance(stuck, BulkStuck)
    assert "grants no room" in stuck.reason
    outbox.granted(b"session1", 2 << 20, 2 * TOLD_AFTER)
    assert not outbox.wants_credit()
    assert health.look(2 * TOLD_AFTER, True, outbox, True, "") == BulkMoves(KEY)


def test_messages_that_were_given_up_do_not_end_it() -> None:
    outbox, health = an_outbox(), BulkHealth(KEY)
    health.look(0, True, outbox, False, "")
    outbox.open(b"session1", 1 << 20, 0)
    sent(outbox, 0)
    half = LIMITS.stall_us // 2
    assert outbox.expire(half).renew
    assert outbox.expire(2 * half).failures
    assert isinstance(health.look(2 * half, True, outbox, True, ""), BulkStuck)
    outbox.put(b"next", "", 2 * half + SECOND)
    assert health.look(2 * half + SECOND, True, outbox, True, "") is None
    assert health.problem


def test_an_idle_link_and_one_that_is_down_altogether_are_no_problem() -> None:
    outbox, health = an_outbox(), BulkHealth(KEY)
    assert health.look(0, True, outbox, False, "") is None
    assert health.look(100 * TOLD_AFTER, True, outbox, False, "") is None
    outbox.put(b"body", "", 100 * TOLD_AFTER)
    assert health.look(102 * TOLD_AFTER, False, outbox, False, "") is None
    assert health.look(103 * TOLD_AFTER, True, outbox, False, "") is None
    assert isinstance(health.look(104 * TOLD_AFTER, True, outbox, False, ""), BulkStuck)
    assert health.look(105 * TOLD_AFTER, False, outbox, False, "") == BulkMoves(KEY)


def test_the_operator_gets_an_alarm_while_it_lasts() -> None:
    activity = Activity(lambda: 0.0)
    reporter = Reporter(activity, LedgerMode(), lambda: {KEY: "north"}, lambda document: None)
    reporter.link(BulkStuck(KEY, "nothing large has got through"))
    assert [(alarm.what, alarm.text) for alarm in activity.alarms] == [
        ("bulk north", "site north: nothing large has got through")
    ]
    reporter.link(BulkMoves(KEY))
    assert activity.alarms == ()


async def test_a_path_that_swallows_large_packets_is_told_until_it_heals(
    federation: Federation,
    proxy_before: Callable[[str], Awaitable[Proxy]],
    pattern: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bulk_health, "TOLD_AFTER", SECOND)
    a, b = await federation.add(1), await federation.add(2)
    proxy = await proxy_before(b.address)
    proxy.largest = 8192
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b))
    assert a.transport.send(b.key, pattern(MIB), Lane.BULK)
    stuck = await until(lambda: a.told(BulkStuck))
    assert "though small messages do" in stuck[0].reason
    assert a.outbound(b)
    assert a.link(b).bulk_problem
    proxy.largest = None
    a.transport.send(b.key, pattern(MIB), Lane.BULK)
    await until(lambda: a.told(BulkMoves))
    assert a.link(b).bulk_problem == ""


async def test_a_bulk_connection_that_makes_no_progress_is_dialled_anew_and_its_message_arrives_once(
    federation: Federation, proxy_before: Callable[[str], Awaitable[Proxy]], pattern: Callable[[int], bytes]
) -> None:
    # Nothing but the lack of progress tells that the connection is dead.
    slow = short_settings(heartbeat_us=60 * SECOND, heartbeat_timeout_us=120 * SECOND, stall_us=6 * SECOND)
    a, b = await federation.add(1, settings=slow), await federation.add(2, settings=slow)
    proxy = await proxy_before(b.address)
    a.dial(b, proxy.address)
    await until(lambda: a.outbound(b) and b.up(a))
    assert a.transport.send(b.key, pattern(MIB), Lane.BULK)
    await until(lambda: b.messages)
    proxy.worn = before = proxy.connections
    assert a.transport.send(b.key, pattern(2 * MIB), Lane.BULK)
    await until(lambda: len(b.messages) == 2)
    assert [bytes(data) for _, data, _ in b.messages] == [pattern(MIB), pattern(2 * MIB)]
    assert proxy.connections > before
    assert not a.told(SendFailed)
