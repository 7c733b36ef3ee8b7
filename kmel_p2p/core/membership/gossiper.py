"""Facts alone, sent while any are waiting: a few members per interval, in shuffled rounds."""

from __future__ import annotations

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.members import Member, MemberState
from kmel_p2p.core.membership.messages import Gossip
from kmel_p2p.core.types import Micros


class Gossiper:
    """When to gossip and with whom. What and how much is decided by `Spread`."""

    __slots__ = ("_context", "_next_us", "_round")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next_us: Micros = context.now
        self._round: list[SiteKey] = []

    @property
    def deadline(self) -> Micros | None:
        """When to gossip next; None while nothing waits or nobody is there to hear it."""
        spread = self._context.spread
        return self._next_us if spread and self._context.table.alive_count else None

    def advance(self) -> None:
        """Serve the timer."""
        context = self._context
        due = self.deadline
        if due is None or context.now < due:
            return
        sent = False
        for member in self._targets():
            facts = context.spread.gossip(context.receiver(member), context.now)
            if facts:
                sent = True
                context.send(member.key, Gossip(facts))
        # Nobody asked for what is left just now: come back at the pace of probes.
        pause = context.settings.gossip_interval_us if sent else context.settings.probe_interval_us
        next_us = context.now + pause
        self._next_us = max(next_us, context.spread.ready_at(context.now))

    def _targets(self) -> list[Member]:
        """The next few of a shuffled round, so that a fact's transmissions go to different members."""
        context = self._context
        targets: list[Member] = []
        refilled = False
        while len(targets) < context.settings.gossip_fanout:
            if not self._round:
                if refilled:
                    break
                refilled = True
                self._round = list(context.table.alive)
                context.rng.shuffle(self._round)
            member = context.table.get(self._round.pop())
            # Suspects hear what concerns them from those who probe them.
            if member is not None and member.state is MemberState.ALIVE and member not in targets:
                targets.append(member)
        return targets
