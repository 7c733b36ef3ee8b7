"""Memberships in the virtual-time network: keys, signatures that cost nothing, roster, boot with or without disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.effects import Effect, Machine, Message
from kmel_p2p.core.membership import (
    SCHEMAS,
    Descriptor,
    DescriptorLearned,
    GenerationRaised,
    Membership,
    MembershipSettings,
    OwnDescription,
    Recall,
    RosterSite,
    message_size,
)
from kmel_p2p.core.membership.messages import Accusation, Fact
from kmel_p2p.core.membership.sizes import fact_size
from kmel_p2p.core.types import Micros
from kmel_p2p.core.wire import Wire
from tests.testbed.network.carrier import BytesCarrier, Carrier, ObjectCarrier
from tests.testbed.network.connections import TransportModel
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions
from tests.testbed.network.network import Network

CHARTER_ID = digest(b"virtual charter")
PORT = 4600


class VirtualSigner:
    """Stands in for Ed25519: deterministic, binding for everybody who does not set out to forge."""

    __slots__ = ("key",)

    def __init__(self, key: SiteKey) -> None:
        self.key = key

    def sign(self, context: bytes, message: bytes) -> bytes:
        return _stamp(self.key, context, message)


def _stamp(key: SiteKey, context: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(context + message, digest_size=64, key=key).digest()


def verify_virtual(key: SiteKey, context: bytes, message: bytes, signature: bytes) -> bool:
    """The counterpart of `VirtualSigner`."""
    return _stamp(key, context, message) == signature


class Sizes:
    """Encoded sizes of messages, remembering those of descriptors, which large simulations send again and again."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def of(self, message: Message) -> int:
        """Encoded bytes of a message."""
        return message_size(message, self._of_fact)

    def _of_fact(self, fact: Fact) -> int:
        if isinstance(fact, Accusation):
            return fact_size(fact)
        known = self._known.get(fact.signature)
        if known is None:
            known = self._known[fact.signature] = fact_size(fact)
        return known


@dataclass(slots=True)
class Disk:
    """What a host keeps over a restart."""

    generation: int = 0
    descriptors: dict[SiteKey, Descriptor] | None = None


@dataclass(frozen=True, slots=True)
class FederationPlan:
    """What a simulated federation is made of."""

    members: int
    spares: int = 0
    """Hosts that are not in the roster at first; they follow the members in index."""
    conditions: Conditions = field(default_factory=Conditions)
    transport: TransportModel = field(default_factory=TransportModel)
    encoded: bool = False
    """Every message goes through the wire's encoder and decoder."""
    outbound_only: frozenset[int] = frozenset()
    identical: bool = False
    """Every host draws the same random numbers."""


class Federation:
    """Sites, each a host of the network. Nothing runs until hosts are started."""

    def __init__(self, plan: FederationPlan, settings: MembershipSettings, seed: int) -> None:
        self.plan = plan
        self.settings = settings
        carrier: Carrier = BytesCarrier(Wire(CHARTER_ID, SCHEMAS)) if plan.encoded else ObjectCarrier(Sizes().of)
        self.network = Network(seed, carrier, plan.conditions, plan.transport)
        self.network.watch(self, steps=False, sends=False)
        self.disks: dict[SiteKey, Disk] = {}
        keys = [SiteKey(digest(b"virtual site %d" % index)) for index in range(plan.members + plan.spares)]
        sites = [RosterSite(k, f"site{i}", self._listed(i)) for i, k in enumerate(keys)]
        self.roster = {site.key: site for site in sites[: plan.members]}
        self.hosts = [self._add(site) for site in sites]

    def _listed(self, index: int) -> tuple[str, ...]:
        return () if index in self.plan.outbound_only else (address_of(index),)

    def _add(self, site: RosterSite) -> Host:
        self.disks[site.key] = Disk()
        host: Host

        def boot(now: Micros) -> Machine:
            return self._boot(host, now)

        host = self.network.add(site.key, site.name, boot, site.addresses)
        return host

    def _boot(self, host: Host, now: Micros) -> Machine:
        disk = self.disks[host.key]
        disk.generation += 1
        own = OwnDescription(
            disk.generation,
            host.addresses,
            size_class=host.index % 16,
            outbound_only=host.index in self.plan.outbound_only,
        )
        who = 0 if self.plan.identical else host.index
        rng = self.network.generator(f"membership {who} start {host.starts}")
        membership = Membership(
            VirtualSigner(host.key), CHARTER_ID, self.roster, own, self.settings, rng, now, verify_virtual
        )
        if disk.descriptors:
            membership.command(Recall(tuple(disk.descriptors[k] for k in sorted(disk.descriptors))), now)
        return membership

    def wipe(self, host: Host, generation: int = 0) -> None:
        """The disk is lost; `generation` is the floor from which the next start counts."""
        self.disks[host.key] = Disk(generation)

    # -- watcher: the disk ---------------------------------------------------------------------------------------

    def stepped(self, host: Host, now: Micros) -> None:
        """Nothing to do per step."""

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        """Keep what the machine asks to keep."""
        record = getattr(effect, "record", None)
        disk = self.disks[host.key]
        if isinstance(record, GenerationRaised):
            disk.generation = record.generation
        elif isinstance(record, DescriptorLearned):
            if disk.descriptors is None:
                disk.descriptors = {}
            disk.descriptors[record.descriptor.key] = record.descriptor

    def refused(self, host: Host, sender: Host, error: Exception, now: Micros) -> None:
        """Nothing to do."""


def address_of(index: int) -> str:
    """The address a simulated site listens at."""
    return f"tcp://10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}:{PORT}"


def membership_of(host: Host) -> Membership | None:
    """The membership a host runs, if it is on."""
    machine = host.machine
    if type(machine) is Membership:
        return machine
    found = getattr(machine, "membership", None)
    return found if isinstance(found, Membership) else None
