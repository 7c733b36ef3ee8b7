"""Runs one sans-IO machine on the event loop: feed, drain its effects, execute them in order, re-arm one timer.

The machine decides; the driver only carries out. Effects after a `Persist` are not held up by it: a machine that needs
durability first waits for `Persisted`. Records are stored one after another, in order, and after a failed one no
other is: a gap in a log would be worse than a stop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kmel_p2p.agreement.errors import Bug, LocalError, RemoteError
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
    Machine,
    Message,
    Persist,
    Persisted,
    Record,
    Send,
    SendFailed,
    StoodStill,
)
from kmel_p2p.core.types import MILLISECOND, SECOND, Lane, Micros
from kmel_p2p.core.wire import Wire
from kmel_p2p.net.decoding import Decoding
from kmel_p2p.net.link_events import DialFailed, LinkEvent, Throttle
from kmel_p2p.net.standstill import StandstillWatch
from kmel_p2p.net.transport import Transport

LAG_SAMPLE = 100 * MILLISECOND
"""How often the loop's lateness is measured."""

LAG_SPAN: Micros = 30 * SECOND
"""Of `Driver.recent_lag_us`."""

LAG_REPORT = 1 * SECOND
"""How often the machine is told the worst lateness seen."""

LAG_WORTH_TELLING = 10 * MILLISECOND
"""Less than this is ordinary scheduling."""

FEEDS_PER_TURN = 64
"""Inputs fed before the rest of the loop has its chance."""

EFFECTS_MAX = 100_000
"""Effects one input may lead to; a machine that emits more is caught in a loop."""

EARLIEST_TIMER = 1 * MILLISECOND
"""A deadline that does not move must not take the whole processor."""


@dataclass(frozen=True, slots=True)
class BadMessage:
    """A remote peer's message was refused by the decoder or by the machine; told to `on_bad_message`."""

    sender: SiteKey
    error: RemoteError
    count: int
    """Messages of this sender refused so far."""


class Driver:
    """One machine, one transport, one event loop.

    Args:
        machine: any sans-IO machine of `core`.
        wire: encodes and decodes its messages.
        clock: monotonic microseconds, the same for driver and transport.
        on_emit: takes each event for the operator.
        store: makes a record durable; awaited one at a time, in order.
        on_fault: told of each defect of ours (name of the part, error). After one from "store" nothing more is
            stored, and the daemon should stop.
        on_bad_message: told of refused messages, once a second per sender; counted always.
        on_link: told of every link event, after the machine.
        label: names a message for the egress audit.
        wall: the wall clock, microseconds.
    """

    def __init__(
        self,
        machine: Machine,
        wire: Wire,
        *,
        clock: Callable[[], Micros],
        on_emit: Callable[[Event], None],
        store: Callable[[Record], Awaitable[None]],
        on_fault: Callable[[str, BaseException], None],
        on_bad_message: Callable[[BadMessage], None] | None = None,
        on_link: Callable[[LinkEvent], None] | None = None,
        label: Callable[[Message], str] = lambda message: type(message).__name__,
        wall: Callable[[], Micros] = lambda: 0,
    ) -> None:
        self._machine = machine
        self._wire = wire
        self._clock = clock
        self._on_emit = on_emit
        self._store = store
        self._on_fault = on_fault
        self._on_bad_message = on_bad_message
        self._on_link = on_link
        self._label = label
        self._standstill = StandstillWatch(wall, clock())
        self._transport: Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inputs: deque[Callable[[Micros], None]] = deque()
        self._turning = False
        self._more: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._records: asyncio.Queue[Persist] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None
        self._sampler: asyncio.TimerHandle | None = None
        self._encoded: tuple[Message, bytes] | None = None
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._decoding = Decoding(
            wire.decode,
            lambda sender, message: self._feed(lambda now: self._receive(sender, message, now)),
            self._bad,
            on_fault,
        )
        self._throttle = Throttle()
        self.bad_messages: Counter[SiteKey] = Counter()
        """Refused messages per sender."""
        self.refused_sends: Counter[SiteKey] = Counter()
        """Messages the transport did not take, per receiver."""
        self.worst_lag_us: Micros = 0
        """The latest the loop ever ran since the start."""
        self._lags_us: tuple[Micros, Micros] = (0, 0)
        """The same in the last full `LAG_SPAN` and in the present one."""
        self._lag_span_ends_us: Micros = 0

    # -- life ------------------------------------------------------------------------------------

    def start(self, transport: Transport) -> None:
        """Begin on the running loop. Call before `transport.start`, whose callbacks are `message` and `link`.

        Raises:
            LocalError: it runs already.
        """
        if self._loop is not None:
            raise LocalError("the driver runs already")
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._writer = self._loop.create_task(self._write_records(), name="store records")
        self._lag_due_us = self._lag_reported_us = self._clock()
        self._lag_max_us: Micros = 0
        self._sample_lag()
        self._pump()

    async def stop(self, *, flush: bool = True) -> None:
        """Feed nothing more; wait until what is to be stored is stored (not with `flush=False`)."""
        if self._loop is None:
            return
        self._loop = None
        for handle in (self._timer, self._more, self._sampler):
            if handle is not None:
                handle.cancel()
        self._computing.shutdown(wait=False, cancel_futures=True)
        self._decoding.close()
        self._inputs.clear()
        if self._writer is not None:
            if flush and not self._writer.done():
                joined = asyncio.ensure_future(self._records.join())
                await asyncio.wait({joined, self._writer}, return_when=asyncio.FIRST_COMPLETED)
                joined.cancel()
            self._writer.cancel()
            await asyncio.wait({self._writer})

    # -- inputs ----------------------------------------------------------------------------------

    def command(self, command: Any) -> None:
        """Feed a command of the layer above."""
        self._feed(lambda now: self._machine.command(command, now))

    def message(self, sender: SiteKey, data: bytes | memoryview, lane: Lane) -> None:
        """Feed a message: the transport's `on_message`. What does not decode is counted; what is large is decoded in a
        thread."""
        if self._loop is not None:
            self._decoding.take(sender, data, lane)

    def link(self, event: LinkEvent) -> None:
        """Feed a link event: the transport's `on_link`."""
        match event:
            case LinkUp() | LinkDown() | SendFailed():
                self.command(event)
            case DialFailed(key, _, reason, _):
                self.command(LinkDown(key, reason))
            case _:
                pass
        if self._on_link is not None:
            self._on_link(event)

    def _receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        try:
            self._machine.receive(sender, message, now)
        except RemoteError as error:
            self._bad(sender, error)

    def _bad(self, sender: SiteKey, error: RemoteError) -> None:
        self.bad_messages[sender] += 1
        if self._on_bad_message is not None and self._throttle.passes(sender, self._clock()):
            self._on_bad_message(BadMessage(sender, error, self.bad_messages[sender]))

    # -- the loop --------------------------------------------------------------------------------

    def _feed(self, feed: Callable[[Micros], None]) -> None:
        if self._loop is not None:
            self._inputs.append(feed)
            if not self._turning:
                self._pump()

    def _pump(self) -> None:
        """Feed what waits, drain after each, then re-arm. Not re-entered: effects may lead to more inputs."""
        if self._loop is None or self._turning:
            return
        self._turning = True
        try:
            self._drain()
            for _ in range(FEEDS_PER_TURN):
                if not self._inputs:
                    break
                self._notice_standstill(self._clock())
                self._guarded("machine", self._inputs.popleft())
                self._drain()
        finally:
            self._turning = False
        self._arm()

    def _notice_standstill(self, now: Micros) -> None:
        """Have the machine told before it takes anything that came in meanwhile."""
        for_us = self._standstill.look(now)
        if for_us:
            self._inputs.appendleft(lambda now: self._machine.command(StoodStill(for_us), now))

    def _pump_more(self) -> None:
        self._more = None
        self._pump()

    def _guarded(self, where: str, work: Callable[[Micros], None]) -> None:
        try:
            work(self._clock())
        except Exception as error:
            self._on_fault(where, error)

    def _drain(self) -> None:
        for _ in range(EFFECTS_MAX):
            try:
                effect = self._machine.poll()
            except Exception as error:
                self._on_fault("machine", error)
                return
            if effect is None:
                self._encoded = None
                return
            try:
                self._execute(effect)
            except Exception as error:
                self._on_fault(f"effect {type(effect).__name__}", error)
        self._on_fault("machine", Bug(f"more than {EFFECTS_MAX} effects after one input"))

    def _arm(self) -> None:
        """Get called again: for inputs that wait, and at the machine's deadline."""
        if self._loop is None:  # a callback stopped us
            return
        if self._inputs and self._more is None:
            self._more = self._loop.call_soon(self._pump_more)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._machine.deadline()
        if deadline is not None:
            wait = max(deadline - self._clock(), EARLIEST_TIMER)
            self._timer = self._loop.call_later(wait / SECOND, self._due)

    def _due(self) -> None:
        self._timer = None
        self._feed(self._machine.advance)

    # -- effects ---------------------------------------------------------------------------------

    def _execute(self, effect: Effect) -> None:
        transport = self._transport
        if transport is None:
            raise Bug("effects before the start")
        match effect:
            case Send(to, message, lane):
                self._send(transport, to, message, lane)
            case Dial(to, addresses):
                transport.dial(to, addresses)
            case Hangup(to, reason):
                transport.hangup(to, reason)
            case Emit(event):
                self._on_emit(event)
            case Persist():
                self._records.put_nowait(effect)
            case Compute():
                self._compute(effect)

    def _send(self, transport: Transport, to: SiteKey, message: Message, lane: Lane) -> None:
        # One message often goes to several sites in a row: encode it once, and let them share the bytes.
        if self._encoded is None or self._encoded[0] is not message:
            self._encoded = (message, self._wire.encode(message))
        if not transport.send(to, self._encoded[1], lane, label=self._label(message)):
            self.refused_sends[to] += 1
            self.command(SendFailed(to, lane, self._label(message), "no connection, or its queue is full"))

    def _compute(self, effect: Compute) -> None:
        """Run heavy work in the one thread kept for it: a second would only take the trainer's processor."""
        assert self._loop is not None
        done = self._loop.run_in_executor(self._computing, effect.work)
        done.add_done_callback(lambda future: self._computed(effect.ticket, future))

    def _computed(self, ticket: int, future: asyncio.Future[bytes]) -> None:
        if future.cancelled() or self._loop is None:
            return
        error = future.exception()
        if error is not None:
            self._on_fault("compute", error)
        else:
            self.command(Computed(ticket, future.result()))

    async def _write_records(self) -> None:
        while True:
            item = await self._records.get()
            try:
                await self._store(item.record)
            except Exception as error:
                self._on_fault("store", error)
                return
            finally:
                self._records.task_done()
            if item.ticket is not None:
                self.command(Persisted(item.ticket))

    @property
    def recent_lag_us(self) -> Micros:
        """The latest the loop ran within one to two `LAG_SPAN`."""
        return max(self._lags_us)

    # -- lateness --------------------------------------------------------------------------------

    def _sample_lag(self) -> None:
        if self._loop is None:
            return
        now = self._clock()
        self._notice_standstill(now)
        lag = max(0, now - self._lag_due_us)
        self._lag_max_us = max(self._lag_max_us, lag)
        self.worst_lag_us = max(self.worst_lag_us, lag)
        if now >= self._lag_span_ends_us:
            self._lags_us, self._lag_span_ends_us = (self._lags_us[1], 0), now + LAG_SPAN
        self._lags_us = (self._lags_us[0], max(self._lags_us[1], lag))
        if now - self._lag_reported_us >= LAG_REPORT:
            if self._lag_max_us >= LAG_WORTH_TELLING:
                self.command(LoopLag(self._lag_max_us))
            self._lag_max_us = 0
            self._lag_reported_us = now
        self._lag_due_us = now + LAG_SAMPLE
        if self._inputs:
            self._pump()
        self._sampler = self._loop.call_later(LAG_SAMPLE / SECOND, self._sample_lag)
