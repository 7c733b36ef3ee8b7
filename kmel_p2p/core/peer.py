"""One site's whole protocol: membership, one averaging mode and the board behind the contract of `effects.Machine`.

Whom the operator blocks is treated as if it were not on the roster: its messages are dropped, nothing is sent to it,
and nothing waits for it. What it signed still counts where others hand it on: without it, sites would hold other sums.

A site whose key an amendment replaced may be let in under the old one for some days (`agreement.key_overlap`), until
the new one is in sight or has published. Under the old key it hears and hands on; its log ends as the amendment says.

After this process stood still, what had come in meanwhile says how things were, not how they are: a copy of this site
may have run. So every connection is made anew, and nothing is read of the old ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from typing import Any

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.key_overlap import overlapping
from kmel_p2p.core.board.board import COMMANDS as BOARD_COMMANDS
from kmel_p2p.core.board.board import Board, RosterChanged
from kmel_p2p.core.board.messages import SCHEMAS as BOARD_SCHEMAS
from kmel_p2p.core.effects import Effect, Emit, Hangup, LinkUp, Message, StoodStill
from kmel_p2p.core.membership import Membership, RosterSite, SetRoster
from kmel_p2p.core.membership.events import MemberBack, MemberJoined, MemberLeft, MemberRemoved
from kmel_p2p.core.membership.members import COUNTED
from kmel_p2p.core.membership.messages import SCHEMAS as MEMBERSHIP_SCHEMAS
from kmel_p2p.core.rounds import COMMANDS, Averaging, Blocked, CharterAmended, SiteBlocked, SiteUnblocked
from kmel_p2p.core.types import Micros
from kmel_p2p.core.wire import Schema, Wire

STOOD_STILL = "this machine stood still: what came over the old connection may no longer hold"


def make_wire(charter_id: bytes, averaging: tuple[Schema, ...]) -> Wire:
    """The message table under a charter: those of membership, of its averaging mode and of the board, and no others."""
    return Wire(charter_id, (*MEMBERSHIP_SCHEMAS, *averaging, *BOARD_SCHEMAS))


class Peer:
    """Routes messages, commands and time to its parts; tells each what the others decided."""

    def __init__(
        self,
        own: SiteKey,
        membership: Membership,
        averaging: Averaging,
        board: Board,
        constitution: Constitution,
        blocked: frozenset[SiteKey] = frozenset(),
        now: Micros = 0,
    ) -> None:
        """`blocked`: sites that the operator has blocked; `membership` does not know them."""
        self._own = own
        self.membership = membership
        self.averaging = averaging
        self.board = board
        self._constitution = constitution
        self._blocked = blocked
        self._unread: set[SiteKey] = set()
        """Sites that have no new connection yet since this process stood still."""
        self._former: frozenset[SiteKey] = frozenset()
        """Old keys that are let in beside the new ones."""
        self._outbox: deque[Effect] = deque()
        averaging.command(Blocked(blocked), now)
        self._look_at_former_keys(now)

    @property
    def admitted(self) -> Set[SiteKey]:
        """Keys that are let in: the roster's, and old ones beside the new ones. Blocked ones among them."""
        return self._constitution.roster.keys() | self._former

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed a message from an authenticated sender."""
        if sender in self._blocked or sender in self._unread:
            return
        if isinstance(message, self.averaging.messages):
            self.averaging.receive(sender, message, now)
        elif isinstance(message, self.board.messages):
            self.board.receive(sender, message, now)
        else:
            self.membership.receive(sender, message, now)
        self._gather(now)

    def command(self, cmd: Any, now: Micros) -> None:
        """Feed a command of the driver; what is not about rounds is membership's."""
        if isinstance(cmd, Blocked):
            before, self._blocked = self._blocked, cmd.sites
            self._outbox.extend(Emit(SiteBlocked(key)) for key in sorted(cmd.sites - before))
            self._outbox.extend(Emit(SiteUnblocked(key)) for key in sorted(before - cmd.sites))
            self.membership.command(SetRoster(self._roster()), now)
        if isinstance(cmd, StoodStill):
            self._stood_still(cmd, now)
        elif isinstance(cmd, LinkUp):
            self._unread.discard(cmd.key)
        if isinstance(cmd, COMMANDS):
            self.averaging.command(cmd, now)
        elif isinstance(cmd, BOARD_COMMANDS):
            self.board.command(cmd, now)
            self._look_at_former_keys(now)
        else:
            self.membership.command(cmd, now)
        self._gather(now)

    def advance(self, now: Micros) -> None:
        """Time passed."""
        self.membership.advance(now)
        self.averaging.advance(now)
        self.board.advance(now)
        self._gather(now)

    def deadline(self) -> Micros | None:
        """When `advance` is due next."""
        moments = (self.membership.deadline(), self.averaging.deadline(), self.board.deadline())
        return min((m for m in moments if m is not None), default=None)

    def poll(self) -> Effect | None:
        """The next effect, or None."""
        return self._outbox.popleft() if self._outbox else None

    def _stood_still(self, stood_still: StoodStill, now: Micros) -> None:
        """Nothing that was said before counts; what is sent from now on goes over new connections."""
        self._outbox.append(Emit(stood_still))
        self._unread = set(self.membership.roster)
        self._outbox.extend(Hangup(key, STOOD_STILL) for key in self.membership.roster)
        self.membership.command(stood_still, now)

    def _gather(self, now: Micros) -> None:
        """Collect all parts' effects, telling averaging and the board what membership decided."""
        progressed = True
        while progressed:
            progressed = False
            while (effect := self.membership.poll()) is not None:
                if isinstance(effect, Emit):
                    # A blocked site may come back: for averaging it left, it is not retired.
                    match effect.event:
                        case MemberRemoved(key=key) if key in self._blocked:
                            effect = Emit(MemberLeft(key))
                        case MemberJoined(key=key) | MemberBack(key=key):
                            self.board.greet(key)
                            self._look_at_former_keys(now)
                    self.averaging.member_event(effect.event, now)
                self._outbox.append(effect)
            while (effect := self.averaging.poll()) is not None:
                self._outbox.append(effect)
                if isinstance(effect, Emit) and isinstance(effect.event, CharterAmended):
                    self._constitution = effect.event.constitution
                    self._former = self._former_keys()
                    self.membership.command(SetRoster(self._roster()), now)
                    self.board.command(RosterChanged(frozenset(self._constitution.roster)), now)
                    progressed = True
            while (effect := self.board.poll()) is not None:
                self._outbox.append(effect)

    def _look_at_former_keys(self, now: Micros) -> None:
        """Let old keys in no longer whose day is over, or whose site has changed over."""
        former = self._former_keys()
        if former != self._former:
            self._former = former
            self.membership.command(SetRoster(self._roster()), now)

    def _former_keys(self) -> frozenset[SiteKey]:
        if not self._constitution.replaced:
            return frozenset()
        found = overlapping(self._constitution, self.board.today)
        return frozenset(old for old, new in found.items() if not self._has_changed_over(new))

    def _has_changed_over(self, new: SiteKey) -> bool:
        return self.membership.state(new) in COUNTED or self.averaging.vector.get(new, 0) > 0

    def _roster(self) -> dict[SiteKey, RosterSite]:
        """The sites that are let in, without the blocked ones; a retired one still knows itself."""
        everyone = self._constitution.everyone
        sites = {key: everyone[key] for key in self.admitted if key not in self._blocked}
        sites.setdefault(self._own, self._constitution.everyone[self._own])
        return {key: RosterSite(key, rule.name, rule.addresses) for key, rule in sorted(sites.items())}
