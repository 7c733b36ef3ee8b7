"""This site's part in judging authors: casts its votes, spreads everybody's, and tells people what follows.

A new vote goes to every reachable site from its voter, and from there on to a few. Whatever that misses, digests find:
while there are votes at all, one site is told now and then which ones are here, and answers with its own where it holds
others. A vote that only an amendment unknown here explains is left, and comes again that way.

A site says something only where it has proved harm, and when it no longer finds any: a vote stays, so it is no place
for every passing doubt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Effect, Emit, Message, Persist, Send
from kmel_p2p.core.ledger.events import (
    AuthorSuspended,
    HarmGone,
    HarmSeen,
    SuspensionLifted,
    VoteRecord,
    VoteRefused,
)
from kmel_p2p.core.ledger.harm.allowance import VoteAllowance
from kmel_p2p.core.ledger.harm.judgement import LOOKS, TOLD_AFTER, AuthorFinding, Judgement, change_of, size_of
from kmel_p2p.core.ledger.harm.suspensions import vote_reach
from kmel_p2p.core.ledger.harm.vote import HarmVote, cast, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.sync.messages import MAX_VOTES, MAX_VOTES_BYTES, VoteDigest, Votes
from kmel_p2p.core.rounds.looks import Look
from kmel_p2p.core.types import SECOND, Micros, Randomness

INTERVAL: Micros = 15 * SECOND
"""Between two digests of the votes."""

ANSWERS_APART: Micros = 2 * SECOND
"""All votes are sent to one site no more often: a digest is small, the answer is not."""

FANOUT = 2
"""Sites that a new vote of another site is passed on to."""

MOST_SENT = 4 * MAX_VOTES
"""Votes sent in answer to a digest. Where there are more, it is these now and others the next time."""

REFUSED_AT_ONCE = 4
"""After so many votes that are none the rest of a message is not looked at."""

RENEWED_AFTER = 4
"""A vote that nobody joined is cast anew when it goes back so many times as far as a vote may reach: others keep the
entries that it is against for a while only (`retention.DISPUTED`)."""

TOLD_OF = 2
"""Fewest voters against an author that make an alarm where this site sees no harm itself, and at least a quarter of the
others, so that a few cannot fill the alarms. Every vote is shown by `status`."""


ALONE_BELOW = 3
"""Where fewer sites than that may vote about an author, what this one sees alone makes an alarm. Else it takes another
one's vote: an honest author whose chemistry pulls the trunk elsewhere does harm to some site, and to one only."""


class Panel:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        changed: Callable[[], None],
        now: Micros,
    ) -> None:
        """`changed`: called when votes changed what the trunk is made of."""
        self._identity = identity
        self._ledger = ledger
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._changed = changed
        self._judgement = Judgement()
        self._seen: dict[SiteKey, AuthorFinding] = {}
        """Authors in whose entries this site's newest looks found harm."""
        self._told: dict[SiteKey, HarmSeen] = {}
        self._suspended: dict[SiteKey, int] = {}
        self._allowance = VoteAllowance()
        self._answered_us: dict[SiteKey, Micros] = {}
        self._next_us = now + self._jittered()

    # ---- machine ------------------------------------------------------------------------------------------------

    def looked(self, looks: Iterable[Look]) -> None:
        """This site looked at authors: vote where that says something new."""
        by_author: dict[SiteKey, dict[int, Look]] = {}
        for look in looks:
            by_author.setdefault(look.author, {})[look.first] = look
        others = self._ledger.rules.current - {self._identity.key} - self._ledger.suspended.keys()
        # A look that began before a suspension finds entries that no longer count.
        findings = {a: self._judgement.weigh(found) for a, found in sorted(by_author.items()) if a in others}
        odd = self._judgement.is_odd(others)
        for author, finding in findings.items():
            believed = finding.turned or not odd
            if believed and finding.harmful >= TOLD_AFTER:
                self._seen[author] = finding
            elif not believed or finding.harmful == 0:
                self._seen.pop(author, None)
            self._vote(finding, believed=believed)
        self.turn()

    def receive(self, sender: SiteKey, message: Message, now: Micros) -> None:
        """Feed `VoteDigest` or `Votes`."""
        match message:
            case VoteDigest(digest):
                differs = digest != self._ledger.votes.digest()
                if differs and now >= self._answered_us.get(sender, -ANSWERS_APART) + ANSWERS_APART:
                    self._answered_us[sender] = now
                    self._send((sender,), self._some_votes())
                    # Answered in turn where the sender holds votes that are not here.
                    self._outbox.append(Send(sender, VoteDigest(self._ledger.votes.digest())))
            case Votes(votes):
                self._take(sender, votes, now)

    def greet(self, site: SiteKey) -> None:
        """A site came up: tell it which votes are here, if there are any."""
        if len(self._ledger.votes):
            self._outbox.append(Send(site, VoteDigest(self._ledger.votes.digest())))

    def advance(self, now: Micros) -> None:
        """Tell one site which votes are here, when it is due."""
        if now < self._next_us:
            return
        self._next_us = now + self._jittered()
        alive = sorted(self._alive())
        if alive and len(self._ledger.votes):
            self.greet(self._rng.choice(alive))

    def deadline(self) -> Micros:
        """When `advance` has something to do."""
        return self._next_us

    def store(self, votes: Iterable[bytes]) -> None:
        """Have those of these votes stored that are kept; they came with a snapshot and decode."""
        for vote in map(decode, votes):
            if self._ledger.votes.of(vote.voter, vote.author) == vote:
                self._outbox.append(Persist(VoteRecord(vote.encode())))

    def turn(self, authors: Iterable[SiteKey] | None = None) -> None:
        """Votes, amendments or a snapshot may have changed who is suspended: tell it.

        Args:
            authors: those about whom votes changed; None: perhaps all.
        """
        ledger, before = self._ledger, self._suspended
        if ledger.suspended != before:
            self._suspended = dict(ledger.suspended)
            for author, first in self._suspended.items():
                if before.get(author) != first:
                    voters = tuple(ledger.votes.against(author))
                    self._outbox.append(Emit(AuthorSuspended(author, first, voters)))
            for author in sorted(before.keys() - self._suspended.keys()):
                self._judgement.forget(author)
                self._seen.pop(author, None)
                self._outbox.append(Emit(SuspensionLifted(author)))
            self._changed()
        everybody = {*self._seen, *self._told, *ledger.votes.authors()}
        for author in sorted(everybody if authors is None else authors):
            self._tell(author)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _jittered(self) -> Micros:
        return INTERVAL // 2 + self._rng.randrange(INTERVAL)

    def _vote(self, finding: AuthorFinding, *, believed: bool) -> None:
        """Cast a vote where it says something else than the one before.

        Args:
            believed: whether it says something of the author, not of this site; else a vote is taken back.
        """
        look = finding.look
        ledger, own, author = self._ledger, self._identity.key, look.author
        before = ledger.votes.of(own, author)
        stands = before is not None and before.against
        # What was compacted since the look began can be taken out no more.
        first = max(look.first, ledger.accepted.log(author).first)
        if not first <= look.number <= ledger.head(author) or (before is not None and look.number <= before.number):
            return
        if finding.harmful >= LOOKS and believed:
            old = before is not None and look.number - before.first >= RENEWED_AFTER * vote_reach(ledger.constitution)
            against = True
            if stands and not old:
                return
        elif stands and (not believed or self._judgement.quiet(author) >= LOOKS):
            against = False
        else:
            return
        # Classes say something of the voter's compounds, so only with what needs them as a reason.
        harm = {place: size for place, part in look.parts.items() if against and (size := size_of(part)) > 0}
        term = ledger.suspensions.term(author)
        vote = cast(self._identity, ledger.rules.charter_id, author, term, (first, look.number), harm, against)
        if ledger.vote(vote):
            self._outbox.append(Persist(VoteRecord(vote.encode())))
            self._send(sorted(self._alive()), [vote])

    def _take(self, sender: SiteKey, votes: Iterable[bytes], now: Micros) -> None:
        ledger = self._ledger
        new: list[HarmVote] = []
        refused = 0
        for encoded in votes:
            try:
                vote = decode(encoded)
                # The signature last: it is what costs most.
                allowed = self._allowance.has_left(vote.voter, len(ledger.rules.current), now)
                if not allowed or not ledger.suspensions.admits(vote):
                    continue
                if not vote.is_signed(ledger.rules.charter_id):
                    raise WireError("its voter did not sign it")
            except WireError as error:
                self._outbox.append(Emit(VoteRefused(sender, str(error))))
                refused += 1
                if refused == REFUSED_AT_ONCE:
                    break
                continue
            if ledger.vote(vote):
                self._allowance.spend(vote.voter, now)
                new.append(vote)
                self._outbox.append(Persist(VoteRecord(encoded)))
        if new:
            others = sorted(set(self._alive()) - {sender})
            self._send(self._rng.sample(others, min(FANOUT, len(others))), new)
            self.turn({vote.author for vote in new})

    def _some_votes(self) -> list[HarmVote]:
        """All votes, or as many as one answer may have, from a random one on."""
        votes = list(self._ledger.votes)
        if len(votes) <= MOST_SENT:
            return votes
        start = self._rng.randrange(len(votes))
        return (votes[start:] + votes[:start])[:MOST_SENT]

    def _send(self, sites: Iterable[SiteKey], votes: list[HarmVote]) -> None:
        """Send votes, as many to a message as fit."""
        batches: list[list[bytes]] = [[]]
        size = 0
        for encoded in (vote.encode() for vote in votes):
            size += len(encoded) + 8
            if len(batches[-1]) == MAX_VOTES or size > MAX_VOTES_BYTES // 2:
                batches.append([])
                size = len(encoded) + 8
            batches[-1].append(encoded)
        for site in sites:
            self._outbox.extend(Send(site, Votes(tuple(batch))) for batch in batches if batch)

    def _tell(self, author: SiteKey) -> None:
        """Tell the operator what this site and others see in an author's entries, when it changed."""
        ledger = self._ledger
        current = ledger.rules.current
        others = current - {author}
        voters = {voter: vote for voter, vote in ledger.votes.against(author).items() if voter in current}
        told, finding, look = self._told.get(author), self._seen.get(author), None
        if finding is not None and author not in ledger.suspended:
            believed = finding.turned or len(others) < ALONE_BELOW or voters.keys() - {self._identity.key}
            look = finding.look if believed else None
        if look is None and len(voters) < max(TOLD_OF, len(others) // 4):
            if told is not None:
                del self._told[author]
                self._outbox.append(Emit(HarmGone(author)))
            return
        parts = look.parts if look is not None else {}
        changes = {place: change_of(part) for place, part in parts.items() if size_of(part) > 0}
        first = look.first if look is not None else min(vote.first for vote in voters.values())
        here = look is not None or self._identity.key in voters
        seen = HarmSeen(author, first, changes, tuple(voters), len(others), here)
        coarse = [
            (event.first, tuple(event.changes), event.sites, event.here) for event in (told, seen) if event is not None
        ]
        if told is None or coarse[0] != coarse[1]:
            self._told[author] = seen
            self._outbox.append(Emit(seen))
