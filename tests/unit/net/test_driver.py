"""The driver with a machine that does what a script says, over a recording transport and over real ones."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from kmel_p2p.agreement.errors import LocalError, ProtocolError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import (
    Compute,
    Computed,
    Dial,
    Effect,
    Emit,
    Event,
    Hangup,
    LinkDown,
    LinkUp,
    LoopLag,
    Message,
    Persist,
    Persisted,
    Record,
    Send,
    SendFailed,
    StoodStill,
)
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros
from kmel_p2p.core.wire import Schema, Wire, blob, uint
from kmel_p2p.net.driver import BadMessage, Driver
from kmel_p2p.net.link_events import DialFailed
from tests.support.net_peers import Federation, monotonic, until
from tests.support.recording_transport import RecordingTransport


@dataclass(frozen=True, slots=True)
class Note(Message):
    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Told(Event):
    text: str


@dataclass(frozen=True, slots=True)
class Kept(Record):
    number: int


WIRE = Wire(bytes(32), [Schema(1, Note, {"number": uint(), "body": blob(8 * 1024 * 1024)})])
OTHER = SiteKey(bytes([9]) * 32)


class Scripted:
    """A machine that logs its inputs and answers each by the effects a function returns for it."""

    def __init__(self, answer: Callable[[str, Any], list[Effect]] = lambda kind, what: []) -> None:
        self.inputs: list[tuple[str, Any]] = []
        self.answer = answer
        self.effects: deque[Effect] = deque()
        self.wake: Micros | None = None

    def _take(self, kind: str, what: Any) -> None:
        self.inputs.append((kind, what))
        self.effects.extend(self.answer(kind, what))

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        self._take("receive", (sender, message))

    def command(self, cmd: Any, now: Micros) -> None:
        self._take("command", cmd)

    def advance(self, now: Micros) -> None:
        if self.wake is not None and now >= self.wake:
            self.wake = None
            self._take("advance", now)

    def deadline(self) -> Micros | None:
        return self.wake

    def poll(self) -> Effect | None:
        return self.effects.popleft() if self.effects else None


class Bench:
    """A driver on a scripted machine and a recording transport."""

    def __init__(self, answer: Callable[[str, Any], list[Effect]] = lambda kind, what: []) -> None:
        self.machine = Scripted(answer)
        self.transport = RecordingTransport()
        self.events: list[Event] = []
        self.stored: list[Record] = []
        self.faults: list[tuple[str, BaseException]] = []
        self.bad: list[BadMessage] = []
        self.store_gate = asyncio.Event()
        self.store_gate.set()
        self.fail_store: Exception | None = None
        self.driver = Driver(
            self.machine,
            WIRE,
            clock=monotonic,
            on_emit=self.events.append,
            store=self.store,
            on_fault=lambda where, error: self.faults.append((where, error)),
            on_bad_message=self.bad.append,
        )

    async def store(self, record: Record) -> None:
        await self.store_gate.wait()
        if self.fail_store is not None:
            raise self.fail_store
        self.stored.append(record)

    def start(self) -> None:
        self.driver.start(self.transport)  # type: ignore[arg-type]

    def commands(self) -> list[Any]:
        return [what for kind, what in self.machine.inputs if kind == "command"]


@pytest.fixture
async def bench():
    made: list[Bench] = []

    def make(answer: Callable[[str, Any], list[Effect]] = lambda kind, what: []) -> Bench:
        made.append(Bench(answer))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        await one.driver.stop(flush=False)


async def test_effects_are_executed_in_the_order_they_are_polled(bench) -> None:
    note = Note(1, b"x")
    effects = [
        Dial(OTHER, ("h:1",)),
        Send(OTHER, note),
        Emit(Told("a")),
        Send(OTHER, note, Lane.BULK),
        Hangup(OTHER, "bye"),
    ]
    b = bench(lambda kind, what: effects)
    b.driver.command("go")
    encoded = WIRE.encode(note)
    assert b.transport.calls == [
        ("dial", OTHER, ("h:1",)),
        ("send", OTHER, encoded, Lane.CONTROL, "Note"),
        ("send", OTHER, encoded, Lane.BULK, "Note"),
        ("hangup", OTHER, "bye"),
    ]
    assert b.events == [Told("a")]


async def test_one_message_to_many_sites_is_encoded_once(bench) -> None:
    note = Note(1, b"x" * 1000)
    b = bench(lambda kind, what: [Send(SiteKey(bytes([n]) * 32), note, Lane.BULK) for n in range(5)])
    b.driver.command("go")
    assert len({id(call[2]) for call in b.transport.calls}) == 1


async def test_a_store_with_a_ticket_holds_up_nothing_and_is_answered_when_durable(bench) -> None:
    def answer(kind: str, what: Any) -> list[Effect]:
        if what == "go":
            return [Persist(Kept(1), 7), Emit(Told("at once")), Persist(Kept(2)), Persist(Kept(3), 8)]
        return [Emit(Told(f"{what}"))]

    b = bench(answer)
    b.store_gate.clear()
    b.driver.command("go")
    assert b.events == [Told("at once")]
    await asyncio.sleep(0)
    assert b.stored == []
    b.store_gate.set()
    await until(lambda: Persisted(8) in b.commands())
    assert b.stored == [Kept(1), Kept(2), Kept(3)]
    assert b.commands() == ["go", Persisted(7), Persisted(8)]


async def test_heavy_work_runs_elsewhere_one_at_a_time_and_is_answered(bench) -> None:
    loop_thread = threading.get_ident()
    order: list[tuple[int, bool]] = []

    def work(number: int) -> Callable[[], bytes]:
        def run() -> bytes:
            order.append((number, threading.get_ident() != loop_thread))
            return bytes([number])

        return run

    b = bench(lambda kind, what: [Compute(n, work(n)) for n in (1, 2)] if what == "go" else [])
    b.driver.command("go")
    await until(lambda: Computed(2, b"\x02") in b.commands())
    assert b.commands() == ["go", Computed(1, b"\x01"), Computed(2, b"\x02")]
    assert order == [(1, True), (2, True)]


async def test_work_that_fails_is_a_defect_of_ours(bench) -> None:
    def work() -> bytes:
        raise ValueError("no")

    b = bench(lambda kind, what: [Compute(1, work)] if what == "go" else [])
    b.driver.command("go")
    await until(lambda: b.faults)
    assert b.faults[0][0] == "compute"


async def test_after_a_failed_store_nothing_more_is_stored_or_called_durable(bench) -> None:
    b = bench(lambda kind, what: [Persist(Kept(1), 1), Persist(Kept(2), 2)] if what == "go" else [])
    b.fail_store = OSError(28, "No space left on device")
    b.driver.command("go")
    await until(lambda: b.faults)
    b.fail_store = None
    b.driver.command("go")
    await b.driver.stop()
    assert b.faults[0][0] == "store"
    assert b.stored == []
    assert b.commands() == ["go", "go"]


async def test_a_refused_send_becomes_a_command_after_the_other_effects(bench) -> None:
    def answer(kind: str, what: Any) -> list[Effect]:
        return [Send(OTHER, Note(1, b"")), Emit(Told("next"))] if what == "go" else [Emit(Told(type(what).__name__))]

    b = bench(answer)
    b.transport.accepts = False
    b.driver.command("go")
    assert b.events == [Told("next"), Told("SendFailed")]
    assert b.commands()[1] == SendFailed(OTHER, Lane.CONTROL, "Note", "no connection, or its queue is full")
    assert b.driver.refused_sends[OTHER] == 1


async def test_the_timer_follows_the_machines_deadline(bench) -> None:
    b = bench()
    start = monotonic()
    b.machine.wake = start + 30 * MILLISECOND
    b.driver.command("arm")
    b.machine.wake = start + 10 * MILLISECOND
    b.driver.command("arm earlier")
    await until(lambda: b.machine.inputs[-1][0] == "advance")
    assert b.machine.inputs[-1][1] >= start + 10 * MILLISECOND
    assert b.machine.inputs[-1][1] < start + 60 * SECOND


async def test_a_deadline_that_never_moves_leaves_the_loop_free(bench) -> None:
    b = bench()
    b.machine.advance = lambda now: b.machine.inputs.append(("advance", now))  # type: ignore[method-assign]
    b.machine.wake = 0
    b.driver.command("arm")
    turns, began = 0, monotonic()
    while (now := monotonic()) < began + 50 * MILLISECOND or turns < 1000:
        await asyncio.sleep(0)
        turns += 1
    advances = sum(kind == "advance" for kind, _ in b.machine.inputs)
    assert advances <= (now - began) // MILLISECOND + 10
    assert turns > advances


async def test_bad_bytes_and_bad_messages_are_counted_per_sender_and_raise_nothing(bench) -> None:
    b = bench()
    b.driver.message(OTHER, b"\xff\xfe", Lane.CONTROL)
    b.driver.message(OTHER, WIRE.encode(Note(1, b""))[:-1], Lane.BULK)
    b.driver.message(OTHER, Wire(b"z" * 32, [Schema(1, Note, {})]).encode(Note(1, b"")), Lane.CONTROL)

    def refuse(sender: SiteKey, message: Message, now: Micros) -> None:
        raise ProtocolError("not now")

    b.machine.receive = refuse  # type: ignore[method-assign]
    b.driver.message(OTHER, WIRE.encode(Note(1, b"")), Lane.CONTROL)
    assert b.driver.bad_messages[OTHER] == 4
    assert [bad.count for bad in b.bad] == [1]  # told once a second
    assert b.machine.inputs == []
    assert b.faults == []


async def test_a_defect_of_the_machine_is_told_and_the_loop_goes_on(bench) -> None:
    b = bench(lambda kind, what: 1 // 0 if what == "break" else [Emit(Told(what))])
    b.driver.command("break")
    b.driver.command("fine")
    assert [type(error) for _, error in b.faults] == [ZeroDivisionError]
    assert b.events == [Told("fine")]


async def test_an_effect_that_fails_does_not_stop_the_ones_behind_it(bench) -> None:
    b = bench(lambda kind, what: [Dial(OTHER, ("x",)), Emit(Told("after"))])

    def dial(to: SiteKey, addresses: tuple[str, ...]) -> None:
        raise LocalError("no such site")

    b.transport.dial = dial  # type: ignore[method-assign]
    b.driver.command("go")
    assert b.events == [Told("after")]
    assert b.faults[0][0] == "effect Dial"


async def test_link_events_become_commands(bench) -> None:
    b = bench()
    b.driver.link(LinkUp(OTHER))
    b.driver.link(LinkDown(OTHER, "gone"))
    b.driver.link(DialFailed(OTHER, "h:1", "nobody", 5))
    assert b.commands() == [LinkUp(OTHER), LinkDown(OTHER, "gone"), LinkDown(OTHER, "nobody")]


async def test_a_blocked_loop_is_measured_and_told(bench) -> None:
    b = bench()
    await until(lambda: b.driver.worst_lag_us >= 0)
    await asyncio.sleep(0)
    end = monotonic() + 150 * MILLISECOND
    while monotonic() < end:  # what a long computation on the loop does
        pass
    told = await until(lambda: [what.late_us for what in b.commands() if isinstance(what, LoopLag)])
    assert told[0] >= 40 * MILLISECOND


async def test_a_standstill_is_told_before_whatever_came_in_meanwhile(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    slept_us = 0
    monkeypatch.setattr(b.driver, "_clock", lambda: monotonic() + slept_us)
    b.driver.command("before")
    slept_us = 60 * SECOND
    b.driver.command("meanwhile")
    before, told, meanwhile = b.commands()
    assert (before, meanwhile) == ("before", "meanwhile")
    assert isinstance(told, StoodStill)
    assert 60 * SECOND <= told.for_us < 70 * SECOND
    slept_us += 60 * SECOND
    # Nothing comes in: the loop looks by itself.
    await until(lambda: sum(isinstance(what, StoodStill) for what in b.commands()) == 2)


async def test_nothing_is_fed_after_the_stop_and_stores_are_finished_first(bench) -> None:
    b = bench(lambda kind, what: [Persist(Kept(1), 1), Persist(Kept(2))])
    b.driver.command("go")
    await b.driver.stop()
    b.driver.command("late")
    b.driver.message(OTHER, WIRE.encode(Note(1, b"")), Lane.CONTROL)
    assert b.stored == [Kept(1), Kept(2)]
    assert b.commands() == ["go"]


async def test_two_drivers_talk_over_real_transports(federation: Federation) -> None:
    machines: list[Scripted] = []
    drivers: list[Driver] = []
    faults: list[Any] = []

    async def no_store(record: Record) -> None:
        raise AssertionError("nothing to store")

    def make(answer: Callable[[str, Any], list[Effect]]) -> Driver:
        machines.append(Scripted(answer))
        driver = Driver(
            machines[-1],
            WIRE,
            clock=monotonic,
            on_emit=lambda event: None,
            store=no_store,
            on_fault=lambda where, error: faults.append((where, error)),
        )
        drivers.append(driver)
        return driver

    def echo(kind: str, what: Any) -> list[Effect]:
        return [Send(what[0], Note(what[1].number + 1, what[1].body), Lane.BULK)] if kind == "receive" else []

    def opener(kind: str, what: Any) -> list[Effect]:
        if kind == "command" and isinstance(what, tuple):
            return [Dial(what[1], what[2])]
        if kind == "command" and isinstance(what, LinkUp):
            return [Send(what.key, Note(1, b"b" * 1_000_000), Lane.BULK)]
        return []

    first, second = make(opener), make(echo)
    a = await federation.add(1, start=False, on_message=first.message, on_link=first.link)
    b = await federation.add(2, start=False, on_message=second.message, on_link=second.link)
    for driver, peer in ((first, a), (second, b)):
        driver.start(peer.transport)
        peer.address = await peer.transport.start()
    first.command(("dial", b.key, (b.address,)))
    got = await until(lambda: [what for kind, what in machines[0].inputs if kind == "receive"])
    assert got == [(b.key, Note(2, b"b" * 1_000_000))]
    assert faults == []
    for driver in drivers:
        await driver.stop()
