"""One member is probed per interval: directly, then through others; silence becomes an accusation.

SWIM's failure detector with Lifeguard's nacks: a helper that cannot reach the target says so, which tells a dead
target (nacks arrive) from our own trouble (nothing arrives).
"""

from __future__ import annotations

import heapq

from kmel_p2p.agreement.errors import ProtocolError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.events import DegradedLink, LinkRestored
from kmel_p2p.core.membership.members import COUNTED, Member, MemberState
from kmel_p2p.core.membership.messages import Ack, Nack, Ping, PingRequest
from kmel_p2p.core.membership.transitions import Transitions
from kmel_p2p.core.types import Micros

MAX_RELAYS = 1024
"""Probes in flight on behalf of others; one more is refused by a nack at once."""
DEGRADED_AFTER = 3
"""Probes in a row that only third members could answer before the operator is told."""
_SEQUENCES = 2**32


class _Probe:
    """The probe in flight."""

    __slots__ = (
        "answered",
        "helpers",
        "indirect",
        "member",
        "nacks",
        "sequence",
        "started_us",
        "unsent",
    )

    def __init__(self, member: Member, sequence: int, now: Micros) -> None:
        self.member = member
        self.sequence = sequence
        self.started_us = now
        self.answered = False
        self.indirect = False
        self.helpers: dict[SiteKey, bool] = {}
        self.nacks = 0
        self.unsent = False


class _Relay:
    """A probe made for somebody else."""

    __slots__ = ("answered", "requester", "sequence", "target")

    def __init__(self, requester: SiteKey, sequence: int, target: SiteKey) -> None:
        self.requester = requester
        self.sequence = sequence
        self.target = target
        self.answered = False


class Prober:
    """Chooses, sends and judges probes."""

    __slots__ = (
        "_context",
        "_index",
        "_order",
        "_probe",
        "_relay_ends",
        "_relays",
        "_sequence",
        "_silent",
        "_transitions",
        "_urgent",
        "heard_us",
        "next_us",
        "stage_us",
    )  # fmt: skip

    def __init__(self, context: Context, transitions: Transitions) -> None:
        self._context = context
        self._transitions = transitions
        self._order: list[Member] = []
        self._index = 0
        self._urgent: dict[SiteKey, Member] = {}
        self._probe: _Probe | None = None
        self._relays: dict[int, _Relay] = {}
        self._relay_ends: list[tuple[Micros, int]] = []
        self._sequence = context.rng.randrange(_SEQUENCES)
        self._silent = 0
        self.heard_us: Micros = context.now
        # A random phase, so that sites started together do not probe in step.
        self.next_us: Micros = context.now + context.rng.randrange(context.settings.probe_interval_us)
        self.stage_us: Micros | None = None

    # -- the order of targets ------------------------------------------------------------------------------------

    def include(self, member: Member) -> None:
        """A member arrived: it takes a random place in the rest of this round."""
        place = self._index + self._context.rng.randrange(len(self._order) - self._index + 1)
        self._order.insert(place, member)

    def hurry(self, member: Member) -> None:
        """The link broke: ask this member next."""
        if member.state in COUNTED:
            self._urgent[member.key] = member

    def forget(self, member: Member) -> None:
        """The site left the roster."""
        self._urgent.pop(member.key, None)
        if self._probe is not None and self._probe.member is member:
            self._probe = self.stage_us = None
        if member in self._order:
            place = self._order.index(member)
            del self._order[place]
            self._index -= place < self._index

    def _next_target(self) -> Member | None:
        while self._urgent:
            member = self._urgent.pop(next(iter(self._urgent)))
            if member.state in COUNTED:
                return member
        for _ in range(2):
            while self._index < len(self._order):
                member = self._order[self._index]
                self._index += 1
                if member.state in COUNTED and not self._connecting(member):
                    return member
            self._order = [m for m in self._context.table if m.state in COUNTED]
            self._context.rng.shuffle(self._order)
            self._index = 0
        return None

    def _connecting(self, member: Member) -> bool:
        """It arrived a moment ago and the first dial may still succeed: its silence would say nothing."""
        settings = self._context.settings
        grace_us = 2 * settings.dial_first_us + settings.probe_interval_us
        return not member.linked and self._context.now < member.changed_us + grace_us

    # -- our probes ----------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> Micros:
        """The next moment this part wants to act."""
        soonest = self.next_us
        if self.stage_us is not None and self.stage_us < soonest:
            soonest = self.stage_us
        if self._relay_ends and self._relay_ends[0][0] < soonest:
            soonest = self._relay_ends[0][0]
        return soonest

    def advance(self) -> None:
        """Serve what is due."""
        now = self._context.now
        while self._relay_ends and self._relay_ends[0][0] <= now:
            self._end_relay(heapq.heappop(self._relay_ends)[1])
        if self.stage_us is not None and now >= self.stage_us:
            self.stage_us = None
            self._go_indirect()
        if now >= self.next_us:
            self._finish()
            self._start()

    def _start(self) -> None:
        context = self._context
        self.next_us = context.now + context.health.stretch(context.settings.probe_interval_us)
        member = self._next_target()
        if member is None:
            return
        self._probe = _Probe(member, self._next_sequence(), context.now)
        self.stage_us = context.now + context.health.stretch(context.settings.probe_timeout_us)
        self.ping(member, self._probe.sequence)

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) % _SEQUENCES
        return self._sequence

    def contact(self, member: Member) -> None:
        """A ping outside the rounds, to a member that is dead or newly linked."""
        self.ping(member, self._next_sequence())

    def ping(self, member: Member, sequence: int) -> None:
        """Send a probe message with its cargo."""
        own = self._context.descriptor
        facts = self._context.cargo(member)
        self._context.send(member.key, Ping(sequence, own.generation, own.serial, facts))

    def _go_indirect(self) -> None:
        """No direct answer in time: ask others."""
        context, probe = self._context, self._probe
        if probe is None or probe.answered or probe.indirect:
            return
        probe.indirect = True
        if _is_settled(probe.member):
            return
        context.counters.direct_probes_failed += 1
        helpers = self._choose_helpers(probe.member)
        patience = context.health.stretch(context.settings.probe_timeout_us)
        probe.unsent = not probe.member.linked and not helpers
        for helper in helpers:
            probe.helpers[helper] = True
            context.send(helper, PingRequest(probe.sequence, probe.member.handle, patience))

    def _choose_helpers(self, target: Member) -> list[SiteKey]:
        """Random members alive without suspicion, or suspects when nobody else exists. Exhaustive when few."""
        context = self._context
        wanted = context.settings.indirect_probes
        if target.suspicion is not None:
            wanted = min(1, wanted)  # accused already: one helper shows whether we are well, the rest is evidence
        alive = context.table.alive
        if len(alive) > 8 * (wanted + 1):
            pool = context.rng.sample(alive, 4 * (wanted + 1))
        else:
            pool = context.rng.sample(alive, len(alive))
        members = [m for m in map(context.table.get, pool) if m is not None and m is not target and m.linked]
        trusted = [m.key for m in members if m.state is MemberState.ALIVE]
        return (trusted or [m.key for m in members])[:wanted]

    def _finish(self) -> None:
        """The interval is over: judge the probe in flight."""
        context, probe = self._context, self._probe
        self._probe = self.stage_us = None
        if probe is None or probe.answered or probe.member.state not in COUNTED:
            return
        if _is_settled(probe.member):
            return
        context.counters.probes_failed += 1
        missing = len(probe.helpers) - probe.nacks
        context.health.change(max(0, missing) if probe.helpers else +1)
        if self._blame_ourselves(probe):
            context.counters.probes_silent += 1
            return
        self._transitions.accuse(probe.member)

    def _blame_ourselves(self, probe: _Probe) -> bool:
        """Nobody could be asked, or nobody at all spoke since: rather our network than that member, for a while."""
        settings = self._context.settings
        silent = settings.local_health and (self.heard_us < probe.started_us or probe.unsent)
        if not silent or self._context.table.alive_count < 2:
            self._silent = 0
            return False
        self._silent += 1
        return self._silent <= settings.silent_probes_max

    def abandon(self, gap_us: Micros) -> None:
        """We were suspended: forget what is in flight and begin anew."""
        self._probe = self.stage_us = None
        self._relays.clear()
        self._relay_ends.clear()
        self.next_us = self._context.now
        self._context.counters.stalls += 1
        self._context.counters.stalled_us += gap_us

    def send_failed(self, member: Member) -> None:
        """The transport did not take a message: no use waiting for the direct answer to the probe in flight."""
        probe = self._probe
        if probe is not None and probe.member is member and not probe.answered:
            self.stage_us = None
            self._go_indirect()

    # -- answers -------------------------------------------------------------------------------------------------

    def acked(self, sender: Member, sequence: int) -> None:
        """An answer to our probe, to a relayed one, or a late one (harmless)."""
        relay = self._relays.get(sequence)
        if relay is not None and relay.target == sender.key:
            self._relay_answered(relay)
            return
        probe = self._probe
        if probe is None or sequence != probe.sequence:
            return
        if sender is probe.member:
            self._direct_answer(probe)
        elif sender.key in probe.helpers:
            self._indirect_answer(probe)

    def _direct_answer(self, probe: _Probe) -> None:
        context, member = self._context, probe.member
        rtt = context.now - probe.started_us
        member.last_rtt_us = rtt
        member.rtt_us = rtt if member.rtt_us == 0 else (7 * member.rtt_us + rtt) // 8
        member.indirect_streak = 0
        if member.degraded:
            member.degraded = False
            context.emit(LinkRestored(member.key))
        if not probe.answered:
            self._success(probe)

    def _indirect_answer(self, probe: _Probe) -> None:
        context, member = self._context, probe.member
        if probe.answered:
            return
        member.indirect_streak += 1
        context.counters.probes_answered_indirectly += 1
        if member.indirect_streak >= DEGRADED_AFTER and not member.degraded:
            member.degraded = True
            only_dials = member.descriptor is not None and member.descriptor.outbound_only
            context.emit(DegradedLink(member.key, context.own.outbound_only and only_dials))
        self._success(probe)

    def _success(self, probe: _Probe) -> None:
        probe.answered = True
        self.stage_us = None
        self._silent = 0
        self._context.health.change(-1)

    def nacked(self, sender: Member, sequence: int) -> None:
        """A helper is well but could not reach the target. Counted once per helper."""
        probe = self._probe
        if probe is not None and sequence == probe.sequence and probe.helpers.get(sender.key):
            probe.helpers[sender.key] = False
            probe.nacks += 1
            if probe.nacks == len(probe.helpers):
                self._finish()  # everybody asked is well and nobody reached it: the rest of the interval adds nothing

    # -- probes for others ---------------------------------------------------------------------------------------

    def requested(self, sender: Member, request: PingRequest) -> None:
        """Probe in place of `sender`.

        Raises:
            ProtocolError: asked to probe the sender itself, or us.
        """
        context = self._context
        target = context.table.by_handle(request.target)
        if target is sender or context.key.startswith(request.target):
            raise ProtocolError("asked to probe a site that is not a third member")
        if target is None:
            # Blocked here, or an amendment has reached only one of the two sites: nobody did anything wrong.
            context.counters.facts_about_strangers += 1
            context.send(sender.key, Nack(request.sequence))
            return
        if len(self._relays) >= MAX_RELAYS:
            context.counters.relays_refused += 1
            context.send(sender.key, Nack(request.sequence))
            return
        sequence = self._next_sequence()
        self._relays[sequence] = _Relay(sender.key, request.sequence, target.key)
        # Eight tenths of the requester's patience, so that a nack still arrives in time (swift-cluster-membership).
        patience = min(request.patience_us, context.health.stretch(context.settings.probe_timeout_us))
        heapq.heappush(self._relay_ends, (context.now + patience * 8 // 10, sequence))
        # Without cargo, since the target is probably not there to hear it.
        own = context.descriptor
        accusation = context.accusation_of(target)
        context.send(target.key, Ping(sequence, own.generation, own.serial, (accusation,) if accusation else ()))

    def _relay_answered(self, relay: _Relay) -> None:
        if relay.answered:
            return
        relay.answered = True
        own = self._context.descriptor
        requester = self._context.table.get(relay.requester)
        if requester is not None:
            facts = self._context.cargo(requester)
            ack = Ack(relay.sequence, own.generation, own.serial, facts)
            self._context.send(relay.requester, ack)

    def _end_relay(self, sequence: int) -> None:
        relay = self._relays.pop(sequence, None)
        if relay is not None and not relay.answered:
            self._context.send(relay.requester, Nack(relay.sequence))


def _is_settled(member: Member) -> bool:
    """Enough members accuse it already: our evidence adds nothing, and it hears of it through our ping."""
    return member.suspicion is not None and member.suspicion.settled
