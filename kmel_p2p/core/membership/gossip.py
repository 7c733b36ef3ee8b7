"""How facts travel beside probes: full sync, gossip, and an answer to a sender that is behind.

Full sync: two members compare their tables and exchange only what differs. A digest per bucket of keys goes first, so
that equal tables cost one small message whatever the federation's size.
A bucket that differs is summarised (16 bytes a site), and only newer facts are sent.

Gossip: facts alone, sent while any are waiting, to a few members per interval, in shuffled rounds.
"""

from __future__ import annotations

from kmel_p2p.agreement.errors import ProtocolError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.members import RANK, Member, MemberState, fact_hash
from kmel_p2p.core.membership.messages import (
    MAX_BUCKETS,
    Fact,
    Gossip,
    MemberVersion,
    SyncDigest,
    SyncEntry,
    SyncFacts,
    SyncSummary,
)
from kmel_p2p.core.membership.settings import sync_interval_us
from kmel_p2p.core.membership.sizes import fact_size
from kmel_p2p.core.membership.transitions import Transitions
from kmel_p2p.core.types import Micros

SITES_PER_BUCKET = 32
SOON_AT_MOST = 3
"""Comparisons waiting beside the periodic one: enough that one of the partners knows most."""
PAGE_BYTES = 16 * 1024
"""Facts per `SyncFacts`: well under a control frame's limit, so that probes are not delayed behind it."""
PAGE_FACTS = 128


class Syncer:
    """When to compare, with whom, and what to send."""

    __slots__ = ("_context", "_rounds", "_wanted", "next_us")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wanted: dict[SiteKey, None] = {}
        self._rounds = 0
        self.next_us: Micros = context.now + context.rng.randrange(2 * context.settings.probe_interval_us)

    def soon(self, key: SiteKey) -> None:
        """Compare with this member shortly: it just arrived or came back, and speaks to us."""
        if len(self._wanted) >= SOON_AT_MOST:
            return
        self._wanted[key] = None
        self.next_us = min(self.next_us, self._context.now + self._context.settings.gossip_interval_us)

    def advance(self) -> None:
        """Serve the timer: one comparison."""
        context = self._context
        if context.now < self.next_us:
            return
        target = self._choose()
        if self._wanted:
            self.next_us = context.now + context.settings.gossip_interval_us
        else:
            # Often after a start (1, 2, 4, ... probe intervals), when much changes at once, then at the usual pace.
            usual = sync_interval_us(context.settings, context.sites)
            interval = min(usual, context.settings.probe_interval_us << self._rounds)
            self._rounds = min(self._rounds + 1, 16)
            # Three to five quarters of it, so that members that started together do not compare together.
            self.next_us = context.now + interval * 3 // 4 + context.rng.randrange(interval // 2)
        if target is not None:
            context.send(target, SyncDigest(self.digests(bucket_count(context.sites))))

    def _choose(self) -> SiteKey | None:
        while self._wanted:
            key = next(iter(self._wanted))
            del self._wanted[key]
            if self._context.table.get(key) is not None:
                return key
        alive = self._context.table.alive
        return self._context.rng.choice(alive) if alive else None

    # -- the table as digests ------------------------------------------------------------------------------------

    def digests(self, buckets: int) -> tuple[bytes, ...]:
        """XOR of line hashes per bucket."""
        sums = [0] * buckets
        mask = buckets - 1
        sums[bucket_of(self._context.key, buckets)] ^= fact_hash(self._context.key, self._own_version())
        for member in self._context.table:
            line = member.fact_hash
            if line is None:
                version = member.version
                line = 0 if version is None else fact_hash(member.site.key, version)
                member.fact_hash = line
            sums[member.site.key[-1] & mask] ^= line
        return tuple(value.to_bytes(8, "big") for value in sums)

    def _own_version(self) -> MemberVersion:
        own = self._context.descriptor
        return MemberVersion(own.generation, own.serial, RANK[MemberState.LEFT] if own.left else 0)

    def _versions(self, buckets: int, differing: set[int]) -> dict[bytes, MemberVersion]:
        found: dict[bytes, MemberVersion] = {}
        mask = buckets - 1
        if bucket_of(self._context.key, buckets) in differing:
            found[self._context.handle] = self._own_version()
        for member in self._context.table:
            if member.site.key[-1] & mask in differing:
                version = member.version
                if version is not None:
                    found[member.handle] = version
        return found

    # -- the exchange --------------------------------------------------------------------------------------------

    def digested(self, sender: Member, message: SyncDigest) -> None:
        """Step 2: answer with a summary of what differs, if anything does."""
        buckets = len(message.digests)
        _check_buckets(buckets)
        differing = [i for i, (a, b) in enumerate(zip(self.digests(buckets), message.digests, strict=True)) if a != b]
        if not differing:
            return
        versions = self._versions(buckets, set(differing))
        entries = [SyncEntry(handle, version) for handle, version in sorted(versions.items())]
        self._context.send(sender.key, SyncSummary(buckets, tuple(differing), tuple(entries)))

    def summarised(self, sender: Member, message: SyncSummary) -> None:
        """Step 3: send what is newer here, ask for what is newer there."""
        _check_buckets(message.buckets)
        differing = {b for b in message.differing if b < message.buckets}
        ours = self._versions(message.buckets, differing)
        theirs = {entry.site: entry.version for entry in message.entries}
        facts: list[Fact] = []
        for handle, version in ours.items():
            held = theirs.get(handle)
            if held is None or version > held:
                facts += self._facts(handle, held)
        wanted = [
            handle
            for handle, version in theirs.items()
            if self._known(handle) and (handle not in ours or version > ours[handle])
        ]
        self._send_pages(sender.key, facts, tuple(wanted))

    def wanted(self, sender: Member, handles: tuple[bytes, ...]) -> None:
        """Step 4: send what was asked for."""
        facts: list[Fact] = []
        for handle in dict.fromkeys(handles):
            facts += self._facts(handle, None)
        self._send_pages(sender.key, facts, ())

    def _known(self, handle: bytes) -> bool:
        return handle == self._context.handle or self._context.table.by_handle(handle) is not None

    def _facts(self, handle: bytes, held: MemberVersion | None) -> list[Fact]:
        """What proves our view of one site to somebody who holds `held`."""
        if handle == self._context.handle:
            return [self._context.descriptor]
        member = self._context.table.by_handle(handle)
        if member is None or member.descriptor is None or member.state is MemberState.UNKNOWN:
            return []
        descriptor, facts = member.descriptor, list[Fact]()
        same = held is not None and (descriptor.generation, descriptor.serial) == held[:2]
        if not same or descriptor.left:
            facts.append(descriptor)
        accusation = self._context.accusation_of(member)
        if accusation is not None:
            facts.append(accusation)
        return facts

    def _send_pages(self, to: SiteKey, facts: list[Fact], wanted: tuple[bytes, ...]) -> None:
        page: list[Fact] = []
        used = 0
        for fact in facts:
            size = fact_size(fact)
            if page and (used + size > PAGE_BYTES or len(page) >= PAGE_FACTS):
                self._context.send(to, SyncFacts(tuple(page), ()))
                page, used = [], 0
            page.append(fact)
            used += size
        if page or wanted:
            self._context.send(to, SyncFacts(tuple(page), wanted))


def bucket_count(sites: int) -> int:
    """A power of two, at most 256, with about 32 sites a bucket."""
    count = 1
    while count < MAX_BUCKETS and count * SITES_PER_BUCKET < sites:
        count *= 2
    return count


def bucket_of(key: SiteKey, buckets: int) -> int:
    """Keys are uniform, so their last byte spreads them evenly."""
    return key[-1] & (buckets - 1)


def _check_buckets(buckets: int) -> None:
    if not 1 <= buckets <= MAX_BUCKETS or buckets & (buckets - 1):
        raise ProtocolError(f"{buckets} buckets is not a power of two up to {MAX_BUCKETS}")


class Gossiper:
    """When to gossip and with whom; `FactQueues` decides what and how much."""

    __slots__ = ("_context", "_next_us", "_round")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._next_us: Micros = context.now
        self._round: list[SiteKey] = []

    @property
    def deadline(self) -> Micros | None:
        """When to gossip next; None while nothing waits or nobody is there to hear it."""
        return self._next_us if self._context.queues and self._context.table.alive_count else None

    def advance(self) -> None:
        """Serve the timer."""
        context = self._context
        due = self.deadline
        if due is None or context.now < due:
            return
        sent = False
        for member in self._targets():
            facts = context.queues.gossip(context.receiver(member), context.now)
            if facts:
                sent = True
                context.send(member.key, Gossip(facts))
        # Nobody asked for what is left just now: come back at the pace of probes.
        pause = context.settings.gossip_interval_us if sent else context.settings.probe_interval_us
        next_us = context.now + pause
        self._next_us = max(next_us, context.queues.ready_at(context.now))

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


class CatchUp:
    """Answers a sender that is behind: compares what it says about itself with what is held about it.

    At most one answer per member and probe interval, so that two members that hold each other dead cannot keep each
    other busy.
    """

    __slots__ = ("_context", "_transitions")

    def __init__(self, context: Context, transitions: Transitions) -> None:
        self._context = context
        self._transitions = transitions

    def compare(self, member: Member, generation: int, serial: int) -> None:
        """A probe message states its sender's version."""
        held = member.descriptor
        if held is not None and held.generation == generation and held.serial == serial:
            if member.state is MemberState.UNKNOWN:
                self._transitions.learn(member, held)
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
