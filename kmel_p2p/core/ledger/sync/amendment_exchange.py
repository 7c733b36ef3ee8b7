"""Spreads amendments and puts them in force: a site that hears of one it lacks asks for it, checks it and applies it.

Two different amendments with one number cannot both be in force as long as every honest site signs only one of them:
two quorums share a site. Should it happen, each site keeps the one it had first and tells the operator.

Whoever leaves the roster by an amendment is sent it unasked: a moment later nobody answers that key any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Emit, Persist, Send
from kmel_p2p.core.ledger.events import AmendmentConflict, AmendmentRecord, AmendmentRefused, AmendmentsAgree
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome
from kmel_p2p.core.ledger.sync.messages import MAX_AMENDMENTS, Amendments, WantAmendments
from kmel_p2p.core.rounds import CharterAmended


class AmendmentExchange:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(self, ledger: Ledger, alive: Callable[[], tuple[SiteKey, ...]], outbox: deque[Effect]) -> None:
        self._ledger = ledger
        self._alive = alive
        self._outbox = outbox
        self.conflicts: dict[SiteKey, bytes] = {}
        """Sites that go by other amendments than this one, with the hash of the newest they named."""

    @property
    def constitution(self) -> Constitution:
        """Charter and amendments in force here."""
        found = self._ledger.constitution
        assert found is not None, "a ledger that is averaged has a constitution"
        return found

    def told(self, site: SiteKey, number: int, newest: bytes) -> None:
        """A site says that it holds so many amendments, the newest with this hash: ask for those that we lack."""
        ours = self.constitution.number
        if number > ours:
            # Of a site that goes by others nothing could follow ours, however often it is asked.
            if self.conflicts.get(site) != newest:
                self._outbox.append(Send(site, WantAmendments(ours + 1)))
        elif newest != self.constitution.hash_at(number):
            self._conflict(site, number, newest)
        elif self.conflicts.pop(site, None) is not None:
            self._outbox.append(Emit(AmendmentsAgree(site)))

    def on_want(self, sender: SiteKey, want: WantAmendments) -> None:
        """Send a site the amendments that it lacks."""
        missing = self.constitution.documents[max(0, want.first - 1) :][:MAX_AMENDMENTS]
        if missing:
            self._outbox.append(Send(sender, Amendments(tuple(document.encode() for document in missing))))

    def on_amendments(self, sender: SiteKey, message: Amendments) -> list[Outcome]:
        """Put in force what a site sent; returns what that changed."""
        outcomes = []
        for encoded in message.amendments:
            try:
                document = AmendmentDocument.decode(encoded)
                if document.amendment.number > self.constitution.number:
                    if self._is_of_another_chain(document):
                        self._conflict(sender, self.constitution.number, document.amendment.hash)
                        break
                    outcomes.append(self.enact(document))
                elif self._contradicts(document):
                    self._conflict(sender, document.amendment.number, document.amendment.hash)
            except (WireError, ConfigError) as error:
                self._refuse(sender, str(error))
                break
        return outcomes

    def enact(self, document: AmendmentDocument) -> Outcome:
        """Put the next amendment in force.

        Raises:
            ConfigError: it is not valid as the next one; says why.
        """
        before, constitution = self.constitution.roster, self.constitution.followed_by(document)
        outcome = self._ledger.amend(constitution)
        for key in self._alive():
            if key in before and key not in constitution.roster:
                self._outbox.append(Send(key, Amendments((document.encode(),))))
        self.tell(constitution.number - 1)
        return outcome

    def tell(self, since: int) -> None:
        """Record and report the amendments in force above number `since`."""
        for document in self.constitution.documents[since:]:
            self._outbox.append(Persist(AmendmentRecord(document.amendment.number, document.encode())))
        if self.constitution.number > since:
            self._outbox.append(Emit(CharterAmended(self.constitution)))

    def _contradicts(self, document: AmendmentDocument) -> bool:
        number = document.amendment.number
        standing = self.constitution.documents[number - 1]
        if standing.amendment.hash == document.amendment.hash:
            return False
        return not self.constitution.at(number - 1).why_not_in_force(document)

    def _is_of_another_chain(self, document: AmendmentDocument) -> bool:
        """Whether it is the next one and follows another than our newest."""
        amendment, ours = document.amendment, self.constitution
        return amendment.number == ours.number + 1 and amendment.previous != ours.head_hash.hex()

    def _conflict(self, site: SiteKey, number: int, newest: bytes) -> None:
        if site not in self.conflicts:
            self._outbox.append(Emit(AmendmentConflict(site, number)))
        self.conflicts[site] = newest

    def _refuse(self, sender: SiteKey, reason: str) -> None:
        self._outbox.append(Emit(AmendmentRefused(sender, reason)))
