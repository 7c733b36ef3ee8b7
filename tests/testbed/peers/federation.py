"""A federation of whole peers in one virtual time: hosts, gates, disks, trainers, and the orders of operators."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.errors import LocalError, RemoteError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Event, Machine, Message, Persist, Persisted, Send
from kmel_p2p.core.membership import commands as membership_commands
from kmel_p2p.core.membership.events import LeaveFinished
from kmel_p2p.core.peer import make_wire
from kmel_p2p.core.rounds import (
    Amend,
    RoundAbandoned,
    RoundCommitted,
    RoundFailed,
    RoundOpened,
    RunComplete,
    Unready,
)
from kmel_p2p.core.types import SECOND, Micros
from kmel_p2p.core.wire import Wire
from kmel_p2p.net import frames
from kmel_p2p.net.driver import BadMessage
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.state.recording import work_of
from tests.testbed.network.carrier import BytesCarrier
from tests.testbed.network.connections import TransportModel
from tests.testbed.network.host import Host
from tests.testbed.network.links import Conditions
from tests.testbed.network.network import Network
from tests.testbed.peers.disk import VirtualDisk
from tests.testbed.peers.peer_site import PeerSite, keep_models
from tests.testbed.peers.site import World

PREPARATION: Micros = 3 * SECOND
"""Until the trainer has prepared its data."""
MODELS_TAKE: Micros = 5 * SECOND
"""From the end of a run until the models are written."""

Wrap = Callable[[PeerSite, Machine], Machine]
"""What a host drives: the peer, or something hostile around it."""


class FrameCarrier(BytesCarrier):
    """Every message in the transport's own frame."""

    def pack(self, message: Message) -> bytes:
        return frames.encode(frames.Payload(super().pack(message)))

    def unpack(self, packed: bytes) -> Message:
        frame = frames.decode(packed)
        if not isinstance(frame, frames.Payload):
            raise WireError("not a message")
        return super().unpack(frame.data)


class PeerFederation:
    """See the module docstring. All sites are off at first.

    Args:
        world: charter and identities.
        seed: of everything that is random.
        folder: an empty one, for the disks.
        wrap: what is driven instead of a site's peer.
    """

    def __init__(self, world: World, seed: int, folder: Path, wrap: Wrap = lambda site, peer: peer) -> None:
        self.world = world
        self.folder = folder
        wire = make_wire(world.charter.id, mode_of(world.charter).messages)
        transport = TransportModel(dialled=True, persist_us=None)
        conditions = Conditions(lanes_apart=True)
        self.carrier = FrameCarrier(wire)
        self.network = Network(seed, self.carrier, conditions, transport)
        self.network.admits = lambda host, dialler: self.sites[host.index].admits(dialler.key, self.network.now)
        self.network.turned_away = lambda host, dialler: self._at_the_desk(
            self.sites[host.index], self.sites[dialler.index]
        )
        self.network.watch(self, steps=False, sends=True)
        self.wire: Wire = wire
        self.sites: list[PeerSite] = []
        self.hosts: list[Host] = []
        self.watchers: list[Callable[[PeerSite, Effect], None]] = []
        """Told of each event and record of a site, before they take effect."""
        self.refusals: deque[tuple[PeerSite, PeerSite, RemoteError]] = deque(maxlen=1000)
        """Messages that did not decode, or were refused by the machine: receiver and sender."""
        self._wrap = wrap
        self._seed = seed
        for index in range(len(world.identities)):
            self._add(index)

    # ---- what is there ------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[PeerSite]:
        """Sites that are switched on."""
        return [site for site in self.sites if site.life is not None]

    def constitution(self, sites: Iterable[PeerSite]) -> Constitution:
        """The longest one in force at any of these sites."""
        known = [site.site.constitution for site in sites if site.life is not None]
        return max(known, key=lambda constitution: constitution.number, default=Constitution(self.world.charter))

    def command(self, site: PeerSite, cmd: Any) -> None:
        """Feed a command of the daemon."""
        if site.life is not None:
            self.network.command(self.hosts[site.number], cmd)

    # ---- power --------------------------------------------------------------------------------------------------

    def start(self, site: PeerSite) -> None:
        """Switch a site on; its trainer is ready a little later."""
        if site.life is not None:
            return
        self.network.start(self.hosts[site.number])
        for cmd in site.first_commands():
            self.command(site, cmd)
        self._later(PREPARATION, site, partial(self._prepared, site))

    def lose_power(self, site: PeerSite, reset: bool = False) -> None:
        """The site is gone at once. `reset`: only its process, and its kernel tells the others."""
        if site.life is None:
            return
        site.disk.lose_power(self.hosts[site.number].rng)
        site.end()
        self.network.crash(self.hosts[site.number], reset)

    def stop(self, site: PeerSite) -> None:
        """The site says goodbye, then ends in order."""
        if site.life is not None and not site.life.leaving:
            site.life.leaving = True
            self.command(site, membership_commands.Leave())
            self._later(2 * SECOND, site, partial(self._stopped, site))

    def copy(self, site: PeerSite) -> PeerSite:
        """A second machine with a copy of this one's disk, switched off."""
        twin = self._add(site.index, site)
        site.disk.copy_to(twin.disk.folder)
        return twin

    def lose_trainer(self, site: PeerSite) -> None:
        """The trainer dies; another one is ready a little later."""
        life = site.life
        if life is None or not life.trainer_is_up:
            return
        life.trainer_is_up = False
        number, life.training = life.training, None
        self.command(site, Unready("killed") if number is None else RoundFailed(number, "killed"))
        self._later(PREPARATION, site, partial(self._prepared, site))

    # ---- operators ----------------------------------------------------------------------------------------------

    def order(self, site: PeerSite, name: str, /, **arguments: Any) -> bool:
        """An order of the operator; whether the peer took it, or will at its next start."""
        if site.life is None:
            return site.leave_order(name, arguments)
        try:
            site.order(partial(self.command, site), name, arguments)
        except LocalError:
            return False
        return True

    def close(self) -> None:
        """Close the disk of every site."""
        for site in self.sites:
            site.disk.close()

    def amend(self, at: PeerSite, document: AmendmentDocument) -> bool:
        """The operator hands in an amendment; whether the peer took it."""
        if at.life is None:
            return False
        site = at.site
        try:
            mode_of(site.charter).check_amendment(site, at.life.peer.averaging, document)
        except LocalError:
            return False
        if site.constitution.why_not_in_force(document):
            return False
        self.command(at, Amend(document.encode()))
        return True

    # ---- watcher of the network ---------------------------------------------------------------------------------

    def stepped(self, host: Host, now: Micros) -> None:
        """Nothing to do per step."""

    def refused(self, host: Host, sender: Host, error: RemoteError, now: Micros) -> None:
        """A message was refused: told as the driver tells it."""
        site, other = self.sites[host.index], self.sites[sender.index]
        self.refusals.append((site, other, error))
        if site.life is not None:
            site.life.bad_messages[other.key] += 1
            site.life.reporter.bad_message(BadMessage(other.key, error, site.life.bad_messages[other.key]))

    def effect(self, host: Host, effect: Effect, size_bytes: int, now: Micros) -> None:
        """Serve a peer as driver, daemon, store and trainer would."""
        site = self.sites[host.index]
        if isinstance(effect, Send):
            site.bytes_out += size_bytes
            return
        for watcher in self.watchers:
            watcher(site, effect)
        if isinstance(effect, Emit):
            self._told(site, effect.event)
        elif isinstance(effect, Persist):
            ticket = effect.ticket
            done = (lambda: None) if ticket is None else partial(self.command, site, Persisted(ticket))
            site.disk.write(work_of(effect.record, site.site), done)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _add(self, index: int, original: PeerSite | None = None) -> PeerSite:
        number = len(self.sites)
        disk = VirtualDisk(self.folder / f"disk{number}", self._disk_later)
        constitution = original.constitution if original else Constitution(self.world.charter)
        site = PeerSite(self.world, index, number, constitution, disk, self._seed)
        boot = partial(self._boot, site)
        self.sites.append(site)
        rule = self.world.rule(index)
        if original is None:
            self.hosts.append(self.network.add(site.key, rule.name, boot, rule.addresses))
        else:
            self.hosts.append(self.network.add_copy(self.hosts[original.number], f"{rule.name} (copy)", boot))
        return site

    def _at_the_desk(self, asked: PeerSite, asks: PeerSite) -> None:
        """A site whose key another one refuses asks its desk: one of the two may lack an amendment."""
        if asked.life is None or asks.life is None:
            return
        ours, theirs = asks.lane(partial(self.command, asks)), asked.lane(partial(self.command, asked))
        with suppress(LocalError):
            known = asks.key in asked.site.constitution.everyone
            question = ours.question(asked.site.constitution.number)
            reply = theirs.answer(known, question["have"], theirs.read(question["documents"]))
            ours.heard(reply["number"], ours.read(reply["documents"]))

    def _boot(self, site: PeerSite, now: Micros) -> Machine:
        rng = self.network.generator(f"peer {site.number} start {self.hosts[site.number].starts}")
        host = self.hosts[site.number]
        peer = site.start(rng, now, lambda: host.local(self.network.now))
        return self._wrap(site, peer)

    def _prepared(self, site: PeerSite) -> None:
        for cmd in site.prepared():
            self.command(site, cmd)

    def _stopped(self, site: PeerSite) -> None:
        if site.life is not None and site.life.leaving:
            site.disk.close()
            site.end()
            self.network.crash(self.hosts[site.number], reset=True)

    def _told(self, site: PeerSite, event: Event) -> None:
        life = site.life
        if life is None:
            return
        match event:
            case RoundOpened(number=number, steps=steps):
                life.open_round = life.training = number
                self._later(steps * site.step_us, site, partial(self._trained, site, event))
            case RoundCommitted() | RoundAbandoned():
                life.open_round = life.training = None
            case RunComplete():
                self._later(MODELS_TAKE, site, partial(self._models_written, site))
            case LeaveFinished():
                self.network.call_at(self.network.now, partial(self._stopped, site))
        site.told(event)

    def _trained(self, site: PeerSite, opened: RoundOpened) -> None:
        life = site.life
        if life is None or life.training != opened.number:
            return
        life.training = None
        self.command(site, site.train(opened, life.number))

    def _models_written(self, site: PeerSite) -> None:
        if site.life is not None and site.life.peer.averaging.complete:
            site.disk.write(keep_models(site.life.peer.averaging.allowance))

    def _later(self, delay_us: Micros, site: PeerSite, action: Callable[[], None]) -> None:
        """Do something in the present life of a site, unless it has ended by then."""
        lives = site.lives

        def act() -> None:
            if site.life is not None and site.lives == lives:
                action()

        self.network.call_at(self.network.now + delay_us, act)

    def _disk_later(self, delay_us: Micros, action: Callable[[], None]) -> None:
        self.network.call_at(self.network.now + delay_us, action)


def keys_of(sites: Iterable[PeerSite]) -> frozenset[SiteKey]:
    """Their keys."""
    return frozenset(site.key for site in sites)
