"""Applies facts to the table of members: the only place where a member's state changes.

Descriptors are believed when their owner signed them; accusations only start a suspicion, whoever sent them, and only
about exactly the version that is held. So a member can be made to refute, never be made dead or be removed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace

from kmel_p2p.agreement.errors import ProtocolError
from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.core.membership import settings as formulas
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.descriptor import Descriptor, address_fault, is_authentic, usable_addresses
from kmel_p2p.core.membership.events import (
    AddressRejected,
    DescriptorLearned,
    DuplicateKey,
    MemberBack,
    MemberCleared,
    MemberJoined,
    MemberLeft,
    MemberSuspected,
    MemberUnreachable,
)
from kmel_p2p.core.membership.fact_queues import TokenBucket
from kmel_p2p.core.membership.members import Member, MemberState, Suspicion
from kmel_p2p.core.membership.messages import Accusation, Fact, Gossip
from kmel_p2p.core.membership.twins import Twins
from kmel_p2p.core.types import Micros

_ARRIVALS = {
    MemberState.UNKNOWN: MemberJoined,
    MemberState.SUSPECT: MemberCleared,
    MemberState.DEAD: MemberBack,
    MemberState.LEFT: MemberBack,
}


class Transitions:
    """Applies facts to the table and runs the suspicions."""

    __slots__ = ("_allowances", "_context", "_deadlines", "_on_change", "_order", "_raises", "twins")

    def __init__(self, context: Context, on_change: Callable[[Member, MemberState], None]) -> None:
        self._context = context
        self._on_change = on_change
        self._deadlines: list[tuple[Micros, int, Member, Suspicion]] = []
        self._order = 0
        self._allowances: dict[SiteKey, TokenBucket] = {}
        self._raises = 0
        self.twins = Twins(context)

    # -- facts ---------------------------------------------------------------------------------------------------

    def vet(self, facts: tuple[Fact, ...]) -> None:
        """Check what is new and signed, before anything is applied.

        Raises:
            ProtocolError: a descriptor that its owner did not sign; nothing changed.
        """
        context = self._context
        for fact in facts:
            if not isinstance(fact, Descriptor) or not self._is_news(fact):
                continue
            if not is_authentic(fact, context.charter_id, context.verify):
                context.counters.forged_descriptors += 1
                raise ProtocolError(f"descriptor of {short(fact.key)} is not signed by it under this charter")

    def _is_news(self, fact: Descriptor) -> bool:
        if fact.key == self._context.key:
            own = self._context.descriptor
            return fact != own and (fact.generation, fact.serial) >= (own.generation, own.serial)
        member = self._context.table.get(fact.key)
        if member is None:
            return False
        held = member.descriptor
        if held is None:
            return True
        if fact is held:
            return False
        return (fact.generation, fact.serial) > (held.generation, held.serial)

    def apply(self, facts: tuple[Fact, ...], sender: Member, by_sync: bool = False, by_ping: bool = False) -> None:
        """Merge vetted facts. What a full sync brings about unknown sites is old news and is not spread again.

        An accusation of ourselves is answered to its sender at once; a ping's answer carries the refutation anyway.
        """
        context = self._context
        for fact in facts:
            if isinstance(fact, Descriptor):
                if fact.key == context.key:
                    self._hear_own_descriptor(fact)
                    continue
                member = context.table.get(fact.key)
                if member is None:
                    context.counters.facts_about_strangers += 1
                elif fact is not member.descriptor or member.state is MemberState.UNKNOWN:
                    quiet = by_sync and member.state is MemberState.UNKNOWN
                    self.learn(member, fact, spread=not quiet, teller=sender.handle)
                else:
                    context.queues.heard(member.handle, fact, context.limit, sender.handle)
            elif fact.subject == context.handle:
                self._hear_own_accusation(fact)
                if not by_ping:
                    context.send(sender.key, Gossip((context.descriptor,)))
            else:
                self._hear_accusation(fact, sender, by_sync)

    def learn(self, member: Member, descriptor: Descriptor, spread: bool = True, teller: bytes | None = None) -> None:
        """Take over an authentic descriptor if it is newer than the one held."""
        held = member.descriptor
        if held is not None:
            new = (descriptor.generation, descriptor.serial)
            old = (held.generation, held.serial)
            if new <= old and descriptor.nonce != held.nonce and teller == member.handle:
                # Started anew without its disk, or a second process with its key: what we hold makes it outbid that.
                self._context.send(member.key, Gossip((held,)))
            if new < old or (new == old and member.state is not MemberState.UNKNOWN):
                return
            self.twins.compare(held, descriptor)
            if new == old:
                descriptor = held  # recalled from an earlier run; the held one was verified
        self._context.table.describe(member, descriptor)
        self._note_addresses(member, held, descriptor)
        if spread:
            # A newcomer introduces itself to everybody it meets, so others need to pass it on only half as often.
            sent = self._context.limit // 2 if member.state is MemberState.UNKNOWN else 0
            self._context.queues.put(member.handle, descriptor, self._context.now, sent, teller)
        self._move(member, MemberState.LEFT if descriptor.left else MemberState.ALIVE)

    def _note_addresses(self, member: Member, held: Descriptor | None, new: Descriptor) -> None:
        known = held.addresses if held else member.site.addresses
        if new.addresses == known:
            return
        self._context.store(DescriptorLearned(new))
        for address in new.addresses:
            fault = address_fault(address, self._context.remote)
            if fault:
                self._context.emit(AddressRejected(member.key, address, fault))

    def addresses(self, member: Member) -> tuple[str, ...]:
        """Where to dial: what the site says now, then what the charter says."""
        descriptor = member.descriptor
        if descriptor is None:
            return member.site.addresses
        if descriptor.outbound_only:
            return ()
        own = usable_addresses(descriptor, self._context.remote)
        return own + tuple(a for a in member.site.addresses if a not in own)

    # -- accusations ---------------------------------------------------------------------------------------------

    def accuse(self, member: Member) -> None:
        """Our own probe failed."""
        first = member.state is MemberState.ALIVE
        self._suspect(member, [self._context.handle])
        if first:
            self._tell_subject(member)

    def _hear_accusation(self, fact: Accusation, sender: Member, by_sync: bool) -> None:
        context = self._context
        member = context.table.by_handle(fact.subject)
        if member is None or member.descriptor is None:
            context.counters.facts_about_strangers += 1
            return
        accusers = [a for a in fact.accusers if self._may_accuse(a, fact.subject)]
        if len(accusers) < len(fact.accusers):
            context.counters.accusations_by_nobody += 1
        if not accusers:
            return
        held = member.descriptor
        if (fact.generation, fact.serial) != (held.generation, held.serial):
            # An older one is refuted already. One ahead of every descriptor seen is unproven: the probe will tell.
            if (fact.generation, fact.serial) < (held.generation, held.serial):
                context.counters.accusations_stale += 1
            else:
                context.counters.accusations_ahead += 1
            return
        if member.state is MemberState.ALIVE and not self._affordable(sender):
            context.counters.accusations_over_rate += 1
            return
        if fact.dead and context.settings.believe_dead and member.state in (MemberState.ALIVE, MemberState.SUSPECT):
            self._suspect(member, accusers)
            self._declare_dead(member)
            return
        if by_sync:
            if member.state is MemberState.ALIVE:
                self._question(member, accusers[:1])
        elif not self._suspect(member, accusers):
            context.queues.heard(member.handle, fact, context.limit, sender.handle)

    def _question(self, member: Member, accusers: list[bytes]) -> None:
        """Another part of the federation lost a member that is alive to us, as after a partition.

        It has to refute, so it is told at once. Nobody else is: an old verdict must not become fresh confirmations.
        """
        self._suspect(member, accusers, spread=False)
        self._tell_subject(member)

    def _tell_subject(self, member: Member) -> None:
        fact = self._context.accusation_of(member)
        if fact is not None:
            self._context.send(member.key, Gossip((fact,)))

    def _may_accuse(self, accuser: bytes, subject: bytes) -> bool:
        context = self._context
        return accuser != subject and (accuser == context.handle or context.table.by_handle(accuser) is not None)

    def _affordable(self, sender: Member) -> bool:
        """Suspicions that one sender may start: all members once, then one per probe interval."""
        context = self._context
        allowance = self._allowances.get(sender.key)
        if allowance is None:
            burst = max(16, len(context.table))
            allowance = TokenBucket(1, context.settings.probe_interval_us, burst, context.now)
            self._allowances[sender.key] = allowance
        if allowance.available(context.now) < 1:
            return False
        allowance.spend(1, context.now)
        return True

    def _suspect(self, member: Member, accusers: list[bytes], spread: bool = True) -> bool:
        """Count accusers; False when nothing changed."""
        context = self._context
        suspicion = member.suspicion
        if member.state is MemberState.ALIVE:
            suspicion = member.suspicion = Suspicion(
                accusers[0],
                formulas.confirmations_wanted(context.settings, context.sites),
                formulas.suspicion_min_us(context.settings, context.sites),
                formulas.suspicion_max_us(context.settings, context.sites),
                context.now,
            )
            for accuser in accusers[1:]:
                suspicion.confirm(accuser)
            self._move(member, MemberState.SUSPECT)
        elif member.state is not MemberState.SUSPECT or suspicion is None:
            return False
        else:
            confirmed = sum(suspicion.confirm(accuser) for accuser in accusers)
            if not confirmed:
                return False
            context.counters.confirmations += confirmed
        self._arm(member, suspicion)
        if spread:
            self._tell_accusation(member)
        return True

    def _tell_accusation(self, member: Member) -> None:
        fact = self._context.accusation_of(member)
        assert fact is not None
        self._context.queues.put(member.handle, fact, self._context.now)

    def _arm(self, member: Member, suspicion: Suspicion) -> None:
        self._order += 1
        heapq.heappush(self._deadlines, (suspicion.deadline_us, self._order, member, suspicion))

    @property
    def deadline(self) -> Micros | None:
        """When the next suspicion may end."""
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self) -> None:
        """Declare sites dead whose suspicion has run out."""
        now = self._context.now
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, member, suspicion = heapq.heappop(self._deadlines)
            current = member.suspicion is suspicion and member.state is MemberState.SUSPECT
            if not current:
                continue
            if suspicion.deadline_us > now:
                self._arm(member, suspicion)  # postponed meanwhile
            else:
                self._declare_dead(member)

    def _declare_dead(self, member: Member) -> None:
        assert member.suspicion is not None
        member.suspicion.finished = True
        self._move(member, MemberState.DEAD)
        if not member.suspicion.settled:
            # Otherwise the accusers that convinced us are on their way to everybody and say the same.
            self._tell_accusation(member)

    def postpone(self, gap_us: Micros) -> None:
        """We were suspended: nobody could reach us to refute in that time."""
        for member in self._context.table:
            if member.state is MemberState.SUSPECT and member.suspicion is not None:
                member.suspicion.postpone(gap_us)

    def forget(self, member: Member) -> None:
        """The site left the roster: its suspicion must not fire."""
        member.suspicion = None
        self._allowances.pop(member.key, None)

    # -- about ourselves -----------------------------------------------------------------------------------------

    def _hear_own_accusation(self, fact: Accusation) -> None:
        context = self._context
        own = context.descriptor
        claimed, held = (fact.generation, fact.serial), (own.generation, own.serial)
        if claimed != held or context.left:
            # Ahead of what we ever signed: nobody can believe it, so nothing has to be refuted.
            if claimed > held:
                context.counters.own_accusations_ahead += 1
            else:
                context.counters.own_accusations_stale += 1
            return
        context.counters.refutations += 1
        context.health.change(+1)
        context.renew(context.own)

    def _hear_own_descriptor(self, fact: Descriptor) -> None:
        context = self._context
        own = context.descriptor
        said, held = (fact.generation, fact.serial), (own.generation, own.serial)
        if said < held or fact == own:
            return
        # We signed this, but not in this run: an earlier run whose disk is lost, or a second process with our key.
        # The former happens once; whoever keeps answering is the latter.
        if not self.twins.hear_own(fact):
            return
        self._raises += 1
        if self._raises > 1:
            context.counters.duplicate_key += 1
            context.emit(DuplicateKey(fact.generation))
        decided = context.own.decided and context.own.outranks == fact.nonce
        context.own = replace(context.own, outranks=fact.nonce, decided=decided)
        context.raise_generation(fact.generation + 1)
        self.twins.spread(fact)

    # -- the one place where state changes -----------------------------------------------------------------------

    def _move(self, member: Member, state: MemberState) -> None:
        context = self._context
        before = member.state
        if state is before:
            return
        context.table.move(member, state, context.now)
        if state is MemberState.SUSPECT:
            assert member.suspicion is not None
            context.emit(MemberSuspected(member.key, member.suspicion.first_accuser))
        elif state is MemberState.DEAD:
            context.emit(MemberUnreachable(member.key))
        else:
            member.suspicion = None
            context.emit(MemberLeft(member.key) if state is MemberState.LEFT else _ARRIVALS[before](member.key))
        self._on_change(member, before)
