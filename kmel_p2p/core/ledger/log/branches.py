"""The part of a ledger that ends logs for their authors' faults, and lets one go on that only had two branches.

The attributes are the ledger's. A branch that a fork took out of the trunk is kept aside: it stands again when an epoch
disowns the other one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accepted_logs import ENDLESS, AcceptedLogs
from kmel_p2p.core.ledger.log.entry import MAX_PAYLOAD_BYTES, Entry, decode_stub
from kmel_p2p.core.ledger.log.epoch import BRANCHED, TWO_EPOCHS, Epoch, prove_two_epochs, read_two_epochs
from kmel_p2p.core.ledger.log.outcome import Outcome, Verdict
from kmel_p2p.core.ledger.log.waiting import WaitingRoom
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.ledger.rules.proof import FaultProof, prove
from kmel_p2p.core.ledger.rules.rules import AmendedRules
from kmel_p2p.core.ledger.rules.validity import Refusal


class Branches:
    """See the module docstring."""

    accepted: AcceptedLogs
    aside: dict[SiteKey, dict[int, Entry]]
    """Author -> entries that a fork took back here, by number."""
    amended_rules: AmendedRules
    _decoder: Decoder
    _waiting: WaitingRoom

    @abstractmethod
    def _cut(self, author: SiteKey, end: int, outcome: Outcome) -> None:
        """Take back an author's entries from `end` on."""

    @abstractmethod
    def _settle(self, outcome: Outcome) -> None:
        """Apply waiting entries."""

    @abstractmethod
    def _rule(self) -> None:
        """Have the trunk follow from amendments, votes and epochs."""

    def offer_proof(self, evidence: Sequence[bytes], max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> Outcome:
        """Take evidence against an author from anywhere.

        Raises:
            WireError: a part of it is neither a header nor an entry.
        """
        rules = self.amended_rules.now
        fault = read_two_epochs(tuple(evidence), rules.charter_id) if rules.epochs else None
        fault = fault or prove(evidence, self.amended_rules, self._decoder, max_payload_bytes)
        return Outcome(Verdict.REFUSED) if fault is None else self.end_log(fault)

    def end_log(self, fault: FaultProof) -> Outcome:
        """End an author's log before `fault.number`, taking back exactly what is beyond it. The fault must be proved.

        Entries of others stand even if their base reaches beyond: their authors could not know.
        """
        outcome = Outcome(Verdict.REFUSED)
        if fault.reason == TWO_EPOCHS:
            self.accepted.epochs.disregard(fault.author)
        earlier = self.accepted.proof_against(fault.author)
        is_proved = earlier is not None and earlier.number <= fault.number
        if self.proves_nothing(fault):
            return Outcome(Verdict.KNOWN, author=fault.author)
        if is_proved or self.accepted.is_ended(fault.author, fault.number):
            outcome.verdict = Verdict.ENDED
            return outcome
        if fault.number < self.accepted.log(fault.author).first:
            # Compacted entries were attested by a majority; they cannot be taken back any more.
            self.accepted.late[fault.author] = fault
            outcome.late.append(fault)
            self._settle(outcome)
            return outcome
        self._end(fault, outcome)
        self._settle(outcome)
        return outcome

    def begin_epoch(self, epoch: Epoch) -> Outcome:
        """Take in an epoch of a log. The signature must be good.

        Returns:
            `APPLIED` with what changed, `KNOWN` when it is here already, `REFUSED` with the fault when its author
            signed another one of this number.
        """
        accepted, author = self.accepted, epoch.author
        other = accepted.epochs.get(author, epoch.number)
        if other is not None:
            return Outcome(Verdict.KNOWN) if other == epoch else self.end_log(prove_two_epochs(epoch, other))
        accepted.epochs.add(epoch)
        outcome = Outcome(Verdict.APPLIED)
        for faults in (accepted.faults, accepted.late):
            if author in faults and accepted.epochs.voids(faults[author]):
                outcome.voided.append(faults.pop(author))
        held = (accepted.header(author, number) for number in range(epoch.first, epoch.last + 1))
        foreign = next((header.number for header in held if header is not None and accepted.epochs.disowns(header)), 0)
        if foreign:
            accepted.overtaken |= foreign < accepted.log(author).first
            self._cut(author, foreign, outcome)
        for entry in [entry for entry in self._waiting.of(author) if accepted.epochs.disowns(entry)]:
            self._waiting.release(author, entry.number)
        if author not in accepted.faults:
            for number, entry in sorted(self.aside.pop(author, {}).items()):
                if not accepted.epochs.disowns(entry) and number < accepted.end(author):
                    self._waiting.hold(entry, always=True)
        self._rule()
        self._settle(outcome)
        return outcome

    def keep_aside(self, fault: FaultProof, taken: Iterable[Entry]) -> None:
        """Keep what a fault took back, if it is one of two branches."""
        if fault.reason in BRANCHED and self.amended_rules.now.epochs:
            aside = self.aside.setdefault(fault.author, {})
            for entry in taken:
                if entry.author == fault.author and not self.accepted.epochs.disowns(entry):
                    aside[entry.number] = entry

    def keep_parted(self, held: Iterable[Entry]) -> None:
        """Keep what stood here before a snapshot was adopted and is of another branch of its log than the snapshot."""
        if not self.amended_rules.now.epochs:
            return
        for entry in held:
            header = self.accepted.header(entry.author, entry.number)
            beyond = entry.number >= self.accepted.end(entry.author)
            parted = beyond or (header is not None and header.hash != entry.hash)
            if parted and not self.accepted.epochs.disowns(entry):
                self.aside.setdefault(entry.author, {})[entry.number] = entry

    def proves_nothing(self, fault: FaultProof) -> bool:
        """Whether a fault rests on what its author has disowned, or nobody here can tell yet whether it has."""
        epochs = self.accepted.epochs
        if epochs.voids(fault):
            return True
        if fault.reason != Refusal.REPLAY.value or not self.amended_rules.now.epochs:
            return False
        offender, earlier = map(decode_stub, fault.evidence)
        order = self.accepted.order
        parted = offender.basis.ended.get(order.place(earlier.author), ENDLESS)
        return parted <= earlier.number and not epochs.covers(earlier.author, parted)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _end(self, fault: FaultProof, outcome: Outcome) -> None:
        self.accepted.faults[fault.author] = fault
        outcome.faults.append(fault)
        self._cut(fault.author, fault.number, outcome)
        self.keep_aside(fault, outcome.retracted)
