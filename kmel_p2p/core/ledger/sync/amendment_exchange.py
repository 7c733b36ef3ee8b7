"""Spreads amendments and puts them in force: a site that hears of one it lacks asks for it, checks it and applies it.

Two different amendments with one number cannot both be in force as long as every honest site signs only one of them:
two quorums share a site. Should it happen, all sites decide alike which one stays (`agreement.rival_amendments`): they
show each other both, and those that went by the other one change over.

Whoever leaves the roster by an amendment is sent it unasked: a moment later nobody answers that key any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.rival_amendments import (
    have_parted,
    overrules,
    overruling,
    parting,
    signed_both,
    went_by_each,
)
from kmel_p2p.core.effects import Effect, Emit, Persist, Send
from kmel_p2p.core.ledger.events import (
    AmendmentConflict,
    AmendmentOverruled,
    AmendmentRecord,
    AmendmentRefused,
    AmendmentsAgree,
    AmendmentsOverruled,
)
from kmel_p2p.core.ledger.log.entry import decode_stub
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Outcome
from kmel_p2p.core.ledger.rules.validity import check_origin
from kmel_p2p.core.ledger.sync.messages import MAX_AMENDMENTS, Amendments, Holdings, WantAmendments
from kmel_p2p.core.rounds import CharterAmended

MAX_RIVALS = 64
"""Rival amendments remembered. Each was signed by a quorum, so more of them are nobody's mistake."""


class AmendmentExchange:
    """See the module docstring. Effects go to the shared `outbox`."""

    def __init__(
        self, own: SiteKey, ledger: Ledger, alive: Callable[[], tuple[SiteKey, ...]], outbox: deque[Effect]
    ) -> None:
        self._own = own
        self._ledger = ledger
        self._alive = alive
        self._outbox = outbox
        self.conflicts: dict[SiteKey, bytes] = {}
        """Sites that go by other amendments than this one, with the hash of the newest they named."""
        self._rivals: dict[bytes, Constitution] = {}
        """Hash of the newest amendment -> a constitution that is valid and not in force here."""
        self._went_by: dict[bytes, set[SiteKey]] = {}
        """Hash of an amendment -> sites of which an entry was seen that was made under it."""
        self._heard: set[bytes] = set()
        """Hashes of rivals of which it is known who goes by them: a site that does has shown its headers."""
        self._successor: Constitution | None = None
        self._remind()

    @property
    def constitution(self) -> Constitution:
        """Charter and amendments in force here."""
        found = self._ledger.constitution
        assert found is not None, "a ledger that is averaged has a constitution"
        return found

    @property
    def rivals(self) -> int:
        """How many amendments are known that contradict those in force here."""
        return len(self._rivals)

    @property
    def left_out(self) -> bool:
        """Whether the amendments in force here were overruled, and those that overruled them do not list this site."""
        constitution = self.constitution
        return bool(constitution.overruled) and any(
            document.amendment.hash in constitution.overruled for document in constitution.documents
        )

    # ---- messages -----------------------------------------------------------------------------------------------

    def told(self, site: SiteKey, held: Holdings) -> list[Outcome]:
        """A site says which amendments it holds: ask for those that we lack, and look at those that differ.

        Returns what that changed.
        """
        ours, number, newest = self.constitution, held.amendments, held.amendment
        if number <= ours.number and newest == ours.hash_at(number):
            return self.agrees(site)
        if number > ours.number and self.conflicts.get(site) != newest:
            self._outbox.append(Send(site, WantAmendments(ours.number + 1)))
            return []
        self._conflict(site, min(number, ours.number), newest)
        if newest in self._rivals:
            news = self._show_who_goes_by(held.headers)
            if (held.headers or not held.reply) and newest not in self._heard:
                # Only a first question comes without headers.
                self._heard.add(newest)
                news = True
            return self._decide() if news else []
        self._outbox.append(Send(site, WantAmendments(max(1, min(number, ours.number) - MAX_AMENDMENTS + 1))))
        return []

    def agrees(self, site: SiteKey) -> list[Outcome]:
        """A site goes by the amendments in force here; returns what that changed."""
        newest = self.conflicts.pop(site, None)
        if newest is None:
            return []
        self._outbox.append(Emit(AmendmentsAgree(site)))
        self._heard.add(newest)
        return self._decide()

    def greet(self, site: SiteKey) -> None:
        """A site came up: it may not have heard what was overruled."""
        gone = sorted(self.constitution.overruled.values(), key=lambda document: document.amendment.number)
        if gone and not self.left_out:
            standing = self.constitution.documents[gone[0].amendment.number - 1 :]
            self._outbox.append(Send(site, _both(standing, gone)))

    def on_want(self, sender: SiteKey, want: WantAmendments) -> None:
        """Send a site the amendments that it lacks."""
        missing = self.constitution.documents[max(0, want.first - 1) :][:MAX_AMENDMENTS]
        if missing:
            self._outbox.append(Send(sender, Amendments(tuple(document.encode() for document in missing))))

    def on_amendments(self, sender: SiteKey, message: Amendments) -> list[Outcome]:
        """Put in force what a site sent; returns what that changed."""
        outcomes = []
        known = len(self._rivals), len(self._heard)
        ours_first = False
        for encoded in message.amendments:
            try:
                document = AmendmentDocument.decode(encoded)
                stands = self._stands(document)
                ours_first |= stands and encoded is message.amendments[0]
                if self._follows(document, self.constitution):
                    outcomes.append(self.enact(document))
                elif not stands and not self._take_rival(sender, document):
                    break
            except (WireError, ConfigError) as error:
                self._refuse(sender, str(error))
                break
        if ours_first and sender not in self.conflicts:
            # It has seen both, and goes by ours.
            self._heard.update(self._rivals)
        if (len(self._rivals), len(self._heard)) != known:
            outcomes += self._decide()
        return outcomes

    # ---- what is in force ---------------------------------------------------------------------------------------

    def enact(self, document: AmendmentDocument) -> Outcome:
        """Put the next amendment in force.

        Raises:
            ConfigError: it is not valid as the next one; says why.
        """
        before, constitution = self.constitution, self.constitution.followed_by(document)
        outcome = self._ledger.amend(constitution)
        self._send_those_that_leave(before, (document,))
        self.tell(constitution.number - 1)
        return outcome

    def tell(self, since: int) -> None:
        """Record and report the amendments in force above number `since`."""
        for document in self.constitution.documents[since:]:
            self._outbox.append(Persist(AmendmentRecord(document.amendment.number, document.encode())))
        if self.constitution.number > since:
            self._outbox.append(Emit(CharterAmended(self.constitution)))

    def change_over(self) -> Outcome | None:
        """Go by the amendments that have overruled ours, if some have and this site takes part under them.

        Call it while no own entry is being stored. Returns what changed in the ledger; None: nothing.
        """
        if self._successor is None:
            return None
        successor, self._successor = self._successor, None
        ours, went_by = self.constitution, self._known_to_go_by()
        if not overrules(successor, ours, went_by):
            return None
        first = parting(successor, ours)
        self._went_by = went_by
        winner = overruling(successor, ours)
        if self._own not in winner.everyone:
            self._remember(Constitution(ours.genesis, ours.documents, winner.overruled), winner, ours)
            return None
        outcome = self._ledger.overrule(winner)
        gone = tuple(document.encode() for document in ours.documents[first - 1 :])
        standing = winner.documents[first - 1 :]
        encoded = tuple(document.encode() for document in standing)
        self._outbox.append(Persist(AmendmentsOverruled(first, encoded, gone, dict(outcome.kept))))
        self._outbox.append(Emit(CharterAmended(winner)))
        for site in [site for site, newest in self.conflicts.items() if newest in self._ledger.amended_rules.hashes]:
            del self.conflicts[site]
            self._outbox.append(Emit(AmendmentsAgree(site)))
        self._say_overruled(winner, ours, stood_here=True, left_out=False)
        self._send_those_that_leave(ours, standing)
        self._spread(ours.documents[first - 1 :], standing)
        return outcome

    # ---- inner --------------------------------------------------------------------------------------------------

    @staticmethod
    def _follows(document: AmendmentDocument, constitution: Constitution) -> bool:
        amendment = document.amendment
        return amendment.number == constitution.number + 1 and amendment.previous == constitution.head_hash.hex()

    def _stands(self, document: AmendmentDocument) -> bool:
        ours, number = self.constitution, document.amendment.number
        return number <= ours.number and ours.hash_at(number) == document.amendment.hash

    def _take_rival(self, sender: SiteKey, document: AmendmentDocument) -> bool:
        """Keep an amendment that does not go with ours; whether what follows it can be looked at.

        Raises:
            ConfigError: it is not in force anywhere.
        """
        number, hash_, ours = document.amendment.number, document.amendment.hash, self.constitution
        if hash_ in self._rivals:
            return True
        previous = bytes.fromhex(document.amendment.previous)
        before = self._rivals.get(previous)
        if before is None and number - 1 <= ours.number and ours.hash_at(number - 1) == previous:
            before = ours.at(number - 1)
        if before is None:
            if number > ours.number + 1:
                ours.require_fitting(document.amendment)
            self._conflict(sender, min(number, ours.number), hash_)
            if number > 1:
                self._outbox.append(Send(sender, WantAmendments(max(1, number - MAX_AMENDMENTS))))
            return False
        rival = before.followed_by(document)
        if len(self._rivals) >= MAX_RIVALS:
            raise ConfigError(f"more than {MAX_RIVALS} amendments that contradict others: no more are looked at")
        self._rivals[hash_] = rival
        return True

    def _show_who_goes_by(self, stubs: Iterable[bytes]) -> bool:
        """Note of which sites these headers show that they go by a rival; whether that is news."""
        news = False
        for stub in stubs:
            with suppress(WireError):
                header = decode_stub(stub)
                rival = header.basis.amendment_hash
                if rival not in self._rivals or header.author in self._went_by.get(rival, ()):
                    continue
                if check_origin(header, self._ledger.rules) is None:
                    self._went_by.setdefault(rival, set()).add(header.author)
                    news = True
        return news

    def _known_to_go_by(self) -> dict[bytes, set[SiteKey]]:
        known = {hash_: set(sites) for hash_, sites in self._went_by.items()}
        for author, log in self._ledger.accepted.logs.items():
            if log.newest is not None:
                known.setdefault(log.newest.basis.amendment_hash, set()).add(author)
        return went_by_each(known, self.constitution, self._rivals.values())

    def _decide(self) -> list[Outcome]:
        """Compare ours with all rivals."""
        ours = self.constitution
        if self.left_out:
            return []
        went_by = self._known_to_go_by()
        best = ours
        for rival in self._rivals.values():
            if overrules(rival, best, went_by):
                best = rival
        if best is not ours:
            self._successor = best
            return []
        outcomes = []
        for hash_, rival in self._rivals.items():
            if hash_ in self._heard and not have_parted(ours, rival, went_by) and not overrules(rival, ours, went_by):
                known = overruling(ours, rival)
                if known.overruled.keys() > self.constitution.overruled.keys():
                    outcomes.append(self._remember(known, known, rival))
        return outcomes

    def _remember(self, constitution: Constitution, winner: Constitution, loser: Constitution) -> Outcome:
        """Keep in mind what was overruled, where that changes no amendment in force here."""
        outcome = self._ledger.amend(constitution)
        first = parting(winner, loser)
        gone = loser.documents[first - 1 :]
        encoded = tuple(document.encode() for document in gone)
        self._outbox.append(Persist(AmendmentsOverruled(first, (), encoded, None)))
        self._say_overruled(winner, loser, stood_here=self.left_out, left_out=self.left_out)
        self._spread(gone, winner.documents[first - 1 :])
        return outcome

    def _remind(self) -> None:
        """Tell anew after a start, while nobody has amended the charter since."""
        ours = self.constitution
        first = min((document.amendment.number for document in ours.overruled.values()), default=0)
        if not first or (ours.number > first and not self.left_out):
            return
        for document in ours.overruled.values():
            if document.amendment.number == first:
                loser = Constitution(ours.genesis, (*ours.documents[: first - 1], document))
                if self.left_out:
                    standing = document.amendment.hash
                    event = AmendmentOverruled(first, standing, b"", (), stood_here=True, left_out=True)
                    self._outbox.append(Emit(event))
                else:
                    self._say_overruled(ours, loser, stood_here=False, left_out=False)

    def _say_overruled(self, winner: Constitution, loser: Constitution, *, stood_here: bool, left_out: bool) -> None:
        number = parting(winner, loser)
        both = signed_both(winner.documents[number - 1], loser.documents[number - 1], winner.at(number - 1))
        by, gone = winner.hash_at(number), loser.hash_at(number)
        self._outbox.append(Emit(AmendmentOverruled(number, gone, by, tuple(both), stood_here, left_out)))

    def _spread(self, gone: Sequence[AmendmentDocument], standing: Sequence[AmendmentDocument]) -> None:
        """Show both to everybody, each once: operators of all sites are to know."""
        both = _both(standing, gone)
        self._outbox.extend(Send(key, both) for key in self._alive())

    def _send_those_that_leave(self, before: Constitution, documents: Sequence[AmendmentDocument]) -> None:
        now = self.constitution.roster
        encoded = tuple(document.encode() for document in documents[:MAX_AMENDMENTS])
        for key in self._alive():
            if key in before.roster and key not in now:
                self._outbox.append(Send(key, Amendments(encoded)))

    def _conflict(self, site: SiteKey, number: int, newest: bytes) -> None:
        if site not in self.conflicts:
            self._outbox.append(Emit(AmendmentConflict(site, number)))
        self.conflicts[site] = newest

    def _refuse(self, sender: SiteKey, reason: str) -> None:
        self._outbox.append(Emit(AmendmentRefused(sender, reason)))


def _both(standing: Sequence[AmendmentDocument], gone: Sequence[AmendmentDocument]) -> Amendments:
    """Amendments in force, and those that gave way to them."""
    half = MAX_AMENDMENTS // 2
    return Amendments(tuple(document.encode() for document in (*standing[:half], *gone[:half])))
