"""One site's whole protocol: membership and one averaging mode behind the contract of `effects.Machine`."""

from __future__ import annotations

from collections import deque
from typing import Any

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message
from kmel_p2p.core.membership import Membership, RosterSite, SetRoster
from kmel_p2p.core.membership.messages import SCHEMAS as MEMBERSHIP_SCHEMAS
from kmel_p2p.core.rounds import COMMANDS, Averaging, CharterAmended
from kmel_p2p.core.types import Micros
from kmel_p2p.core.wire import Schema, Wire


def make_wire(charter_id: bytes, averaging: tuple[Schema, ...]) -> Wire:
    """The message table under a charter: membership's messages and those of its averaging mode. No others decode."""
    return Wire(charter_id, (*MEMBERSHIP_SCHEMAS, *averaging))


class Peer:
    """Routes messages, commands and time to its two parts; tells each what the other decided."""

    def __init__(self, own: SiteKey, membership: Membership, averaging: Averaging) -> None:
        self._own = own
        self.membership = membership
        self.averaging = averaging
        self._outbox: deque[Effect] = deque()

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed a message from an authenticated sender."""
        if isinstance(message, self.averaging.messages):
            self.averaging.receive(sender, message, now)
        else:
            self.membership.receive(sender, message, now)
        self._gather(now)

    def command(self, cmd: Any, now: Micros) -> None:
        """Feed a command of the driver; what is not about rounds is membership's."""
        if isinstance(cmd, COMMANDS):
            self.averaging.command(cmd, now)
        else:
            self.membership.command(cmd, now)
        self._gather(now)

    def advance(self, now: Micros) -> None:
        """Time passed."""
        self.membership.advance(now)
        self.averaging.advance(now)
        self._gather(now)

    def deadline(self) -> Micros | None:
        """When `advance` is due next."""
        moments = (self.membership.deadline(), self.averaging.deadline())
        return min((m for m in moments if m is not None), default=None)

    def poll(self) -> Effect | None:
        """The next effect, or None."""
        return self._outbox.popleft() if self._outbox else None

    def _gather(self, now: Micros) -> None:
        """Collect both parts' effects, telling averaging what membership decided."""
        progressed = True
        while progressed:
            progressed = False
            while (effect := self.membership.poll()) is not None:
                self._outbox.append(effect)
                if isinstance(effect, Emit):
                    self.averaging.member_event(effect.event, now)
            while (effect := self.averaging.poll()) is not None:
                self._outbox.append(effect)
                if isinstance(effect, Emit) and isinstance(effect.event, CharterAmended):
                    self.membership.command(SetRoster(self._roster(effect.event.constitution)), now)
                    progressed = True

    def _roster(self, constitution: Constitution) -> dict[SiteKey, RosterSite]:
        """The current sites; a retired one still knows itself."""
        sites = dict(constitution.roster)
        sites.setdefault(self._own, constitution.everyone[self._own])
        return {key: RosterSite(key, rule.name, rule.addresses) for key, rule in sorted(sites.items())}
