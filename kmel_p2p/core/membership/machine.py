"""Membership as one state machine: which sites of the roster are reachable now, where, and since when.

What it promises: every crash is noticed by every live member within the bounds of docs/membership.md; a healed
partition needs nobody's help; no member can forge another's presence, absence or address, only suspect it.
What it does not: agreement at one instant, or safety against a majority of liars about a suspect's silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kmel_p2p.agreement.errors import Bug, LocalError, ProtocolError
from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.agreement.identity import verify as verify_signature
from kmel_p2p.core.effects import Effect, LinkDown, LinkUp, LoopLag, Message, SendFailed, StoodStill
from kmel_p2p.core.membership.commands import DescribeSelf, GoOn, Leave, Recall, SetRoster
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.descriptor import Descriptor, OwnDescription, RosterSite, Signer, Verifier, check_own
from kmel_p2p.core.membership.dial_schedule import DialSchedule
from kmel_p2p.core.membership.events import LeaveFinished
from kmel_p2p.core.membership.gossip import CatchUp, Gossiper, Syncer
from kmel_p2p.core.membership.health import MembershipCounters
from kmel_p2p.core.membership.members import COUNTED, Member, MemberState, MemberView, view
from kmel_p2p.core.membership.messages import (
    Ack,
    Fact,
    Gossip,
    MemberVersion,
    Nack,
    Ping,
    PingRequest,
    SyncDigest,
    SyncFacts,
    SyncSummary,
    TwinEvidence,
)
from kmel_p2p.core.membership.prober import Prober
from kmel_p2p.core.membership.roster import RosterKeeper, check_roster
from kmel_p2p.core.membership.settings import MembershipSettings, confirmations_wanted
from kmel_p2p.core.membership.transitions import Transitions
from kmel_p2p.core.types import Micros, Randomness

LEAVE_TELLS = 32
"""Members told of a departure directly; gossip does the rest."""


class Membership:
    """A `core.effects.Machine`. See the module docstring and docs/membership.md."""

    __slots__ = (
        "_catch_up",
        "_context",
        "_dials",
        "_gossiper",
        "_late_for_us",
        "_leave_us",
        "_prober",
        "_roster",
        "_speaker",
        "_syncer",
        "_transitions",
        "_wake_us",
    )  # fmt: skip

    def __init__(
        self,
        signer: Signer,
        charter_id: bytes,
        roster: Mapping[SiteKey, RosterSite],
        own: OwnDescription,
        settings: MembershipSettings,
        rng: Randomness,
        now: Micros,
        verify: Verifier = verify_signature,
    ) -> None:
        """Start knowing the roster and nobody's state.

        Args:
            own: our description; its generation must be larger than at any earlier start.
            rng: seeded by the caller; the whole run follows from it and the inputs.
            verify: signature check; a simulator may hand in a cheaper one that matches its signer.

        Raises:
            ConfigError: a description others could not use, or a roster with clashing keys.
            LocalError: our key is not in the roster.
        """
        check_roster(signer.key, roster)
        check_own(own, [site for key, site in roster.items() if key != signer.key])
        self._context = Context(signer, charter_id, own, settings, rng, verify, now)
        self._transitions = Transitions(self._context, self._on_change)
        self._prober = Prober(self._context, self._transitions)
        self._syncer = Syncer(self._context)
        self._gossiper = Gossiper(self._context)
        self._catch_up = CatchUp(self._context, self._transitions)
        self._dials = DialSchedule(self._context, self._transitions, self._prober)
        self._roster = RosterKeeper(self._context, self._transitions, self._prober, self._dials)
        self._leave_us: Micros | None = None
        self._wake_us: Micros | None = None
        self._late_for_us: Micros | None = None
        self._speaker: Member | None = None
        self._roster.admit(roster)

    # -- what others ask -----------------------------------------------------------------------------------------

    def alive(self) -> tuple[SiteKey, ...]:
        """Other sites that count as alive (alive or suspect), sorted, without ourselves."""
        return self._context.table.alive

    def state(self, key: SiteKey) -> MemberState:
        """What is held about a site; UNKNOWN also for one outside the roster. ALIVE about ourselves until we leave."""
        if key == self._context.key:
            return MemberState.LEFT if self._context.left else MemberState.ALIVE
        member = self._context.table.get(key)
        return member.state if member is not None else MemberState.UNKNOWN

    def descriptor(self, key: SiteKey) -> Descriptor | None:
        """The newest descriptor a site signed, as far as we know."""
        if key == self._context.key:
            return self._context.descriptor
        member = self._context.table.get(key)
        return member.descriptor if member is not None else None

    def addresses(self, key: SiteKey) -> tuple[str, ...]:
        """Where a site can be dialled, newest knowledge first."""
        member = self._context.table.get(key)
        return self._transitions.addresses(member) if member is not None else ()

    @property
    def roster(self) -> tuple[SiteKey, ...]:
        """Keys of the other sites, sorted."""
        return self._context.table.keys

    def version(self, key: SiteKey) -> MemberVersion | None:
        """What is held about another site; only ever grows within one run."""
        member = self._context.table.get(key)
        return member.version if member is not None else None

    @property
    def table_version(self) -> int:
        """Grows with every change of what is held about anybody."""
        return self._context.table.version

    def members(self) -> list[MemberView]:
        """One line per other roster site, in key order, for `status`."""
        lines = [view(m, self._transitions.addresses(m), self._context.now) for m in self._context.table]
        return sorted(lines, key=lambda line: line.key)

    @property
    def health(self) -> int:
        """Local health score: 0 is well, `health_max` - 1 the worst. Probing slows down by the factor score + 1."""
        return self._context.health.score

    def counters(self) -> MembershipCounters:
        """What happened since the start, for status and metrics (a copy)."""
        return replace(self._context.counters)

    @property
    def waiting_facts(self) -> int:
        """Facts still to be sent; never more than there are sites."""
        return len(self._context.queues)

    # -- the machine ---------------------------------------------------------------------------------------------

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Take a message from an authenticated sender.

        Raises:
            ProtocolError: sender outside the roster, forged descriptor, or nonsense; nothing changed.
        """
        member = self._context.table.get(sender)
        if member is None:
            raise ProtocolError(f"{short(sender)} is not in the roster" if sender != self._context.key else "own key")
        self._begin(now)
        self._prober.heard_us = now
        self._speaker = member
        if isinstance(message, Ping):
            self._take(member, message.facts, by_ping=True)
            self._catch_up.compare(member, message.generation, message.serial)
            own = self._context.descriptor
            introduced = any(type(fact) is Descriptor and fact.key == sender for fact in message.facts)
            facts = self._context.cargo(member, introduce=introduced)
            self._context.send(sender, Ack(message.sequence, own.generation, own.serial, facts))
        elif isinstance(message, Ack):
            self._take(member, message.facts)
            self._catch_up.compare(member, message.generation, message.serial)
            self._prober.acked(member, message.sequence)
        else:
            self._receive_rare(member, message)

    def _receive_rare(self, member: Member, message: Message) -> None:
        if isinstance(message, Gossip):
            self._take(member, message.facts)
        elif isinstance(message, TwinEvidence):
            self._transitions.twins.shown(member.key, message)
        elif isinstance(message, PingRequest):
            self._prober.requested(member, message)
        elif isinstance(message, Nack):
            self._prober.nacked(member, message.sequence)
        elif isinstance(message, SyncDigest):
            self._syncer.digested(member, message)
        elif isinstance(message, SyncSummary):
            self._syncer.summarised(member, message)
        elif isinstance(message, SyncFacts):
            self._take(member, message.facts, by_sync=True)
            if message.wanted:
                self._syncer.wanted(member, message.wanted)
        else:
            raise Bug(f"{type(message).__name__} is not a membership message")
        if member.state not in COUNTED:
            self._catch_up.answer(member)

    def command(self, cmd: Any, now: Micros) -> None:
        """Take one of `membership.commands`.

        Raises:
            ConfigError: `DescribeSelf` with unusable values, or a roster with clashing keys; nothing changed.
            LocalError: not a membership command, or our key is missing from a new roster.
        """
        self._begin(now)
        if isinstance(cmd, LinkUp):
            self._link_up(cmd.key)
        elif isinstance(cmd, LinkDown):
            self._link_down(cmd.key)
        elif isinstance(cmd, SendFailed):
            member = self._context.table.get(cmd.key)
            if member is not None:
                self._prober.send_failed(member)
        elif isinstance(cmd, LoopLag):
            self._late(cmd.late_us)
        elif isinstance(cmd, StoodStill):
            pass  # its own timers tell, and links are made anew
        elif isinstance(cmd, Leave):
            self._leave()
        elif isinstance(cmd, SetRoster):
            self._roster.replace(cmd.roster)
        elif isinstance(cmd, DescribeSelf):
            self._roster.describe_own(cmd)
        elif isinstance(cmd, GoOn):
            self._transitions.twins.go_on()
        elif isinstance(cmd, Recall):
            self._roster.recall(cmd.descriptors)
        else:
            raise LocalError(f"{type(cmd).__name__} is not a membership command")

    def advance(self, now: Micros) -> None:
        """Serve every timer that is due."""
        self._begin(now)
        if self._context.left:
            self._advance_leave()
            return
        self._transitions.expire()
        self._prober.advance()
        self._syncer.advance()
        self._dials.advance()
        self._gossiper.advance()

    def deadline(self) -> Micros | None:
        """When `advance` is wanted next."""
        due = self._compute_deadline()
        # A late confirmation may end a suspicion in the past: that is due now, not a timer that was served late.
        self._wake_us = None if due is None else max(due, self._context.now)
        return self._wake_us

    def poll(self) -> Effect | None:
        """The next effect to execute, or None."""
        effects = self._context.effects
        return effects.popleft() if effects else None

    # -- timers --------------------------------------------------------------------------------------------------

    def _compute_deadline(self) -> Micros | None:
        gossip = self._gossiper.deadline
        if self._context.left:
            if self._leave_us is None or gossip is None:
                return self._leave_us
            return min(self._leave_us, gossip)
        soonest = min(self._prober.deadline, self._syncer.next_us)
        for other in (self._transitions.deadline, self._dials.deadline, gossip):
            if other is not None and other < soonest:
                soonest = other
        return soonest

    def _begin(self, now: Micros) -> None:
        """Set the clock, and notice when we were not served: whoever slept must not accuse."""
        context = self._context
        wake = self._wake_us
        context.now = now
        self._speaker = None
        if wake is None or now <= wake or self._late_for_us == wake:
            return
        self._late_for_us = wake
        self._late(now - wake)

    def _late(self, late_us: Micros) -> None:
        context = self._context
        if late_us > context.settings.stall_us:
            context.health.change(+1)
            self._transitions.postpone(late_us)
            self._prober.abandon(late_us)
            self._dials.postpone()
            self._syncer.next_us = context.now
        elif late_us > context.settings.probe_timeout_us // 2:
            context.counters.late_timers += 1
            context.health.change(+1)

    # -- facts ---------------------------------------------------------------------------------------------------

    def _take(
        self,
        member: Member,
        facts: tuple[Fact, ...],
        by_sync: bool = False,
        by_ping: bool = False,
    ) -> None:
        if facts:
            self._transitions.vet(facts)
            self._transitions.apply(facts, member, by_sync, by_ping)

    def _on_change(self, member: Member, before: MemberState) -> None:
        arrived = member.state in COUNTED
        if arrived and before not in COUNTED:
            self._prober.include(member)
            if member is self._speaker:
                self._syncer.soon(member.key)
            if not member.linked:
                self._dials.hurry(member)
        if member.state is MemberState.SUSPECT:
            self._offer_second_opinion(member)
        self._dials.consider(member)

    def _offer_second_opinion(self, member: Member) -> None:
        """Somebody accuses it: about twice as many members as are wanted probe it next instead of in their turn."""
        context = self._context
        wanted = confirmations_wanted(context.settings, context.sites)
        if wanted and context.rng.randrange(context.sites) < 2 * (wanted + 1):
            self._prober.hurry(member)

    # -- links ----------------------------------------------------------------------------------------

    def _link_up(self, key: SiteKey) -> None:
        member = self._context.table.get(key)
        if member is None or member.linked:
            return
        member.linked = True
        self._dials.consider(member)
        if member.state is not MemberState.ALIVE and not self._context.left:
            self._prober.contact(member)

    def _link_down(self, key: SiteKey) -> None:
        member = self._context.table.get(key)
        if member is None:
            return
        if member.linked and not self._context.settings.assume_links:
            member.linked = False
            self._prober.hurry(member)
        self._dials.consider(member)

    # -- leaving -------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        context = self._context
        if context.left:
            return
        context.left = True
        context.renew(context.own)
        # Patience: the descriptor's transmissions take this many gossip intervals; leaving never waits for answers.
        self._leave_us = context.now + max(1, context.limit // 2) * context.settings.gossip_interval_us
        alive = context.table.alive
        for key in context.rng.sample(alive, min(LEAVE_TELLS, len(alive))):
            context.send(key, Gossip((context.descriptor,)))

    def _advance_leave(self) -> None:
        self._gossiper.advance()
        if self._leave_us is not None and self._context.now >= self._leave_us:
            self._leave_us = None
            self._context.emit(LeaveFinished())
