"""What the parts of one membership machine share: settings, table, queues, health, own descriptor, effects."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Dial, Effect, Emit, Event, Message, Persist, Record, Send
from kmel_p2p.core.membership import settings as formulas
from kmel_p2p.core.membership.descriptor import (
    GENERATION_MAX,
    SERIAL_MAX,
    Descriptor,
    OwnDescription,
    Signer,
    Verifier,
    make_descriptor,
)
from kmel_p2p.core.membership.events import GenerationRaised
from kmel_p2p.core.membership.fact_queues import FactQueues, Receiver
from kmel_p2p.core.membership.health import LocalHealth, MembershipCounters
from kmel_p2p.core.membership.members import Member, MemberState, MemberTable, handle_of
from kmel_p2p.core.membership.messages import Accusation, Fact
from kmel_p2p.core.membership.settings import MembershipSettings
from kmel_p2p.core.types import Micros, Randomness


class Context:
    """Shared state; every part changes only what its own module describes."""

    __slots__ = (
        "_limit",
        "_limit_sites",
        "charter_id",
        "counters",
        "descriptor",
        "effects",
        "handle",
        "health",
        "key",
        "left",
        "now",
        "own",
        "queues",
        "remote",
        "rng",
        "settings",
        "signer",
        "table",
        "verify",
    )  # fmt: skip

    def __init__(
        self,
        signer: Signer,
        charter_id: bytes,
        own: OwnDescription,
        settings: MembershipSettings,
        rng: Randomness,
        verify: Verifier,
        now: Micros,
    ) -> None:
        self.signer = signer
        self.key: SiteKey = signer.key
        self.handle = handle_of(signer.key)
        self.charter_id = charter_id
        self.own = own
        self.settings = settings
        self.rng = rng
        self.verify = verify
        self.now = now
        self.left = False
        self.remote = True
        self.table = MemberTable()
        self.queues = FactQueues(settings, now)
        self.health = LocalHealth(settings.health_max, settings.local_health)
        self.counters = MembershipCounters()
        self.effects: deque[Effect] = deque()
        self._limit_sites = -1
        self._limit = 0
        self.descriptor: Descriptor = make_descriptor(signer, charter_id, own, 0)
        self.queues.put(self.handle, self.descriptor, now)

    @property
    def sites(self) -> int:
        """N of every formula: ourselves and every member alive, suspect or dead."""
        return self.table.counted + 1

    @property
    def limit(self) -> int:
        """Transmissions per fact at the present size."""
        if self.sites != self._limit_sites:
            self._limit_sites = self.sites
            self._limit = formulas.retransmit_limit(self.settings, self.sites)
            self.queues.patience_us = formulas.sync_interval_us(self.settings, self.sites)
        return self._limit

    def redescribe(self, own: OwnDescription, serial: int) -> None:
        """Sign a new descriptor of ourselves and tell everybody."""
        self.own = own
        self.descriptor = make_descriptor(self.signer, self.charter_id, own, serial, self.left)
        self.queues.put(self.handle, self.descriptor, self.now)

    def renew(self, own: OwnDescription) -> None:
        """Describe ourselves as `own` from now on, in a newer descriptor than any before."""
        serial = self.descriptor.serial + 1
        if serial > SERIAL_MAX:
            self.raise_generation(self.descriptor.generation + 1)
        else:
            self.redescribe(own, serial)

    def raise_generation(self, generation: int) -> None:
        """Outrank an earlier run of this site, or move on when the serials are used up."""
        if generation > GENERATION_MAX:
            self.counters.generation_exhausted += 1
            return
        self.store(GenerationRaised(generation))
        self.redescribe(replace(self.own, generation=generation), 0)

    def cargo(self, member: Member, introduce: bool = False) -> tuple[Fact, ...]:
        """Facts for a probe message to `member`.

        First what concerns it most: to a site not heard from yet, who we are (also when it introduced itself). To one
        that is accused only the accusation, so that it can refute: it is probably not there to hear the rest.
        """
        first: tuple[Fact, ...] = ()
        if member.suspicion is not None and not introduce:
            accusation = self.accusation_of(member)
            return (accusation,) if accusation is not None else ()
        if introduce or member.state is MemberState.UNKNOWN:
            first = (self.descriptor,)
        if not first and not self.queues:
            return ()
        return self.queues.piggyback(self.receiver(member), first, self.now)

    def receiver(self, member: Member) -> Receiver:
        """What `FactQueues` has to know about a receiver."""
        return Receiver(member.handle, self.table.alive_count, self.limit)

    def accusation_of(self, member: Member) -> Accusation | None:
        """The accusation held against a suspect or dead member."""
        if member.suspicion is None or member.descriptor is None:
            return None
        suspicion, held = member.suspicion, member.descriptor
        return Accusation(member.handle, held.generation, held.serial, suspicion.finished, suspicion.accusers)

    def send(self, to: SiteKey, message: Message) -> None:
        self.effects.append(Send(to, message))

    def dial(self, to: SiteKey, addresses: tuple[str, ...]) -> None:
        self.effects.append(Dial(to, addresses))

    def emit(self, event: Event) -> None:
        self.effects.append(Emit(event))

    def store(self, record: Record) -> None:
        self.effects.append(Persist(record))
