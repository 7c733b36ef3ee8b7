"""The network itself, driven by a machine simple enough to predict."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest

from kmel_p2p.agreement.errors import Bug, RemoteError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Dial, Effect, LinkDown, LinkUp, Message, Send, SendFailed
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros
from tests.testbed.network.carrier import ObjectCarrier
from tests.testbed.network.connections import TransportModel
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions
from tests.testbed.network.network import Network


@dataclass(frozen=True)
class Note(Message):
    number: int
    size: int = 100


class Clerk:
    """Sends what it is told to, remembers what arrives, ticks once per second."""

    def __init__(self, now: Micros) -> None:
        self.inbox: list[tuple[Micros, int]] = []
        self.ticks: list[Micros] = []
        self.commands: list[Any] = []
        self._next = now + SECOND
        self._effects: deque[Effect] = deque()

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        assert isinstance(message, Note)
        if message.number < 0:
            raise RemoteError("no negative notes")
        self.inbox.append((now, message.number))

    def command(self, cmd: Any, now: Micros) -> None:
        if isinstance(cmd, Send | Dial):
            self._effects.append(cmd)
        else:
            self.commands.append(cmd)

    def advance(self, now: Micros) -> None:
        self.ticks.append(now)
        self._next = now + SECOND

    def deadline(self) -> Micros | None:
        return self._next

    def poll(self) -> Effect | None:
        return self._effects.popleft() if self._effects else None


KEYS = [SiteKey(bytes([i]) * 32) for i in range(3)]


def world(conditions: Conditions | None = None, dialled: bool = False, seed: int = 1) -> tuple[Network, list[Host]]:
    network = Network(
        seed,
        ObjectCarrier(lambda message: message.size if isinstance(message, Note) else 0),
        conditions or Conditions(latency_us=10 * MILLISECOND, jitter_us=0),
        TransportModel(dialled=dialled),
    )
    hosts = [network.add(key, f"host{i}", Clerk, (f"tcp://h{i}:1",)) for i, key in enumerate(KEYS)]
    for host in hosts:
        network.start(host)
    return network, hosts


def clerk(host: Host) -> Clerk:
    assert isinstance(host.machine, Clerk)
    return host.machine


def send(network: Network, source: Host, target: Host, number: int, size: int = 100, lane: Lane = Lane.CONTROL) -> None:
    network.command(source, Send(target.key, Note(number, size), lane))


def numbers(host: Host) -> list[int]:
    return [number for _, number in clerk(host).inbox]


def test_a_message_takes_the_latency_and_timers_fire_on_time():
    network, (a, b, _) = world()
    send(network, a, b, 7)
    network.run_until(3 * SECOND)
    assert clerk(b).inbox == [(10 * MILLISECOND, 7)]
    assert clerk(a).ticks == [SECOND, 2 * SECOND, 3 * SECOND]


def test_order_is_kept_unless_reordering_is_asked_for():
    for reorder, in_order in ((0.0, True), (0.5, False)):
        network, (a, b, _) = world(Conditions(jitter_us=50 * MILLISECOND, reorder=reorder))
        for number in range(100):
            send(network, a, b, number)
        network.run_until(SECOND)
        assert sorted(numbers(b)) == list(range(100))
        assert (numbers(b) == list(range(100))) is in_order


@pytest.mark.parametrize(("loss", "duplicate", "low", "high"), [(0.3, 0.0, 620, 780), (0.0, 0.3, 1220, 1380)])
def test_loss_and_duplicates_come_at_the_given_rates(loss, duplicate, low, high):
    network, (a, b, _) = world(Conditions(loss=loss, duplicate=duplicate))
    for number in range(1000):
        send(network, a, b, number)
    network.run_until(SECOND)
    assert low <= len(clerk(b).inbox) <= high


def test_a_block_is_one_way_and_counts_how_often_it_was_set():
    network, (a, b, _) = world()
    network.block([a], [b])
    network.block([a], [b])
    network.unblock([a], [b])
    send(network, a, b, 1)
    send(network, b, a, 2)
    network.run_until(SECOND)
    network.unblock([a], [b])
    send(network, a, b, 3)
    network.run_until(2 * SECOND)
    assert (numbers(a), numbers(b)) == ([2], [3])


def test_bandwidth_delays_bulk_but_control_overtakes_it():
    network, (a, b, _) = world(Conditions(latency_us=0, jitter_us=0, bits_per_second=8000, lanes_apart=True))
    for number in range(3):
        send(network, a, b, number, size=1000, lane=Lane.BULK)
    send(network, a, b, 9, size=100)
    network.run_until(10 * SECOND)
    arrivals = {number: at for at, number in clerk(b).inbox}
    assert arrivals[0] == SECOND
    assert arrivals[9] == SECOND // 10
    assert arrivals[2] >= 3 * SECOND


def test_a_full_queue_is_reported_as_a_failed_send():
    network, (a, b, _) = world(Conditions(bits_per_second=8000, queue_bytes=2500))
    for number in range(6):
        send(network, a, b, number, size=1000, lane=Lane.BULK)
    network.run_until(10 * SECOND)
    assert len(clerk(b).inbox) == 3
    assert clerk(a).commands == [SendFailed(b.key)] * 3


def test_a_paused_host_gets_its_messages_on_waking_with_or_without_its_clock():
    for stood_still, at in ((False, 50 * SECOND), (True, 0)):
        network, (a, b, _) = world()
        network.pause(b)
        send(network, a, b, 1)
        network.run_until(50 * SECOND)
        assert clerk(b).inbox == []
        network.resume(b, stood_still)
        assert clerk(b).inbox == [(at, 1)]


def test_a_crashed_host_loses_its_machine_and_everything_on_the_way():
    network, (a, b, _) = world()
    send(network, a, b, 1)
    network.crash(b)
    network.run_until(SECOND)
    network.start(b)
    network.run_until(2 * SECOND)
    assert clerk(b).inbox == []
    assert b.starts == 2


def test_a_starved_host_handles_messages_late_but_its_timers_are_on_time():
    network, (a, b, _) = world()
    b.receive_delay_us = (5 * SECOND, 5 * SECOND)
    send(network, a, b, 1)
    network.run_until(6 * SECOND)
    assert clerk(b).inbox == [(5 * SECOND + 10 * MILLISECOND, 1)]
    assert clerk(b).ticks == [n * SECOND for n in range(1, 7)]


def test_a_leaping_clock_fires_timers_at_once():
    network, (a, _, _) = world()
    network.jump_clock(a, 100 * SECOND)
    network.run_until(1)
    assert clerk(a).ticks == [100 * SECOND]


def test_connections_come_by_dialling_and_go_by_crash_block_and_wrong_key():
    network, (a, b, c) = world(dialled=True)
    send(network, a, b, 1)
    network.run_until(1)
    assert clerk(a).commands == [SendFailed(b.key)]
    network.command(a, Dial(b.key, b.addresses))
    network.run_until(SECOND)
    assert LinkUp(b.key) in clerk(a).commands
    assert LinkUp(a.key) in clerk(b).commands
    send(network, b, a, 2)
    network.run_until(2 * SECOND)
    assert numbers(a) == [2]
    network.command(a, Dial(c.key, b.addresses))
    network.run_until(3 * SECOND)
    assert LinkDown(c.key, "wrong key") in clerk(a).commands
    network.block([a], [b])
    network.run_until(30 * SECOND)
    assert LinkDown(a.key, "no heartbeat") in clerk(b).commands
    network.unblock([a], [b])
    network.command(b, Dial(a.key, a.addresses))
    network.run_until(31 * SECOND)
    network.crash(a)
    network.run_until(32 * SECOND)
    assert LinkDown(a.key, "connection reset") in clerk(b).commands


def test_what_a_machine_refuses_is_counted_and_survived():
    network, (a, b, _) = world()
    send(network, a, b, -1)
    send(network, a, b, 1)
    network.run_until(SECOND)
    assert network.counters["refused"] == 1
    assert numbers(b) == [1]


def test_a_machine_that_never_rests_is_a_defect():
    class Restless(Clerk):
        def advance(self, now: Micros) -> None:
            self._next = now

    network = Network(1, ObjectCarrier(lambda message: 0))
    network.start(network.add(KEYS[0], "restless", Restless))
    with pytest.raises(Bug, match="never comes to rest"):
        network.run_until(10 * SECOND)


def test_a_seed_repeats_a_run_exactly_and_another_seed_does_not():
    def trace(seed: int) -> str:
        network, (a, b, c) = world(Conditions(loss=0.2, jitter_us=30 * MILLISECOND), seed=seed)
        for number in range(200):
            send(network, a, b, number)
            send(network, b, c, number)
        network.run_until(SECOND)
        return network.trace.hash

    assert trace(1) == trace(1) != trace(2)
