"""The virtual-time network: an event queue in integer microseconds that drives any machine of `core`.

Determinism: the queue is ordered by (time, sequence), every host has its own seeded generator, nothing iterates over a
set, nothing reads a clock. The network knows `core.effects` only,
and how long a driver lets a machine stand still.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from kmel_p2p.agreement.errors import Bug, LocalError, RemoteError
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.effects import (
    Compute,
    Computed,
    Dial,
    Effect,
    Emit,
    Hangup,
    Persist,
    Persisted,
    Send,
    SendFailed,
    StoodStill,
)
from kmel_p2p.core.types import Lane, Micros
from kmel_p2p.net.standstill import STOOD_STILL
from tests.testbed.network.carrier import Carrier
from tests.testbed.network.connections import Connections, TransportModel
from tests.testbed.network.host import MAX_WAITING, Boot, Host, Power
from tests.testbed.network.links import Conditions, Direction
from tests.testbed.network.trace import Trace

_TIMER, _DELIVER, _CALL = 0, 1, 2
_STARTED, _COMMAND, _LOST, _REFUSED, _EVENT = 3, 4, 5, 6, 8

STEPS_WITHOUT_TIME = 100_000
"""Steps at one instant after which a run is a livelock, not progress."""


class Watcher(Protocol):
    """Sees every step; must not change anything."""

    def stepped(self, host: Host, now: Micros) -> None: ...
    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None: ...
    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None: ...


def everybody(host: Host, dialler: Host) -> bool:
    """A gate that stands open."""
    return True


def forgotten(host: Host, dialler: Host) -> None:
    """Nothing follows."""


@dataclass(slots=True)
class _Packet:
    source: Host
    target: Host
    packed: Any
    size_bytes: int


@dataclass
class Network:
    """Hosts, links and time."""

    seed: int
    carrier: Carrier
    conditions: Conditions = field(default_factory=Conditions)
    transport: TransportModel = field(default_factory=TransportModel)
    now: Micros = 0
    trace: Trace = field(default_factory=Trace)
    watchers: list[Watcher] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    hosts: dict[SiteKey, Host] = field(default_factory=dict)
    """By place, which is the key except for the copies."""
    copies: list[Host] = field(default_factory=list)
    """Computers with the key of another one. They dial, and nobody can dial them."""
    admits: Callable[[Host, Host], bool] = field(default=everybody)
    """Whether `host` lets `dialler` in."""
    turned_away: Callable[[Host, Host], None] = field(default=forgotten)
    """Told of a running host, and of a dialler whom it did not let in."""
    _queue: list[tuple[Micros, int, int, Any, Any]] = field(default_factory=list)
    _sequence: int = 0
    _directions: dict[tuple[int, int], Direction] = field(default_factory=dict)
    _partial: list[Watcher] = field(default_factory=list)
    _partial_steps: list[Watcher] = field(default_factory=list)
    _partial_sends: list[Watcher] = field(default_factory=list)
    _stuck: int = 0

    def __post_init__(self) -> None:
        self.connections = Connections(self)

    # -- building ------------------------------------------------------------------------------------------------

    def add(self, key: SiteKey, name: str, boot: Boot, addresses: tuple[str, ...] = ()) -> Host:
        """Add a host that is switched off. `boot` makes its machine at every start."""
        if key in self.hosts:
            raise Bug(f"host {name} is added twice")
        host = Host(len(self.hosts), key, name, boot, addresses, self.generator(f"host {len(self.hosts)}"))
        self.hosts[key] = host
        return host

    def add_copy(self, original: Host, name: str, boot: Boot) -> Host:
        """Add a host with the key of another one, as a copied machine is."""
        place = SiteKey(digest(b"copy %d" % len(self.hosts) + original.key))
        rng = self.generator(f"host {len(self.hosts)}")
        host = Host(len(self.hosts), original.key, name, boot, (), rng, place)
        self.hosts[place] = host
        self.copies.append(host)
        return host

    def watch(self, watcher: Watcher, steps: bool = True, sends: bool = True) -> None:
        """Let `watcher` see effects and refusals, and (they are many) every step and every message if it needs them.

        Whoever is put into `watchers` directly sees everything.
        """
        if steps and sends:
            self.watchers.append(watcher)
            return
        self._partial.append(watcher)
        if steps:
            self._partial_steps.append(watcher)
        if sends:
            self._partial_sends.append(watcher)

    def generator(self, label: str) -> random.Random:
        """A generator derived from the run's seed by name; independent of the order in which it is asked for."""
        return random.Random(f"{self.seed}/{label}")

    def direction(self, source: Host, target: Host) -> Direction:
        """The state of the link from `source` to `target`."""
        pair = (source.index, target.index)
        found = self._directions.get(pair)
        if found is None:
            found = self._directions[pair] = Direction(self.conditions)
        return found

    # -- time ----------------------------------------------------------------------------------------------------

    def call_at(self, when: Micros, action: Callable[[], None]) -> None:
        """Run `action` at a virtual time."""
        self._push(max(when, self.now), _CALL, action, None)

    def run_until(self, end: Micros) -> None:
        """Process every event up to and including `end`."""
        queue = self._queue
        while queue and queue[0][0] <= end:
            when, _, kind, subject, payload = heapq.heappop(queue)
            if when > self.now:
                self.now = when
                self._stuck = 0
            else:
                self._stuck += 1
                if self._stuck > STEPS_WITHOUT_TIME:
                    raise Bug(f"{STEPS_WITHOUT_TIME} steps at {when} us: a machine never comes to rest")
            if kind == _DELIVER:
                self._arrive(subject)
            elif kind == _TIMER:
                self._wake(subject, payload)
            else:
                subject()
        self.now = max(self.now, end)

    def _push(self, when: Micros, kind: int, subject: Any, payload: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (when, self._sequence, kind, subject, payload))

    # -- hosts ---------------------------------------------------------------------------------------------------

    def start(self, host: Host) -> None:
        """Switch a host on with a fresh machine."""
        if host.power is not Power.OFF:
            raise Bug(f"host {host.name} is on already")
        host.starts += 1
        host.power = Power.RUNNING
        host.pending_wake_us = None
        host.inbox.clear()
        host.work_free_us = self.now
        host.machine = host.boot(host.local(self.now))
        self.connections.started(host)
        self.trace.note(self.now, _STARTED, host.index, -1, host.starts, "start")
        self._drain(host)

    def crash(self, host: Host, reset: bool = True) -> None:
        """Switch a host off. With `reset` its kernel lives and tells every connected host at once; without it
        (power loss) they notice by missing heartbeats."""
        host.power = Power.OFF
        host.machine = None
        host.inbox.clear()
        self.connections.break_all(host, "connection reset", 0 if reset else self.transport.heartbeat_us)

    def pause(self, host: Host) -> None:
        """SIGSTOP: messages wait in buffers, timers do not fire, the clock of the world goes on."""
        if host.power is Power.RUNNING:
            host.power = Power.PAUSED
            host.paused_at_us = self.now
            self.call_at(self.now + self.transport.heartbeat_us, lambda: self.connections.drop_silent(host))

    def resume(self, host: Host, clock_stood_still: bool = False) -> None:
        """SIGCONT. With `clock_stood_still` (virtual machine, suspend) its clock knows nothing of the pause."""
        if host.power is not Power.PAUSED:
            return
        host.power = Power.RUNNING
        if clock_stood_still:
            host.clock_offset_us -= self.now - host.paused_at_us
        waiting, host.inbox = host.inbox, type(host.inbox)()
        host.pending_wake_us = None
        self._rearm(host)
        self._tell_standstill(host, self.now - host.paused_at_us)
        for item in waiting:
            if isinstance(item, _Packet):
                self._handle(item)
                continue
            with suppress(LocalError):
                # Who gave an order while the program stood still has gone: nobody hears why it is refused now.
                self._command(host, item)

    def jump_clock(self, host: Host, by_us: Micros) -> None:
        """The host's clock leaps forward."""
        host.clock_offset_us += by_us
        host.pending_wake_us = None
        if host.power is Power.RUNNING:
            self._rearm(host)
            self._tell_standstill(host, by_us)

    def _tell_standstill(self, host: Host, for_us: Micros) -> None:
        """As the driver does, by either clock, before it feeds anything else."""
        if for_us > STOOD_STILL:
            self._command(host, StoodStill(for_us))

    def touch(self, host: Host) -> None:
        """Its machine was used directly: execute what it wants now."""
        self._drain(host)

    def inject(self, source: Host, target: Host, packed: Any, size_bytes: int) -> None:
        """Put something on the link as if `source` had sent it (a hostile peer)."""
        arrivals = self.direction(source, target).transmit(size_bytes, False, self.now, source.rng) or []
        for when in arrivals:
            self._push(when, _DELIVER, _Packet(source, target, packed, size_bytes), None)

    def command(self, host: Host, cmd: Any) -> None:
        """Give a running host a command, as its driver would."""
        self._command(host, cmd)

    # -- links ---------------------------------------------------------------------------------------------------

    def block(self, sources: Iterable[Host], targets: Iterable[Host]) -> None:
        """Lose everything from each source to each target, until as many `unblock`s. Connections die of it."""
        pairs = [(s, t) for s in sources for t in targets if s is not t]
        for source, target in pairs:
            self.direction(source, target).blocks += 1
            self.call_at(self.now + self.transport.heartbeat_us, partial(self.connections.drop_blocked, source, target))

    def unblock(self, sources: Iterable[Host], targets: Iterable[Host]) -> None:
        """Undo one `block`."""
        for source, target in [(s, t) for s in sources for t in targets if s is not t]:
            direction = self.direction(source, target)
            direction.blocks = max(0, direction.blocks - 1)

    # -- running a machine ---------------------------------------------------------------------------------------

    def _wake(self, host: Host, when: Micros) -> None:
        if host.pending_wake_us != when:
            return
        host.pending_wake_us = None
        if host.power is not Power.RUNNING:
            return
        assert host.machine is not None
        local = host.local(self.now)
        if host.due_us is not None and host.due_us <= local:
            self.trace.note(self.now, _TIMER, host.index, -1, 0, "timer")
            host.machine.advance(local)
            self._drain(host)
        else:
            self._rearm(host)

    def _command(self, host: Host, cmd: Any) -> None:
        if host.power is Power.PAUSED:
            host.inbox.append(cmd)
        if host.power is not Power.RUNNING:
            return
        assert host.machine is not None
        self.trace.note(self.now, _COMMAND, host.index, -1, 0, type(cmd).__name__)
        host.machine.command(cmd, host.local(self.now))
        self._drain(host)

    def _arrive(self, packet: _Packet) -> None:
        host = packet.target
        if host.power is Power.OFF or not host.interface_up or self.direction(packet.source, host).blocked:
            self.counters["lost"] += 1
            return
        if host.power is Power.PAUSED:
            if len(host.inbox) < MAX_WAITING:
                host.inbox.append(packet)
            return
        low, high = host.receive_delay_us
        if high or host.work_us:
            self._handle_later(packet, low + host.rng.randrange(high - low + 1))
        else:
            self._handle(packet)

    def _handle_later(self, packet: _Packet, delay_us: Micros) -> None:
        host = packet.target
        host.work_free_us = max(host.work_free_us, self.now) + host.work_us
        when = max(self.now + delay_us, host.work_free_us)
        self.call_at(when, lambda: self._handle(packet))

    def _handle(self, packet: _Packet) -> None:
        host, source = packet.target, packet.source
        if host.power is not Power.RUNNING:
            return
        assert host.machine is not None
        self.trace.note(self.now, _DELIVER, host.index, source.index, packet.size_bytes, "receive")
        try:
            message = self.carrier.unpack(packet.packed)
            host.machine.receive(source.key, message, host.local(self.now))
        except RemoteError as error:
            self.counters["refused"] += 1
            self.trace.note(self.now, _REFUSED, host.index, source.index, packet.size_bytes, "refused")
            for watcher in (*self.watchers, *self._partial):
                watcher.refused(host, source, error, self.now)
        self._drain(host)

    def _drain(self, host: Host) -> None:
        machine = host.machine
        while machine is not None and host.machine is machine:
            effect = machine.poll()
            if effect is None:
                break
            if type(effect) is Send:
                self._send(host, effect)
            else:
                self._execute(host, effect)
        if host.power is Power.RUNNING:
            self._rearm(host)
            for watcher in (*self.watchers, *self._partial_steps):
                watcher.stepped(host, self.now)

    def _rearm(self, host: Host) -> None:
        assert host.machine is not None
        due = host.due_us = host.machine.deadline()
        if due is None:
            return
        when = max(due - host.clock_offset_us, self.now)
        if host.pending_wake_us is None or when < host.pending_wake_us:
            host.pending_wake_us = when
            self._push(when, _TIMER, host, when)

    def _execute(self, host: Host, effect: Effect) -> None:
        for watcher in (*self.watchers, *self._partial):
            watcher.effect(host, effect, 0, self.now)
        if isinstance(effect, Emit):
            self.trace.note(self.now, _EVENT, host.index, -1, 0, type(effect.event).__name__)
        elif isinstance(effect, Dial):
            self.connections.dial(host, effect)
        elif isinstance(effect, Hangup):
            target = self.connections.reached(host, effect.to)
            if target is not None:
                self.connections.unlink(host, target, effect.reason)
        elif isinstance(effect, Persist):
            if effect.ticket is not None and self.transport.persist_us is not None:
                self._command_later(host, Persisted(effect.ticket), self.transport.persist_us)
        elif isinstance(effect, Compute):
            self._command_later(host, Computed(effect.ticket, effect.work()), 0)

    def _command_later(self, host: Host, cmd: Any, after_us: Micros) -> None:
        """Give a command to the machine that runs now, unless it has been started anew by then."""
        start = host.starts

        def give() -> None:
            if host.starts == start:
                self._command(host, cmd)

        self.call_at(self.now + after_us, give)

    def _send(self, host: Host, send: Send) -> None:
        packed = self.carrier.pack(send.message)
        size = self.carrier.size(packed)
        for watcher in (*self.watchers, *self._partial_sends):
            watcher.effect(host, send, size, self.now)
        target = self.connections.reached(host, send.to)
        if target is None:
            raise Bug(f"{host.name} sends to a site outside the network")
        if not host.interface_up or not self.connections.linked(host, target):
            self._refuse(host, target)
            return
        direction = self.direction(host, target)
        arrivals = direction.transmit(size, send.lane is Lane.BULK, self.now, host.rng)
        if arrivals is None:
            self._refuse(host, target)
            return
        if not arrivals:
            self.counters["lost"] += 1
            self.trace.note(self.now, _LOST, host.index, target.index, size, "lost")
        for when in arrivals:
            damaged = self._damage(packed, direction.conditions, host.rng)
            self._push(when, _DELIVER, _Packet(host, target, damaged, size), None)

    def _refuse(self, host: Host, target: Host) -> None:
        """The transport says no; told after the present call, as a real driver does."""
        self.counters["send_failed"] += 1
        self.call_at(self.now, lambda: self._command(host, SendFailed(target.key)))

    def _damage(self, packed: Any, conditions: Conditions, rng: random.Random) -> Any:
        if not conditions.corrupt or not isinstance(packed, bytes) or rng.random() >= conditions.corrupt:
            return packed
        place = rng.randrange(len(packed))
        return packed[:place] + bytes([packed[place] ^ (1 + rng.randrange(255))]) + packed[place + 1 :]
