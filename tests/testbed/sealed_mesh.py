"""A virtual network of sites in sealed rounds, with disks: loss, repetition, reordering, crashes; no clock."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Emit, Event, Message, Persist, Persisted, Send
from kmel_p2p.core.membership.events import MemberBack, MemberUnreachable
from kmel_p2p.core.rounds import Ready, RoundAbandoned, RoundCommitted, RoundOpened, RoundTrained
from kmel_p2p.core.sealed.averaging import SealedAveraging
from kmel_p2p.core.sealed.events import AccusationRecord, CandidateRecord, OwnStateRecord, SumRecord
from kmel_p2p.core.sealed.messages import SCHEMAS
from kmel_p2p.core.sealed.own_part import SealedState, decode_own_state
from kmel_p2p.core.sealed.rules import SealedRules, SealedSettings
from kmel_p2p.core.sealed.sums import decode_sum
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.core.wire import Wire

CHARTER_ID = b"s" * 32
SIZE = 240
FAST = SealedSettings(
    settle_us=SECOND,
    gather_us=SECOND,
    turn_us=SECOND,
    patience_us=4 * SECOND,
    gone_us=SECOND,
    limit_us=60 * SECOND,
    vote_us=4 * SECOND,
    tell_us=SECOND // 2,
    rest_us=SECOND,
)

Drift = Callable[[int, int, NDArray[np.float32]], NDArray[np.float32]]
"""(site, own round, trunk at its start) -> drift."""


@dataclass
class Faults:
    """What the network does to messages."""

    loss: float = 0.0
    repeat: float = 0.0
    most_delay: Micros = 20 * MILLISECOND


@dataclass
class Disk:
    """What survives a crash."""

    own: bytes | None = None
    residual: bytes | None = None
    candidate: bytes | None = None
    sums: list[bytes] = field(default_factory=list)
    own_state_file: str | None = None
    accusations: list[AccusationRecord] = field(default_factory=list)

    def keep(self, record: Any) -> None:
        match record:
            case OwnStateRecord():
                self.own = record.state
                self.own_state_file = record.own_state_file or self.own_state_file
                if record.adopt:
                    self.residual, self.candidate = self.candidate, None
            case CandidateRecord():
                self.candidate = record.residual
            case SumRecord():
                assert record.number == len(self.sums) + 1
                self.sums.append(record.encoded)
                self.own = record.state
                self.own_state_file = record.own_state_file or self.own_state_file
                if record.adopt:
                    self.residual, self.candidate = self.candidate, None
            case AccusationRecord():
                self.accusations.append(record)


@dataclass
class Descriptor:
    size_class: int
    outbound_only: bool = False


class View:
    """One site's membership."""

    def __init__(self, mesh: Mesh, own: int) -> None:
        self._mesh, self._own = mesh, own

    def alive(self) -> tuple[SiteKey, ...]:
        return tuple(self._mesh.keys[i] for i in self._mesh.reachable(self._own))

    def descriptor(self, key: SiteKey) -> Descriptor:
        return Descriptor(self._mesh.classes[self._mesh.index[key]])


def towards(size: int = SIZE, seed: int = 3) -> Drift:
    """Training that goes a part of the way to a target of the site's own."""

    def drift(site: int, number: int, trunk: NDArray[np.float32]) -> NDArray[np.float32]:
        target = np.random.default_rng((seed, site)).normal(1.0, 0.3, size).astype(np.float32)
        return (0.2 * (target - trunk)).astype(np.float32)

    return drift


class Mesh:
    """Sites 0..n-1. Times in microseconds."""

    def __init__(
        self,
        count: int,
        drift: Drift | None = None,
        seed: int = 0,
        faults: Faults | None = None,
        settings: SealedSettings = FAST,
        classes: list[int] | None = None,
        train_time: Callable[[int], Micros] = lambda site: SECOND,
        size: int = SIZE,
        **rules: Any,
    ) -> None:
        self.classes = classes or [6] * count
        self.identities = sorted((Identity(bytes([n + 1]) * 32) for n in range(count)), key=lambda i: i.key)
        self.keys = [identity.key for identity in self.identities]
        self.index = {key: n for n, key in enumerate(self.keys)}
        self.base = np.zeros(size, np.float32)
        about: dict[str, Any] = {"start_sites": min(count, 4), "min_group": 4, "min_sum": 4, "entry_limit": 6}
        fixed: dict[str, Any] = {"levels": 7, "steps_per_entry": 5, "weight_cap": 2.0, "exponent": -5}
        self.rules = SealedRules(CHARTER_ID, tuple(self.keys), **{**about, **fixed, **rules})
        self.settings, self.faults, self.train_time = settings, faults or Faults(), train_time
        self.drift = drift or towards(size)
        self.rng = random.Random(seed)
        self.seed = seed
        self.wire = Wire(CHARTER_ID, SCHEMAS)
        self.now: Micros = 0
        self.disks = [Disk() for _ in range(count)]
        self.starts = [0] * count
        self.sites: list[SealedAveraging | None] = [None] * count
        self.events: list[tuple[int, Event]] = []
        self.trained: dict[int, NDArray[np.float32]] = {}
        """Site -> drift of its open round."""
        self.sent: list[tuple[int, int, Message]] = []
        self.tamper: Callable[[int, int, Message], Message | None] = lambda n, to, message: message
        """What site n really sends to `to`; None: nothing."""
        self.watch: Callable[[int], None] = lambda n: None
        """Called after every input of a site."""
        self.cut: Callable[[int, int], bool] = lambda a, b: False
        self._queue: list[tuple[Micros, int, Callable[[], None]]] = []
        self._order = 0
        for n in range(count):
            self.start(n)

    # ---- life of a site -----------------------------------------------------------------------------------------

    def start(self, n: int) -> None:
        """Start or restart a site from its disk."""
        disk = self.disks[n]
        self.starts[n] += 1
        size = self.base.size
        log = self.rules.empty_log(self.base)
        for encoded in disk.sums:
            log.add(decode_sum(encoded))
        own = decode_own_state(disk.own, CHARTER_ID, "disk") if disk.own is not None else SealedState()
        residual = np.frombuffer(disk.residual, np.float32) if disk.residual else np.zeros(size, np.float32)
        candidate = np.frombuffer(disk.candidate, np.float32) if disk.candidate else None
        drawn = [0]

        def entropy(size: int) -> bytes:
            drawn[0] += 1
            return hashlib.sha256(repr((self.seed, n, self.starts[n], drawn[0])).encode()).digest()[:size]

        about = (self.identities[n], self.rules, View(self, n), random.Random(self.rng.randrange(2**32)))
        self.sites[n] = SealedAveraging(*about, self.settings, log, own, residual.copy(), candidate, entropy, self.now)
        for other in self.reachable(n):
            self.feed(other, lambda site: site.member_event(MemberBack(self.keys[n]), self.now))
            self.feed(n, lambda site, other=other: site.member_event(MemberBack(self.keys[other]), self.now))
        self.feed(n, lambda site: site.command(Ready(), self.now))

    def crash(self, n: int) -> None:
        """Lose everything that is not on the disk."""
        self.sites[n] = None
        for other in range(len(self.sites)):
            self.feed(other, lambda site: site.member_event(MemberUnreachable(self.keys[n]), self.now))

    def restart(self, n: int, after: Micros = 2 * SECOND) -> None:
        """Crash, and come back."""
        self.crash(n)
        self.at(self.now + after, lambda: self.start(n) if self.sites[n] is None else None)

    def reachable(self, n: int) -> list[int]:
        return [i for i, site in enumerate(self.sites) if site is not None and i != n and not self.cut(n, i)]

    def site(self, n: int) -> SealedAveraging:
        found = self.sites[n]
        assert found is not None
        return found

    # ---- running ------------------------------------------------------------------------------------------------

    def at(self, when: Micros, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, action))

    def feed(self, n: int, call: Callable[[SealedAveraging], None]) -> None:
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
        self.watch(n)

    def run(self, until: Callable[[], bool], limit: Micros) -> None:
        """Until a condition holds; a run that reaches the limit fails."""
        while not until():
            assert self._queue, "nothing left to happen"
            self.now, _, action = heapq.heappop(self._queue)
            assert self.now <= limit, f"not reached by {limit / SECOND:.0f} s: {self.summary()}"
            action()

    def all_complete(self) -> bool:
        return all(site is None or site.complete for site in self.sites)

    def digests(self) -> set[bytes]:
        return {site.digest_work()() for site in self.sites if site is not None}

    def summary(self) -> list[Any]:
        return [
            site and (site.log.number, site.progress, site.waiting, site.phase.name, site.present.at.ballots.ballot)
            for site in self.sites
        ]

    def seen(self, kind: type[Event]) -> list[tuple[int, Any]]:
        return [(n, event) for n, event in self.events if isinstance(event, kind)]

    # ---- inner --------------------------------------------------------------------------------------------------

    def _tick(self, n: int, site: SealedAveraging, due: Micros) -> None:
        if self.sites[n] is site and site.deadline() == due:
            self.feed(n, lambda s: s.advance(self.now))
            after = site.deadline()
            assert after is None or after > self.now, f"a deadline stays behind: {self.summary()}"

    def _execute(self, n: int, site: SealedAveraging, effect: Any) -> None:
        match effect:
            case Send(to, message):
                self._carry(n, self.index[to], message)
            case Persist(record, ticket):
                self.at(self.now + 5 * MILLISECOND, lambda: self._durable(n, site, record, ticket))
            case Emit(RoundOpened(number=number, steps=steps)):
                self.events.append((n, effect.event))
                drift = self.drift(n, number, site.trunk()).astype("<f4")
                self.trained[n] = drift
                done = RoundTrained(number, drift.tobytes(), steps, self.train_time(n), f"round-{number}", None)
                self.at(self.now + self.train_time(n), lambda: self._input(n, site, done))
            case Emit(event):
                if isinstance(event, RoundCommitted | RoundAbandoned):
                    self.trained.pop(n, None)
                self.events.append((n, event))

    def _durable(self, n: int, site: SealedAveraging, record: Any, ticket: int | None) -> None:
        if self.sites[n] is site:
            self.disks[n].keep(record)
            if ticket is not None:
                self._input(n, site, Persisted(ticket))

    def _input(self, n: int, site: SealedAveraging, command: Any) -> None:
        if self.sites[n] is site:
            self.feed(n, lambda s: s.command(command, self.now))

    def _carry(self, n: int, to: int, message: Message) -> None:
        really = self.tamper(n, to, message)
        if really is None:
            return
        self.sent.append((n, to, really))
        data = self.wire.encode(really)
        for _ in range(1 + (self.rng.random() < self.faults.repeat)):
            if self.rng.random() >= self.faults.loss and not self.cut(n, to):
                delay = 1 + self.rng.randrange(self.faults.most_delay)
                self.at(self.now + delay, lambda: self._deliver(n, to, data))

    def _deliver(self, n: int, to: int, data: bytes) -> None:
        message = self.wire.decode(data)
        self.feed(to, lambda site: site.receive(self.keys[n], message, self.now))


def with_limit(settings: SealedSettings, **changes: Any) -> SealedSettings:
    """The same settings with other times."""
    return replace(settings, **changes)
