"""What is said to a member that speaks: who is behind is brought up to date, who is held dead is told so.

Every answer is limited to one per member and probe interval, so that two members that hold each other dead cannot
keep each other busy.
"""

from __future__ import annotations

from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.judge import Judge
from kmel_p2p.core.membership.members import Member, MemberState
from kmel_p2p.core.membership.messages import Gossip, SyncFacts


class Greeter:
    """Compares what a sender says about itself with what is held about it."""

    __slots__ = ("_context", "_judge")

    def __init__(self, context: Context, judge: Judge) -> None:
        self._context = context
        self._judge = judge

    def meet(self, member: Member, generation: int, serial: int) -> None:
        """A probe message states its sender's version."""
        held = member.descriptor
        if held is not None and held.generation == generation and held.serial == serial:
            if member.state is MemberState.UNKNOWN:
                self._judge.learn(member, held)
            return
        if not self._may_answer(member):
            return
        if held is None or (generation, serial) > (held.generation, held.serial):
            self._context.send(member.key, SyncFacts((), (member.handle,)))
        else:
            # It restarted without its disk: only its own newer signature makes it raise its generation.
            self._context.send(member.key, SyncFacts((held,), ()))

    def answer(self, member: Member) -> None:
        """A member held dead, or not known yet, speaks."""
        if self._context.left or not self._may_answer(member):
            return
        accusation = self._context.accusation_of(member)
        if accusation is not None:
            self._context.send(member.key, Gossip((accusation,)))
        elif member.descriptor is None:
            self._context.send(member.key, SyncFacts((), (member.handle,)))

    def _may_answer(self, member: Member) -> bool:
        now = self._context.now
        if member.answered_us is not None and now < member.answered_us + self._context.settings.probe_interval_us:
            return False
        member.answered_us = now
        self._context.counters.answers += 1
        return True
