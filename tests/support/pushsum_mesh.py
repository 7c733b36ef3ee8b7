"""A virtual network of pushsum sites with disks: loss, repetition, reordering, crashes; no clock, no sleeping."""

from __future__ import annotations

import functools
import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.averaging import PushSumRule
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.agreement.training import PaceRule
from kmel_p2p.core.effects import Compute, Computed, Emit, Event, Message, Persist, Persisted, Send
from kmel_p2p.core.membership.events import MemberBack, MemberUnreachable
from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.pushsum.events import JournalRecord, StateRecord
from kmel_p2p.core.pushsum.journal import restore
from kmel_p2p.core.pushsum.messages import SCHEMAS, MassTransfer
from kmel_p2p.core.pushsum.rules import PushSumRules, PushSumSettings, size_weight
from kmel_p2p.core.pushsum.share import Bits, decode
from kmel_p2p.core.pushsum.state import Minted, PushSumState
from kmel_p2p.core.pushsum.transfers import TransferSettings
from kmel_p2p.core.rounds import Ready, RoundOpened, RoundTrained
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.core.wire import Wire

CHARTER_ID = b"p" * 32
SIZE = 300
FAST = PushSumSettings(settle_us=1 * SECOND, interval_us=2 * SECOND, transfers=TransferSettings(SECOND, 4 * SECOND))
ASKING = replace(FAST, transfers=TransferSettings(SECOND, 4 * SECOND, inquire_above=0))
"""Asks before it sends again, as with large trunks."""

APART = replace(ASKING, at_once=0)
"""Does its arithmetic off the event loop, as with large trunks."""

Drift = Callable[[int, int, NDArray[np.float32]], NDArray[np.float32]]
"""(site, round, trunk at its start) -> drift."""


@dataclass
class Faults:
    """What the network does to messages."""

    loss: float = 0.0
    repeat: float = 0.0
    most_delay: Micros = 20 * MILLISECOND
    """Delays are uniform up to this, so messages overtake each other."""


@dataclass
class Disk:
    """What survives a crash."""

    state: bytes | None = None
    journal: list[tuple[int, bytes]] = field(default_factory=list)
    own_state_file: str | None = None

    def keep(self, record: Any) -> None:
        match record:
            case StateRecord():
                self.state, self.journal = bytes(record.state), []
                self.own_state_file = record.own_state_file or self.own_state_file
            case JournalRecord():
                self.journal.append((record.index, record.body))


@dataclass
class Descriptor:
    size_class: int
    outbound_only: bool = False


class View:
    """One site's membership."""

    def __init__(self, mesh: Mesh, own: int) -> None:
        self._mesh = mesh
        self._own = own

    def alive(self) -> tuple[SiteKey, ...]:
        keys = self._mesh.keys
        return tuple([keys[i] for i in self._mesh.reachable(self._own)])

    def descriptor(self, key: SiteKey) -> Descriptor:
        return Descriptor(self._mesh.classes[self._mesh.index[key]])


def rules_of(
    keys: Iterable[SiteKey], *, start_sites: int = 1, bits: Bits = 8, last_bits: Bits = 16, **charter: Any
) -> PushSumRules:
    """Rules with some of the charter's settings, by name, from `[averaging]` and `[pace]`; 64 bits are exact."""
    pace = {name: charter.pop(name) for name in ("max_lead", "patience") if name in charter}
    rule = PushSumRule(**{"entry_limit": 20, "steps_per_entry": 5, **charter})
    return PushSumRules(CHARTER_ID, frozenset(keys), start_sites, rule, PaceRule(**pace), bits, last_bits)


class Mesh:
    """Sites 0..n-1. Times in microseconds."""

    def __init__(
        self,
        classes: list[int],
        drift: Drift,
        seed: int = 0,
        faults: Faults | None = None,
        present: int | None = None,
        train_time: Callable[[int], Micros] = lambda site: SECOND,
        settings: PushSumSettings = FAST,
        size: int = SIZE,
        initial: NDArray[np.float32] | None = None,
        **rules: Any,
    ) -> None:
        self.classes = classes
        self.identities = [Identity(bytes([n % 251 + 1, n // 251]) * 16) for n in range(len(classes))]
        self.keys = [identity.key for identity in self.identities]
        self.index = {key: n for n, key in enumerate(self.keys)}
        self.base = np.linspace(-1, 1, size, dtype=np.float32)
        self.rules = rules_of(self.keys, **rules)
        self.settings = settings
        self.faults = faults or Faults()
        self.drift = drift
        self.train_time = train_time
        self.rng = random.Random(seed)
        wire = Wire(CHARTER_ID, SCHEMAS)
        # One announcement goes to many: coding it once keeps long runs short.
        self.encode = functools.lru_cache(maxsize=4)(wire.encode)
        self.decode = functools.lru_cache(maxsize=256)(wire.decode)
        self._reachable: dict[int, list[int]] = {}
        self.now: Micros = 0
        self.disks = [Disk() for _ in classes]
        self.starts = [0] * len(classes)
        self.lives = [0] * len(classes)
        self.sites: list[PushSumAveraging | None] = [None] * len(classes)
        self.events: list[tuple[int, Event]] = []
        self.sent_bytes = [0] * len(classes)
        self.inputs = np.zeros(size, object)
        """Exact sum of what training put in, by the sites themselves: the conservation law's other side."""
        self.validation: Callable[[int, int], float | None] = lambda site, number: None
        self._trained: list[tuple[int, int, NDArray[Any]]] = []
        self.cut: Callable[[int, int], bool] = lambda a, b: False
        """Pairs without a link; set by `partition`."""
        self._queue: list[tuple[Micros, int, Callable[[], None]]] = []
        self._order = 0
        if initial is not None:
            for n, values in enumerate(initial):
                self.disks[n].state = self._minted(n, values).encode()
        for n in range(len(classes) if present is None else present):
            self.start(n)

    def _minted(self, n: int, values: NDArray[np.float32]) -> PushSumState:
        """A site that has its weight and differs from the initial trunk by `values`."""
        state = PushSumState.fresh(self.base, bytes([n, 1]) * 4)
        state.apply(Minted(size_weight(self.classes[n], (), 1.0)))
        state.holding.replace(state.holding.moved(values))
        self.inputs += state.holding.sums.astype(object)
        return state

    # ---- life of a site -----------------------------------------------------------------------------------------

    def start(self, n: int, ready: bool = True) -> None:
        """Start or restart a site from its disk."""
        disk = self.disks[n]
        self._reachable.clear()
        self.starts[n] += 1
        if disk.state is None and not disk.journal:
            self.lives[n] += 1
            state = PushSumState.fresh(self.base, bytes([n, self.lives[n]]) * 4)
        else:
            assert disk.state is not None
            state = restore(self.base, disk.state, disk.journal, "disk")
        self.sites[n] = PushSumAveraging(
            self.identities[n],
            self.rules,
            View(self, n),
            random.Random(self.rng.randrange(2**32)),
            self.settings,
            state,
            self.starts[n],
            self.now,
        )
        for other in self.reachable(n):
            self.feed(other, lambda site: site.member_event(MemberBack(self.keys[n]), self.now))
            self.feed(n, lambda site, other=other: site.member_event(MemberBack(self.keys[other]), self.now))
        if ready:
            self.feed(n, lambda site: site.command(Ready(), self.now))

    def crash(self, n: int) -> None:
        """Lose everything that is not on the disk."""
        self.sites[n] = None
        self._reachable.clear()
        for other in range(len(self.sites)):
            self.feed(other, lambda site: site.member_event(MemberUnreachable(self.keys[n]), self.now))

    def wipe(self, n: int) -> None:
        """A crash that takes the disk along, and the count of starts on it."""
        self.crash(n)
        self.disks[n] = Disk()
        self.starts[n] = 0

    def reachable(self, n: int) -> list[int]:
        """Sites that `n` calls alive."""
        if n not in self._reachable:
            up = (i for i, site in enumerate(self.sites) if site is not None and i != n)
            self._reachable[n] = [i for i in up if not self.cut(n, i)]
        return self._reachable[n]

    def partition(self, *sides: set[int]) -> None:
        """Only sites of one side reach each other; without sides, all do. Membership notices at once."""
        before = {n: set(self.reachable(n)) for n in range(len(self.sites))}
        self.cut = lambda a, b: bool(sides) and not any({a, b} <= side for side in sides)
        self._reachable.clear()
        for n in range(len(self.sites)):
            for other in sorted(before[n] ^ set(self.reachable(n))):
                kind = MemberBack if other in self.reachable(n) else MemberUnreachable
                event = kind(self.keys[other])
                self.feed(n, lambda site, event=event: site.member_event(event, self.now))

    def site(self, n: int) -> PushSumAveraging:
        found = self.sites[n]
        assert found is not None
        return found

    # ---- running ------------------------------------------------------------------------------------------------

    def at(self, when: Micros, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, action))

    def feed(self, n: int, call: Callable[[PushSumAveraging], None]) -> None:
        """Give a site one input and carry out what it asks for."""
        site = self.sites[n]
        if site is None:
            return
        call(site)
        while (effect := site.poll()) is not None:
            self._execute(n, site, effect)
        due = site.deadline()
        if due is not None:
            self.at(max(due, self.now), lambda: self._tick(n, site, due))

    def run(self, until: Callable[[], bool], limit: Micros) -> None:
        """Until a condition holds; a run that reaches the limit fails."""
        while not until():
            assert self._queue, "nothing left to happen"
            self.now, _, action = heapq.heappop(self._queue)
            assert self.now <= limit, f"not reached by {limit / SECOND:.0f} s: {self.summary()}"
            action()

    def run_for(self, duration: Micros) -> None:
        end = self.now + duration
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def all_complete(self) -> bool:
        return all(site is None or site.complete for site in self.sites)

    def summary(self) -> list[Any]:
        return [
            site and (site.phase.name, site.state.rounds, site.state.age, site.waiting, len(site.state.owed))
            for site in self.sites
        ]

    # ---- accounts -----------------------------------------------------------------------------------------------

    def totals(self) -> tuple[int, NDArray[Any]]:
        """Mass and sum of the federation: held, and owed and not yet taken. Exact integers."""
        mass, sums = 0, np.zeros(self.base.size, object)
        for n, site in enumerate(self.sites):
            if site is None:
                continue
            mass += site.state.holding.mass
            sums += site.state.holding.sums.astype(object)
            for to, owed in site.state.owed.items():
                receiver = self.sites[self.index[to]]
                taken = receiver.state.taken.get(self.keys[n]) if receiver else None
                if taken is not None and taken.has(site.state.life, owed.number) and not taken.refused:
                    continue
                mass += owed.mass
                sums += decode(owed.payload, self.base.size).astype(object)
        return mass, sums

    def mean(self) -> NDArray[np.float64]:
        """The federation's weighted mean change of the trunk, from exact integers."""
        mass, sums = self.totals()
        return np.array([float(Fraction(int(s), mass * 2**12)) for s in sums])

    def durable_inputs(self) -> NDArray[Any]:
        """What training put in by rounds that became durable."""
        return sum((sums for n, number, sums in self._trained if number <= self.site(n).state.rounds), self.inputs * 0)

    def seen(self, kind: type[Event]) -> list[tuple[int, Any]]:
        return [(n, event) for n, event in self.events if isinstance(event, kind)]

    # ---- inner --------------------------------------------------------------------------------------------------

    def _tick(self, n: int, site: PushSumAveraging, due: Micros) -> None:
        if self.sites[n] is site and site.deadline() == due:
            self.feed(n, lambda s: s.advance(self.now))
            after = site.deadline()
            assert after is None or after > self.now, "a deadline that stays behind keeps a driver busy for ever"

    def _execute(self, n: int, site: PushSumAveraging, effect: Any) -> None:
        match effect:
            case Send(to, message):
                self._carry(n, self.index[to], message)
            case Persist(record, ticket):
                self.at(self.now + 5 * MILLISECOND, lambda: self._durable(n, site, record, ticket))
            case Compute():
                revision = site.state.holding.revision
                self.at(self.now + 50 * MILLISECOND, lambda: self._computed(n, site, effect, revision))
            case Emit(RoundOpened(number=number, steps=steps)):
                self.events.append((n, effect.event))
                drift = self.drift(n, number, site.trunk()).astype("<f4").tobytes()
                took_us = self.train_time(n)
                done = RoundTrained(number, drift, steps, took_us, f"round-{number}", self.validation(n, number))
                self.at(self.now + took_us, lambda: self._input(n, site, done))
            case Emit(event):
                self.events.append((n, event))

    def _durable(self, n: int, site: PushSumAveraging, record: Any, ticket: int | None) -> None:
        if self.sites[n] is site:
            self.disks[n].keep(record)
            if ticket is not None:
                self._input(n, site, Persisted(ticket))

    def _computed(self, n: int, site: PushSumAveraging, effect: Compute, revision: int) -> None:
        assert site.state.holding.revision == revision, "the holding was altered under the work that reads it"
        self._input(n, site, Computed(effect.ticket, effect.work()))

    def _input(self, n: int, site: PushSumAveraging, command: Any) -> None:
        if self.sites[n] is site:
            before = site.state.holding.sums.copy()
            rounds = site.state.rounds
            self.feed(n, lambda s: s.command(command, self.now))
            if site.state.rounds > rounds:
                # Storing comes before any share leaves, so the difference is the drift alone.
                change = (site.state.holding.sums - before).astype(object)
                self.inputs += change
                # A round that a crash undid is trained again under the same number.
                self._trained = [t for t in self._trained if t[:2] != (n, rounds + 1)]
                self._trained.append((n, rounds + 1, change))

    def _carry(self, n: int, to: int, message: Message) -> None:
        data = self.encode(message)
        self.sent_bytes[n] += len(data) if isinstance(message, MassTransfer) else 0
        copies = 1 + (self.rng.random() < self.faults.repeat)
        for _ in range(copies):
            if self.rng.random() >= self.faults.loss and not self.cut(n, to):
                delay = 1 + self.rng.randrange(self.faults.most_delay)
                self.at(self.now + delay, lambda: self._deliver(n, to, data))

    def _deliver(self, n: int, to: int, data: bytes) -> None:
        message = self.decode(data)
        self.feed(to, lambda site: site.receive(self.keys[n], message, self.now))


def no_drift(site: int, number: int, trunk: NDArray[np.float32]) -> NDArray[np.float32]:
    """Training that changes nothing."""
    return np.zeros_like(trunk)


def start_values(count: int, size: int = SIZE, seed: int = 5) -> NDArray[np.float32]:
    """float32[count, size] around 0, what sites differ by at first."""
    return (0.1 * np.random.default_rng(seed).standard_normal((count, size))).astype(np.float32)
