"""A whole peer that does not keep the rules: what it publishes is exchanged on its way out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Machine, Message, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.sync.messages import Bodies
from kmel_p2p.core.peer import Peer
from kmel_p2p.core.types import Micros
from kmel_p2p.delta import DeltaCodec
from tests.testbed.ledger.hostile import Hostile, HostileHost, Malice
from tests.testbed.peers.peer_site import PeerSite
from tests.testbed.peers.site import LAYOUT, PARAMETERS


class HostilePeer:
    """A `core.effects.Machine`: an honest peer, whose bodies of own entries are exchanged."""

    def __init__(self, peer: Peer, mind: HostileHost) -> None:
        self._peer = peer
        self._mind = mind

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        self._peer.receive(sender, message, now)

    def command(self, cmd: Any, now: Micros) -> None:
        self._peer.command(cmd, now)

    def advance(self, now: Micros) -> None:
        self._peer.advance(now)

    def deadline(self) -> Micros | None:
        return self._peer.deadline()

    def poll(self) -> Effect | None:
        effect = self._peer.poll()
        if isinstance(effect, Send) and isinstance(effect.message, Bodies):
            return replace(effect, message=self._mind.exchanged(effect.to, effect.message))
        return effect


def hostile_machine(malice: Malice, site: PeerSite, machine: Machine) -> Machine:
    """What a hostile site drives instead of its peer."""
    if not isinstance(machine, Peer) or not isinstance(machine.averaging, LedgerAveraging):
        raise Bug("malice is of mode ledger")
    identity, victim = site.world.identities[site.index], site.world.identities[0].key
    codec = DeltaCodec(LAYOUT, PARAMETERS)
    mind = Hostile(malice, identity, victim, codec, machine.averaging.ledger)
    return HostilePeer(machine, HostileHost(machine.averaging, mind))
