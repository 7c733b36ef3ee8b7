"""A federation of ledgers in virtual time: disks, trainers and an oracle for membership around `LedgerAveraging`.

Membership is not simulated here (`sim.federation` does that): who is alive is told after a fixed delay, so that what is
measured is the ledger alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import Bug, RemoteError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Effect, Emit, Event, Machine, Persist, Persisted, Record, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.settings import LedgerSettings
from kmel_p2p.core.ledger.snapshot.snapshot import genesis
from kmel_p2p.core.ledger.sync.messages import SCHEMAS
from kmel_p2p.core.membership.events import MemberBack, MemberJoined, MemberUnreachable
from kmel_p2p.core.rounds import Ready, RoundAbandoned, RoundCommitted, RoundOpened, RoundTrained, RunComplete
from kmel_p2p.core.types import MILLISECOND, SECOND, Micros
from kmel_p2p.core.wire import Wire
from tests.testbed.ledger.site import Disk, LedgerHost, MemberNews, SiteTrainer, VirtualSite
from tests.testbed.network.carrier import BytesCarrier
from tests.testbed.network.connections import TransportModel
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions
from tests.testbed.network.network import Network


class Codec(Decoder, Protocol):
    """Decodes payloads; entries carry its number."""

    @property
    def codec_id(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LedgerWorld:
    """What a virtual ledger federation is made of."""

    charter: Charter
    identities: Sequence[Identity]
    codec: Codec
    initial_trunk: NDArray[np.float32]
    make_trainer: Callable[[int], SiteTrainer]
    max_payload_bytes: int
    make_host: Callable[[int, LedgerAveraging], LedgerHost] = lambda index, averaging: LedgerHost(averaging)
    step_us: Callable[[int], Micros] = lambda index: 10 * MILLISECOND
    scoring_us: Callable[[int], Micros] = lambda index: 0
    """What a round takes at a site beside its steps."""
    heads: Callable[[int], tuple[int, ...] | None] = lambda index: None
    """Shared heads that a site trains (None: all)."""
    settings: LedgerSettings = field(default_factory=lambda: LedgerSettings(hear_us=5 * SECOND))
    """Most of these federations begin without some of their sites, and few tests are about waiting for them."""
    conditions: Conditions = field(default_factory=Conditions)
    persist_us: Micros = 2 * MILLISECOND
    notice_us: Micros = 2 * SECOND
    """How long membership takes to notice that a site went away."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """The oracle's descriptor of a site."""

    size_class: int = 8
    outbound_only: bool = False


class View:
    """Whom one site holds alive. Implements `averaging.Members`."""

    def __init__(self) -> None:
        self.up: dict[SiteKey, None] = {}
        self.only_dial: frozenset[SiteKey] = frozenset()

    def alive(self) -> tuple[SiteKey, ...]:
        return tuple(self.up)

    def descriptor(self, key: SiteKey) -> SizeClass:
        return SizeClass(outbound_only=key in self.only_dial)


Hook = Callable[[VirtualSite, Record], None]


class LedgerFederation:
    """See the module docstring."""

    def __init__(self, world: LedgerWorld, seed: int) -> None:
        self.world = world
        transport = TransportModel(dialled=False, persist_us=None)
        carrier = BytesCarrier(Wire(world.charter.id, SCHEMAS))
        self.network = Network(seed, carrier, world.conditions, transport)
        self.network.watchers.append(self)
        self.sites: list[VirtualSite] = []
        self.views: list[View] = []
        self.bodies_sent: dict[tuple[SiteKey, SiteKey, int], int] = {}
        """(receiver, author, number) -> bodies sent to it."""
        self.on_write: Hook | None = None
        """Called when a record is handed to a disk, before it is durable: where tests let a site crash."""
        for index, identity in enumerate(world.identities):
            self.views.append(View())
            make = partial(world.make_trainer, index)
            disk = Disk(world.codec, genesis(world.charter.id, Accumulator.from_trunk(world.initial_trunk)))
            self.sites.append(VirtualSite(index, identity.key, make, world.step_us(index), disk))
            self.network.add(identity.key, f"site{index}", partial(self._boot, index))

    # ---- what is there ------------------------------------------------------------------------------------------

    def host(self, index: int) -> Host:
        """The network's host of a site."""
        return self.network.hosts[self.sites[index].key]

    def averaging(self, index: int) -> LedgerAveraging:
        """What a running site runs."""
        machine = self.host(index).machine
        if not isinstance(machine, LedgerHost):
            raise Bug(f"site {index} is off")
        return machine.averaging

    def running(self) -> list[int]:
        """Sites that are switched on."""
        return [site.index for site in self.sites if self.host(site.index).running]

    def digests(self) -> set[bytes]:
        """Different ledger digests among running sites: one when all agree."""
        return {self.averaging(index).ledger.digest() for index in self.running()}

    def events(self, index: int, kind: type[Event]) -> list[Event]:
        """Events of one kind told by a site."""
        return [event for _, event in self.sites[index].events if isinstance(event, kind)]

    # ---- what happens -------------------------------------------------------------------------------------------

    def start(self, index: int, ready: bool = True) -> None:
        """Switch a site on; it and every running site see each other at once."""
        self.network.start(self.host(index))
        for other in self.running():
            if other != index and not self._blocked(index, other):
                self.see(index, other, True)
                self._see_again(other, index)
        if ready:
            self.network.command(self.host(index), Ready(self.world.heads(index)))

    def start_all(self) -> None:
        """Switch every site on."""
        for site in self.sites:
            self.start(site.index)

    def crash(self, index: int) -> None:
        """Power loss; the others notice after `notice_us`."""
        site = self.sites[index]
        site.disk.crashed(self.network.now)
        site.trainer = None
        self.views[index].up.clear()
        host = self.host(index)
        starts = host.starts
        self.network.crash(host)
        for other in range(len(self.sites)):
            self._later(self.world.notice_us, partial(self._noticed, other, index, starts))

    def partition(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Cut both ways between two groups; each side notices after `notice_us`."""
        a, b = list(one), list(other)
        for sources, targets in ((a, b), (b, a)):
            self.network.block([self.host(i) for i in sources], [self.host(i) for i in targets])
        for i in a:
            for j in b:
                self._later(self.world.notice_us, partial(self._lost_sight, i, j))

    def heal(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Undo `partition`; both sides see each other at once."""
        a, b = list(one), list(other)
        for sources, targets in ((a, b), (b, a)):
            self.network.unblock([self.host(i) for i in sources], [self.host(i) for i in targets])
        for i in a:
            for j in b:
                self.see(i, j, True)
                self.see(j, i, True)

    def see(self, index: int, other: int, up: bool) -> None:
        """Membership's verdict at `index` on `other`."""
        key = self.sites[other].key
        if not self.host(index).running or (key in self.views[index].up) == up:
            return
        if up:
            self.views[index].up[key] = None
        else:
            self.views[index].up.pop(key)
        event = MemberJoined(key) if up else MemberUnreachable(key)
        self.network.command(self.host(index), MemberNews(event))

    def run(self, duration: Micros, until: Callable[[], bool] | None = None, step: Micros = SECOND) -> bool:
        """Let time pass, at most `duration`; stops early when `until` holds. Returns whether it holds."""
        end = self.network.now + duration
        while self.network.now < end:
            if until is not None and until():
                return True
            self.network.run_until(min(end, self.network.now + step))
        return until is None or until()

    def all_complete(self) -> bool:
        """Whether every running site says that the run is complete."""
        return all(self.averaging(index).complete for index in self.running())

    # ---- watcher ------------------------------------------------------------------------------------------------

    def stepped(self, host: Host, now: Micros) -> None:
        """Nothing to do per step."""

    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None:
        """Damaged messages are the network's to count."""

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        """Serve a machine as driver, store and trainer would."""
        site = self.sites[host.index]
        if isinstance(effect, Emit):
            site.events.append((now, effect.event))
            self._on_event(site, host, effect.event)
        elif isinstance(effect, Persist):
            self._on_store(site, host, effect)
        elif isinstance(effect, Send):
            self._count_bodies(effect)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _later(self, delay: Micros, action: Callable[[], None]) -> None:
        self.network.call_at(self.network.now + delay, action)

    def _boot(self, index: int, now: Micros) -> Machine:
        world, site = self.world, self.sites[index]
        site.disk.settle(self.network.now)
        ledger = site.disk.restored(self._fresh_ledger(), world.charter)
        site.trainer = site.make_trainer()
        site.trainer.resume(site.disk.own_state)
        site.finished = False
        averaging = LedgerAveraging(
            world.identities[index],
            world.charter,
            ledger,
            self.views[index],
            self.network.generator(f"ledger {index} start {self.host(index).starts}"),
            world.settings,
            world.max_payload_bytes,
            now,
        )
        return world.make_host(index, averaging)

    def _fresh_ledger(self) -> Ledger:
        world = self.world
        rules = Rules.of(world.charter, world.codec.codec_id, world.initial_trunk)
        return Ledger(Accumulator.from_trunk(world.initial_trunk), world.codec, rules)

    def _on_event(self, site: VirtualSite, host: Host, event: Event) -> None:
        trainer = site.trainer
        if trainer is None:
            return
        match event:
            case RoundOpened():
                trunk = self.averaging(site.index).trunk()
                done = partial(self._train, site, host, host.starts, event, trunk)
                self._later(self.world.scoring_us(site.index) + event.steps * site.step_us, done)
            case RoundCommitted(number=number):
                trainer.commit(number)
            case RoundAbandoned(number=number):
                trainer.abandon(number)
            case RunComplete():
                site.finished = True

    def _train(
        self, site: VirtualSite, host: Host, start: int, opened: RoundOpened, trunk: NDArray[np.float32]
    ) -> None:
        if host.starts != start or site.trainer is None:
            return
        payload, state_file = site.trainer.train(trunk, opened.number, opened.steps, opened.norm_bound)
        training_us = opened.steps * site.step_us
        self.network.command(host, RoundTrained(opened.number, payload, opened.steps, training_us, state_file))

    def _on_store(self, site: VirtualSite, host: Host, effect: Persist) -> None:
        due = self.network.now + self.world.persist_us
        site.disk.settle(self.network.now)
        site.disk.write(effect.record, due)
        if effect.ticket is not None:
            self.network.call_at(due, partial(self._persisted, host, host.starts, effect.ticket))
        if self.on_write is not None:
            self.on_write(site, effect.record)

    def _persisted(self, host: Host, start: int, ticket: int) -> None:
        if host.starts == start and host.running:
            self.network.command(host, Persisted(ticket))

    def _count_bodies(self, send: Send) -> None:
        for encoded in getattr(send.message, "entries", ()):
            what = (send.to, *_author_and_number(encoded))
            self.bodies_sent[what] = self.bodies_sent.get(what, 0) + 1

    def _blocked(self, a: int, b: int) -> bool:
        return self.network.direction(self.host(a), self.host(b)).blocked

    def _noticed(self, other: int, index: int, starts: int) -> None:
        """`other` notices that `index` is gone, unless it is back by now."""
        host = self.host(index)
        if other != index and not (host.running and host.starts > starts):
            self.see(other, index, False)

    def _see_again(self, other: int, index: int) -> None:
        """`other` hears of a new life of `index`, whether or not it noticed the end of the one before."""
        key = self.sites[index].key
        if key in self.views[other].up:
            self.network.command(self.host(other), MemberNews(MemberBack(key)))
        else:
            self.see(other, index, True)

    def _lost_sight(self, i: int, j: int) -> None:
        if self._blocked(self.host(i).index, self.host(j).index):
            self.see(i, j, False)
            self.see(j, i, False)


@lru_cache(maxsize=256)
def _author_and_number(encoded: bytes) -> tuple[SiteKey, int]:
    # Its author sends an entry to everybody: reading it each time would be most of the work.
    entry = decode(encoded)
    return entry.author, entry.number
