"""The part of a ledger that goes on under other amendments, where its own were overruled by rivals of the same number.

Entries made under an overruled amendment belong to no log: they leave the sum, and their authors publish them again
under the amendments in force. Everything older is judged anew, for it was never made on those: whoever an overruled
amendment had retired has its entries back. The attributes are the ledger's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.branches import Branches
from kmel_p2p.core.ledger.log.entry import Entry, SignedHeader
from kmel_p2p.core.ledger.log.outcome import Outcome
from kmel_p2p.core.ledger.log.waiting import WaitingRoom
from kmel_p2p.core.ledger.rules.entry_check import Hold
from kmel_p2p.core.roster_vector import RosterOrder


class Overruling(Branches):
    """See the module docstring."""

    accumulator: Accumulator
    cut_off: list[Entry]
    """Entries that the end of their author's log took back, because an amendment retired it."""
    turn_bytes: int | None
    _holds: dict[SiteKey, Hold]
    _rests_on_overruled: bool
    """Whether the compacted part of the sum holds entries that belong to no log: only a snapshot helps."""

    @abstractmethod
    def amend(self, constitution: Constitution) -> Outcome:
        """Go on under a constitution that continues the present one."""

    def overrule(self, constitution: Constitution) -> Outcome:
        """Go on under a constitution that overruled the present one.

        Returns:
            What changed, as after `adopt`: `applied` had not been applied before, `retracted` is no longer, and `kept`
            names the others.
        """
        before = {entry.hash: entry for entry in self.accepted.entries()}
        again = [*before.values(), *self._waiting, *self.cut_off]
        proofs = [fault for book in (self.accepted.faults, self.accepted.late) for fault in book.values()]
        self._back_to_what_is_compacted(constitution)
        outcome = self.amend(constitution)
        for fault in proofs:
            found = self.offer_proof(fault.evidence)
            outcome.faults += found.faults
            outcome.late += found.late
        rules = self.amended_rules
        for entry in again:
            stands = entry.author in rules.now.roster and not rules.voids(entry.basis)
            ended = self.accepted.is_ended(entry.author, entry.number)
            if stands and not ended and entry.number > self.accepted.head(entry.author):
                self._waiting.hold(entry, always=True)
        limit, self.turn_bytes = self.turn_bytes, None
        self._settle(outcome)
        self.turn_bytes = limit
        self.keep_parted(before.values())
        now = {entry.hash for entry in self.accepted.entries()}
        outcome.retracted = [entry for entry in before.values() if entry.hash not in now]
        taken = [*self.cut_off, *outcome.retracted]
        self.cut_off = [entry for entry in taken if entry.hash not in now and not rules.voids(entry.basis)]
        stand = [entry for entry in before.values() if entry.hash in now]
        outcome.kept = {entry.author: entry.number for entry in stand}
        outcome.applied = [entry for entry in outcome.applied if entry.hash not in before]
        return outcome

    def _forget_void(self) -> None:
        """Drop entries that wait and belong to no log, and look at what the sum rests on."""
        rules = self.amended_rules
        for entry in [entry for entry in self._waiting if rules.voids(entry.basis)]:
            self._waiting.release(entry.author, entry.number)
        compacted = (log.header(log.first - 1) for log in self.accepted.logs.values())
        self._rests_on_overruled |= any(header is not None and rules.voids(header.basis) for header in compacted)

    def _replaced(self, known: SignedHeader, entry: Entry) -> bool:
        """Whether another entry with this number is no fork: one of the two was made under amendments that are not
        here, and may belong to no log. The one that can be judged takes the place of one that waits."""
        rules = self.amended_rules
        if rules.under(known.basis) is not None and rules.under(entry.basis) is not None:
            return False
        waits = self._waiting.get(entry.author, entry.number) is not None
        if waits and rules.under(entry.basis) is not None:
            self._waiting.release(entry.author, entry.number)
        return True

    def _follow(
        self, headers: Mapping[SiteKey, Sequence[SignedHeader]], order: RosterOrder, withdrawn: Mapping[SiteKey, int]
    ) -> None:
        """Logs that go on after these headers; those of sites that only an overruled amendment had added go."""
        epochs = self.accepted.epochs
        known = {key: held for key, held in headers.items() if key in order}
        self._rests_on_overruled = len(known) < len(headers)
        self.accepted = AcceptedLogs.following(known, order, {k: n for k, n in withdrawn.items() if k in order})
        self.accepted.epochs = epochs

    def _back_to_what_is_compacted(self, constitution: Constitution) -> None:
        """Take every entry that is held out of the sum again; what is left is what the stored snapshot holds."""
        accepted = self.accepted
        for entry in accepted.entries():
            if not accepted.is_withdrawn(entry.author, entry.number):
                self.accumulator.subtract(self._decoder.decode(entry.payload), entry.weight, entry.head_weights)
        order = RosterOrder(constitution.order)
        headers = {key: tuple(h for h in log.headers() if h.number < log.first) for key, log in accepted.logs.items()}
        self._follow({key: held for key, held in headers.items() if held}, order, accepted.left_out)
        self._waiting, self._holds = WaitingRoom(), {}
