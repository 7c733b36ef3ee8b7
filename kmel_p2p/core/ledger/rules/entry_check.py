"""The verdict on the next entry of a log: every rule in its order, and what cannot be judged yet."""

from __future__ import annotations

import enum

from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.rules.proof import Decoder, FaultProof, fault_of
from kmel_p2p.core.ledger.rules.rules import AmendedRules
from kmel_p2p.core.ledger.rules.validity import Refusal, check_alone, check_base, check_chain, context_of
from kmel_p2p.delta.sparse import SparseDelta


class Hold(enum.Enum):
    """Why the next entry of a log is not judged yet."""

    BASE = "what it was made on is not here"
    PROOF = "it names an ended log without proof here"
    AMENDMENT = "it was made under an amendment that is not here"
    CONTEXT = "its author saw another branch of a log"
    EXCUSE = "it breaks a rule, unless a header of its base that is not known here excuses it"


class PayloadDecoder:
    """Decodes payloads. The latest is kept: an own entry is measured, judged and applied in turn."""

    def __init__(self, codec: Decoder) -> None:
        self.codec = codec
        self._latest: tuple[bytes, SparseDelta | None] = (b"", None)

    def decode(self, payload_hash: bytes, payload: bytes) -> SparseDelta | None:
        """The delta in a payload; None when it does not decode."""
        if self._latest[0] != payload_hash:
            try:
                self._latest = (payload_hash, self.codec.decode(payload))
            except WireError:
                self._latest = (payload_hash, None)
        return self._latest[1]

    def measure(self, payload: bytes) -> int | None:
        """Squared norm of a payload's delta, units 2**-48; None when it does not decode."""
        delta = self.decode(digest(payload), payload)
        return None if delta is None else delta.norm_squared

    def applied(self, entry: Entry) -> SparseDelta:
        """The delta of an entry that was applied.

        Raises:
            Bug: it does not decode.
        """
        delta = self.decode(entry.payload_hash, entry.payload)
        if delta is None:
            raise Bug(f"{entry} was applied, but does not decode")
        return delta


def check_entry(
    entry: Entry, accepted: AcceptedLogs, rules: AmendedRules, payloads: PayloadDecoder
) -> SparseDelta | FaultProof | Hold:
    """Judge the next entry of a log: its delta, the fault that its headers prove, or why it is to wait."""
    log = accepted.log(entry.author)
    refusal = check_chain(entry, log.newest, log.head_hash)
    if refusal is not None:
        return fault_of(refusal, entry, *([log.newest] if log.newest else []))
    hold = why_hold(entry, accepted, rules)
    if hold is not None:
        return hold
    under = rules.rules[entry.basis.amendment]
    refusal = check_alone(entry, under)
    if refusal is not None:
        return fault_of(refusal, entry)
    heads, unknown = accepted.at_base(entry.author, entry.base)
    if heads and not unknown and context_of(heads) != entry.basis.context:
        return Hold.CONTEXT
    refusal = check_base(entry, heads, under, unknown, accepted.doubtful(entry.base))
    if refusal is not None:
        # With something unknown the author may have seen what excuses it: it waits, and is not blamed.
        return Hold.EXCUSE if unknown else fault_of(refusal, entry, *heads)
    delta = payloads.decode(entry.payload_hash, entry.payload)
    if delta is None:
        return fault_of(Refusal.PAYLOAD, entry)
    return delta if delta.norm_squared == entry.norm_squared else fault_of(Refusal.NORM_CLAIM, entry)


def why_hold(entry: Entry, accepted: AcceptedLogs, rules: AmendedRules) -> Hold | None:
    """Why the next entry of a log cannot be judged here, if so. Nobody is blamed for it."""
    if entry.basis.amendment > rules.number:
        return Hold.AMENDMENT
    if not all(accepted.is_proved(key, number) for key, number in entry.basis.ended.items()):
        return Hold.PROOF
    if not accepted.reaches(accepted.usable(entry.base)):
        return Hold.BASE
    return None
