"""All logs a peer holds and the trunk they sum to.

An entry changes the trunk exactly once, and only when its base is here and it is valid; the state depends on the sets
of entries and proofs, not on their order. What to send to whom is decided elsewhere: see `antientropy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from kmel_p2p.agreement.amendment import AmendmentDocument, Constitution
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.harm.suspensions import Suspensions, first_counts
from kmel_p2p.core.ledger.harm.vote import HarmVote
from kmel_p2p.core.ledger.harm.vote import decode as decode_vote
from kmel_p2p.core.ledger.harm.vote_book import VoteBook
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import MAX_PAYLOAD_BYTES, Entry, SignedHeader
from kmel_p2p.core.ledger.log.kept_headers import fitting
from kmel_p2p.core.ledger.log.outcome import Outcome, Verdict
from kmel_p2p.core.ledger.log.overruling import Overruling
from kmel_p2p.core.ledger.log.waiting import WaitingRoom
from kmel_p2p.core.ledger.log.withdrawing import withdraw
from kmel_p2p.core.ledger.rules.entry_check import Hold, check_entry
from kmel_p2p.core.ledger.rules.payload import CachingDecoder, Decoder
from kmel_p2p.core.ledger.rules.proof import FaultProof, fault_of, fork_of, prove
from kmel_p2p.core.ledger.rules.rules import AmendedRules, Rules
from kmel_p2p.core.ledger.rules.validity import Refusal, check_alone, check_origin, head_cap, norm_bound_squared
from kmel_p2p.core.ledger.snapshot.snapshot import SNAPSHOT_HEADERS_BYTES, Snapshot, digest_context, standing
from kmel_p2p.core.roster_vector import RosterOrder, RosterVector
from kmel_p2p.core.types import Vector
from kmel_p2p.delta.sparse import SparseDelta


class Ledger(Overruling):
    """See the module docstring. All calls are synchronous and pure in-memory."""

    def __init__(self, accumulator: Accumulator, codec: Decoder, rules: Rules) -> None:
        self.accumulator = accumulator
        self.amended_rules = AmendedRules.first(rules)
        self.constitution: Constitution | None = None
        """Charter and amendments; None when the ledger is used without a charter."""
        self.suspensions = Suspensions()
        """What sites say about each other's entries, and who is suspended by it."""
        self.own_log_in_doubt = False
        """Whether this site's store had lost entries of its own log, so that it may lack some still (`own_log`)."""
        self.accepted = AcceptedLogs(rules.roster)
        self.aside = {}
        self.set_aside: list[Entry] = []
        """Own entries that the store keeps although they do not count: those of disowned branches among them."""
        self.cut_off = []
        self.turn_bytes: int | None = None
        """Payload bytes judged in one call; `settle` does the rest. None: no limit."""
        self.unsettled = False
        """Whether `settle` has work left."""
        self._codec = codec
        self._decoder = CachingDecoder(codec)
        self._waiting = WaitingRoom()
        self._holds: dict[SiteKey, Hold] = {}
        self._rests_on_overruled = False

    # ---- what is here -------------------------------------------------------------------------------------------

    @property
    def rules(self) -> Rules:
        """The rules in force."""
        return self.amended_rules.now

    @property
    def votes(self) -> VoteBook:
        """What sites say about each other's entries."""
        return self.suspensions.votes

    @property
    def suspended(self) -> Mapping[SiteKey, int]:
        """Author -> first entry that the votes take out of the trunk, in key order."""
        return self.suspensions.starts

    @property
    def stale(self) -> bool:
        """Whether amendments or votes change what is compacted here: only a snapshot helps, or another decision."""
        return self.accepted.stale or self._rests_on_overruled

    @property
    def vector(self) -> dict[SiteKey, int]:
        """author -> number of the newest applied entry, in key order, without zeros."""
        return self.accepted.vector

    @property
    def standing(self) -> bytes:
        """Hash of the newest amendment and of what is taken out of the sum: sums are comparable where it is equal."""
        return standing(self.amended_rules.head_hash, self.accepted.withdrawn)

    @property
    def faults(self) -> Mapping[SiteKey, FaultProof]:
        """Authors whose log has ended, with the evidence."""
        return self.accepted.faults

    @property
    def waiting(self) -> int:
        """Number of entries that wait to be judged."""
        return len(self._waiting)

    def head(self, author: SiteKey) -> int:
        """Number of the author's newest applied entry; 0 when none."""
        return self.accepted.head(author)

    def head_hash(self, author: SiteKey) -> bytes:
        """The hash that the author's next entry must chain to."""
        return self.accepted.log(author).head_hash

    def has(self, author: SiteKey, number: int) -> bool:
        """Whether the entry is applied or waiting here."""
        return number <= self.head(author) or self._waiting.get(author, number) is not None

    def entries(self) -> Iterator[Entry]:
        """Every applied entry still held, author by author."""
        return self.accepted.entries()

    def held_up(self) -> Iterator[tuple[Entry, Hold]]:
        """The next entry of each log that cannot go on here, and why."""
        for author, hold in self._holds.items():
            entry = self._waiting.get(author, self.head(author) + 1)
            if entry is not None:
                yield entry, hold

    def norm_bound_squared(self, author: SiteKey, base: RosterVector) -> int:
        """Bound on an entry that `author` makes on `base`; all of `base` must be applied here."""
        named = self.accepted.at_base(author, base)
        return norm_bound_squared(named.norms, self.rules, named.unknown)

    def head_caps(self, author: SiteKey, base: RosterVector, heads: Iterable[int]) -> dict[int, int]:
        """Largest weight (units of 2**-16) that an entry of `author` on `base` may give to each of these heads."""
        known = self.accepted.at_base(author, base)
        number, rules = base.at(self.accepted.order.place(author)) + 1, self.rules
        return {head: max(rules.cap_at(number), head_cap(head, author, number, known, rules)) for head in heads}

    def snapshot(self) -> Snapshot:
        """The present state, copied."""
        headers = {key: tuple(log.headers()) for key, log in sorted(self.accepted.logs.items()) if log.head}
        evidence = tuple(self.faults[key].evidence for key in sorted(self.faults))
        documents = self.constitution.documents if self.constitution is not None else ()
        return Snapshot(
            charter_id=self.rules.charter_id,
            headers=fitting(headers, SNAPSHOT_HEADERS_BYTES),
            evidence=evidence,
            amendments=tuple(document.encode() for document in documents),
            amendment_hash=self.amended_rules.head_hash,
            withdrawn=dict(self.accepted.withdrawn),
            votes=self.votes.behind(self.suspended),
            accumulator=self.accumulator.copy(),
        )

    def digest_work(self, vector: RosterVector) -> Callable[[], bytes] | None:
        """Work for another thread that computes `digest(vector)`; None when the entries above are no longer held."""
        if not self.accepted.holds_above(vector):
            return None
        numbers = self.accepted.order.named(vector)
        above = (entry for key, log in self.accepted.logs.items() for entry in log.after(numbers.get(key, 0)))
        later = [entry for entry in above if not self.accepted.is_withdrawn(entry.author, entry.number)]
        past, codec = self.accumulator.copy(), self._codec
        context = digest_context(self.rules.charter_id, self.standing, numbers)

        def work() -> bytes:
            for entry in later:
                past.subtract(codec.decode(entry.payload), entry.weight, entry.head_weights)
            return past.digest(context)

        return work

    def digest(self, vector: RosterVector | None = None) -> bytes:
        """BLAKE2b-256 of charter id, vector and accumulator; for a past vector the newer entries are subtracted.

        Raises:
            Bug: entries above `vector` are no longer held.
        """
        if vector is None:
            return self.accumulator.digest(digest_context(self.rules.charter_id, self.standing, self.vector))
        work = self.digest_work(vector)
        if work is None:
            raise Bug(f"entries above {vector} are not held")
        return work()

    def measure(self, payload: bytes) -> int | None:
        """Squared norm of a payload's delta, units 2**-48; None when it does not decode."""
        try:
            return self._decoder.decode(payload).norm_squared
        except WireError:
            return None

    def examine(self, entry: Entry) -> str:
        """What speaks against an own entry whose base is applied here, in words; changes nothing."""
        refusal = check_origin(entry, self.rules) or check_alone(entry, self.rules)
        if refusal is not None:
            return refusal.value
        if self.accepted.is_ended(entry.author, entry.number):
            return Verdict.ENDED.value
        verdict = check_entry(entry, self.accepted, self.amended_rules, self._decoder)
        if isinstance(verdict, FaultProof):
            return verdict.reason
        return verdict.value if isinstance(verdict, Hold) else ""

    # ---- change -------------------------------------------------------------------------------------------------

    def offer(self, entry: Entry) -> Outcome:
        """Take an entry from anywhere: apply it, hold it back, or refuse it."""
        known = self._known(entry)
        if known is not None and known.hash == entry.hash:
            return Outcome(Verdict.KNOWN)
        refusal = check_origin(entry, self.rules)
        if refusal is not None:
            return Outcome(Verdict.REFUSED, refusal)
        if self.accepted.epochs.disowns(entry) or self.amended_rules.voids(entry.basis):
            return Outcome(Verdict.KNOWN)
        if known is not None and self._replaced(known, entry):
            known = self._known(entry)
            if known is not None:
                return Outcome(Verdict.KNOWN)
        if known is not None:
            return self._ended_by(Refusal.FORK, fork_of(known, entry))
        if self.accepted.is_ended(entry.author, entry.number):
            return Outcome(Verdict.ENDED)
        rules = self.amended_rules.under(entry.basis)
        refusal = check_alone(entry, rules) if rules is not None else None
        if refusal is not None:
            return self._ended_by(refusal, fault_of(refusal, entry))
        if entry.number <= self.head(entry.author):
            return Outcome(Verdict.KNOWN)
        if not self._waiting.hold(entry, always=entry.number == self.head(entry.author) + 1, alone=rules):
            return Outcome(Verdict.DROPPED)
        outcome = Outcome(Verdict.WAITING)
        self._settle(outcome)
        return self._result(entry, outcome)

    def settle(self) -> Outcome:
        """Go on applying waiting entries, as far as one call may go."""
        outcome = Outcome(Verdict.WAITING)
        self._settle(outcome)
        return outcome

    def amend(self, constitution: Constitution) -> Outcome:
        """Go on under a constitution that continues the present one."""
        outcome = Outcome(Verdict.APPLIED)
        self.constitution = constitution
        self.amended_rules = AmendedRules.of(constitution, self.amended_rules.rules[0])
        self.accepted.amendment, self.accepted.amendment_hash = self.amended_rules.number, self.amended_rules.head_hash
        self.accepted.grow(self.rules.roster)
        for author, end in self.amended_rules.retired.items():
            if self.accepted.retired.get(author) != end:
                self.accepted.retired[author] = end
                self._cut(author, end, outcome)
        self.cut_off += outcome.retracted
        self._forget_void()
        self.suspensions.amended(constitution, [rules.current for rules in self.amended_rules.rules])
        self._rule()
        self._settle(outcome)
        return outcome

    def vote(self, vote: HarmVote) -> bool:
        """Take a vote in whose signature was checked; whether it changed what is kept."""
        if not self.suspensions.take(vote):
            return False
        self._rule()
        return True

    def compact(self, until: Vector) -> None:
        """Drop the payloads of entries up to `until`; they must be in the stored snapshot."""
        for author, number in until.items():
            self.accepted.compact(author, number)

    def adopt(self, snapshot: Snapshot) -> Outcome:
        """Go on from an attested snapshot; entries held beyond it are judged again on top of it.

        The outcome's `applied` had not been applied before; `kept` names the others that still stand.
        """
        before = {entry.hash for entry in self.entries()}
        again = [*self.entries(), *self._waiting]
        proofs = [fault for book in (self.accepted.faults, self.accepted.late) for fault in book.values()]
        self.accumulator = snapshot.accumulator.copy()
        constitution = None if self.constitution is None else self._longer(self.constitution, snapshot)
        order = self.rules.roster if constitution is None else RosterOrder(constitution.order)
        self._follow(snapshot.headers, order, snapshot.withdrawn)
        self._waiting, self._holds = WaitingRoom(), {}
        outcome = Outcome(Verdict.APPLIED)
        if constitution is not None:
            self.amend(constitution)
        # Signed, but nobody attests them: they are taken in as from anybody.
        for vote in map(decode_vote, snapshot.votes):
            self.vote(vote)
        proved = [
            prove(evidence, self.amended_rules, self._decoder, MAX_PAYLOAD_BYTES) for evidence in snapshot.evidence
        ]
        for fault in (*proofs, *(fault for fault in proved if fault is not None)):
            outcome.faults += self.end_log(fault).faults
        for entry in again:
            if entry.number > self.head(entry.author) and not self.accepted.is_ended(entry.author, entry.number):
                self._waiting.hold(entry, always=True)
        limit, self.turn_bytes = self.turn_bytes, None
        self._settle(outcome)
        self.turn_bytes = limit
        self.keep_parted(entry for entry in again if entry.hash in before)
        stand = [entry for entry in outcome.applied if entry.hash in before]
        outcome.kept = {entry.author: entry.number for entry in stand}
        outcome.applied = [entry for entry in outcome.applied if entry.hash not in before]
        return outcome

    # ---- inner --------------------------------------------------------------------------------------------------

    def _rule(self) -> None:
        """Have the trunk follow from amendments and votes: what they take out of it, and nothing else."""
        exchanged = self.suspensions.exchanged(self.accepted.epochs)
        starts = first_counts((self.amended_rules.withdrawn, self.suspended, exchanged))
        withdraw(starts, self.accepted, self.accumulator, self._decoder)

    def _known(self, entry: Entry) -> SignedHeader | None:
        return self.accepted.header(entry.author, entry.number) or self._waiting.get(entry.author, entry.number)

    def _settle(self, outcome: Outcome) -> None:
        """Apply waiting entries until none is ready, in the order of authors, which is the same everywhere."""
        left = self.turn_bytes
        self.unsettled, progressed = False, True
        while progressed:
            progressed = False
            self._holds = {}
            for author in self._waiting.authors():
                while (entry := self._waiting.get(author, self.head(author) + 1)) is not None:
                    if left is not None and left <= 0:
                        self.unsettled = True
                        return
                    alone = self._waiting.checked_alone(entry)
                    verdict = check_entry(entry, self.accepted, self.amended_rules, self._decoder, alone)
                    if isinstance(verdict, FaultProof) and self.proves_nothing(verdict):
                        # What it does not follow is disowned, but compacted here.
                        verdict = Hold.CONTEXT
                    if isinstance(verdict, Hold):
                        self._holds[author] = verdict
                        break
                    progressed = True
                    left = None if left is None else left - len(entry.payload)
                    self._waiting.release(author, entry.number)
                    self._take(entry, verdict, outcome)

    def _take(self, entry: Entry, verdict: SparseDelta | FaultProof, outcome: Outcome) -> None:
        if isinstance(verdict, FaultProof):
            self._end(verdict, outcome)
            return
        self.accepted.append(entry)
        if not self.accepted.is_withdrawn(entry.author, entry.number):
            self.accumulator.add(verdict, entry.weight, entry.head_weights)
        outcome.applied.append(entry)

    def _cut(self, author: SiteKey, end: int, outcome: Outcome) -> None:
        """Take back an author's entries from `end` on."""
        self._waiting.release_from(author, end)
        for entry in self.accepted.truncate(author, end):
            if not self.accepted.is_withdrawn(author, entry.number):
                self.accumulator.subtract(self._decoder.decode(entry.payload), entry.weight, entry.head_weights)
            outcome.retracted.append(entry)

    def _longer(self, constitution: Constitution, snapshot: Snapshot) -> Constitution:
        """The constitution continued by the snapshot's further amendments, which were checked."""
        if constitution.number and len(snapshot.amendments) > constitution.number:
            newest = AmendmentDocument.decode(snapshot.amendments[constitution.number - 1]).amendment.hash
            if newest != constitution.head_hash:
                # A stored one, from before ours overruled those that it names.
                return constitution
        for encoded in snapshot.amendments[constitution.number :]:
            constitution = constitution.followed_by(AmendmentDocument.decode(encoded))
        return constitution

    def _ended_by(self, refusal: Refusal, fault: FaultProof) -> Outcome:
        outcome = self.end_log(fault)
        outcome.refusal = refusal
        return outcome

    def _result(self, entry: Entry, outcome: Outcome) -> Outcome:
        """The outcome for the offered entry itself, after settling."""
        standing = self.accepted.get(entry.author, entry.number)
        if standing is not None and standing.hash == entry.hash:
            outcome.verdict = Verdict.APPLIED
        elif self._waiting.get(entry.author, entry.number) is None:
            outcome.verdict = Verdict.REFUSED
            mine = [fault.reason for fault in outcome.faults if fault.author == entry.author]
            outcome.refusal = Refusal(mine[0]) if mine else None
        return outcome
