"""What this site does when its own log has two branches, because its store had lost one: it goes on in a new epoch.

It looks for the number from which on the branches differ, disowns the one that it holds, which it made later and knows
to its end, takes the other one from those who hold it, and publishes again what it had disowned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from itertools import count, takewhile

from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Effect, Emit, Persist, Send
from kmel_p2p.core.ledger.events import NotPublishedAgain, PublishedAgainRecord
from kmel_p2p.core.ledger.log.entry import Entry, decode_stub
from kmel_p2p.core.ledger.log.epoch import MAX_DISOWNED, MAX_EPOCHS, begin
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome
from kmel_p2p.core.ledger.own_log import OwnLog
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.core.ledger.sync.antientropy import AntiEntropy
from kmel_p2p.core.ledger.sync.messages import Heads, LogHead
from kmel_p2p.core.types import SECOND, Micros

LOOK_FOR: Micros = 3 * SECOND
"""How long the others are asked whether the branches part earlier, before an epoch disowns what is known to differ."""

MOST_ASKED = 8
"""Sites that are asked."""

AGAIN = (
    "publishing again what this site had published while its store lacked a part of its log, or under an amendment "
    "that was overruled"
)

PARTED = (
    "this site's log has two branches, as after a disk that was lost or put back: finding out where they part. It goes "
    "on by itself once a site is in sight that holds the other branch"
)


class OwnEpochs:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self, identity: Identity, ledger: Ledger, antientropy: AntiEntropy, own_log: OwnLog, outbox: deque[Effect]
    ) -> None:
        self.again = deque(_not_published_again(identity.key, ledger))
        """Own entries that were disowned, or made under an overruled amendment, to be published again."""
        self.storing = False
        """Whether the first of them is on its way to the store."""
        self._identity = identity
        self._ledger = ledger
        self._antientropy = antientropy
        self._own_log = own_log
        self._outbox = outbox
        self._fault: FaultProof | None = None
        self._due_us: Micros | None = None

    @property
    def may_help(self) -> bool:
        """Whether this site's log was ended because it has two branches, and another epoch is possible."""
        own = self._identity.key
        fault, epochs = self._ledger.faults.get(own), self._ledger.accepted.epochs.of(own)
        parted = fault is not None and fault.reason in (Refusal.FORK.value, Refusal.CHAIN.value)
        return (
            self._ledger.rules.epochs
            and parted
            and len(epochs) < MAX_EPOCHS
            and len(self._ledger.aside.get(own, {})) <= MAX_DISOWNED
        )

    @property
    def next(self) -> Entry | None:
        """What is to be published again now."""
        return self.again[0] if self.again and not self.storing else None

    def look(self, alive: Collection[SiteKey], has_twin: bool, now: Micros) -> None:
        """Begin another epoch when it is due and known where the branches part.

        Not while there is a twin, which would do the same: two epochs of one number end the log.
        """
        fault = self._ledger.faults.get(self._identity.key)
        if fault is None or has_twin or not self.may_help:
            self._fault = self._due_us = None
        elif fault is not self._fault or self._due_us is None:
            self._fault, self._due_us = fault, now + LOOK_FOR
            self._ask(alive)
        elif now >= self._due_us:
            self._due_us = now + LOOK_FOR
            if not self._begin(fault, now):
                self._ask(alive)

    def deadline(self) -> Micros | None:
        """When `look` is due."""
        return self._due_us

    def stored(self, problem: str) -> None:
        """The first of `again` is on its way to the store, or cannot be published."""
        self.storing = not problem
        if problem:
            headers = self._ledger.accepted.log(self._identity.key).headers()
            if self.again[0].payload_hash not in {header.payload_hash for header in headers}:
                self._outbox.append(Emit(NotPublishedAgain(self.again[0].number, problem)))
            self.published()

    def published(self) -> None:
        """The first of `again` is durable under its new number, or given up."""
        self.storing = False
        entry = self.again.popleft()
        self._outbox.append(Persist(PublishedAgainRecord(entry.number, entry.encode())))

    def overruled(self, outcome: Outcome) -> None:
        """Other amendments are in force: what this site made under those that were overruled, it publishes again."""
        rules = self._ledger.amended_rules
        # Whom an overruled amendment had retired has its entries back; the store never lost them.
        self._own_log.published(self._ledger.head(self._identity.key))
        gone = (entry for entry in outcome.retracted if entry.author == self._identity.key)
        self.again.extend(entry for entry in gone if rules.voids(entry.basis))

    # ---- inner --------------------------------------------------------------------------------------------------

    def _ask(self, alive: Collection[SiteKey]) -> None:
        """Ask the others whether their headers differ further down."""
        own = self._identity.key
        head = self._ledger.head(own)
        if head:
            question = Heads((LogHead(own, head, self._ledger.head_hash(own)),))
            for site in sorted(alive)[:MOST_ASKED]:
                self._outbox.append(Send(site, question))

    def _begin(self, fault: FaultProof, now: Micros) -> bool:
        """Disown the branch that is held here, from where it parts from the other one; whether that could be done."""
        own, charter_id = self._identity.key, self._ledger.rules.charter_id
        aside = self._ledger.aside.get(own, {})
        # What shows that there are two branches may be the entry after them.
        found = fault.number if fault.number in aside else fault.number - 1
        first = min(takewhile(aside.__contains__, count(found, -1)), default=0)
        disowned = [aside[number] for number in takewhile(aside.__contains__, count(first))]
        if not disowned:
            return False
        number = len(self._ledger.accepted.epochs.of(own)) + 1
        hashes = tuple(entry.hash for entry in disowned)
        self.again.extend(disowned)
        self._own_log.parted()
        self._antientropy.epochs.begin(own, begin(self._identity, charter_id, number, first, hashes))
        for header in map(decode_stub, fault.evidence):
            if header.author == own:
                self._antientropy.statements.shown(header, now)
        return True


def _not_published_again(own: SiteKey, ledger: Ledger) -> list[Entry]:
    """Own entries that an epoch disowned or that are void, and whose payloads this site's log lacks."""
    known = {header.payload_hash for header in ledger.accepted.log(own).headers()}
    disowns, voids = ledger.accepted.epochs.disowns, ledger.amended_rules.voids
    found = {entry.hash: entry for entry in ledger.set_aside if disowns(entry) or voids(entry.basis)}
    return [entry for entry in found.values() if entry.author == own and entry.payload_hash not in known]
