"""The verdict on the next entry of a log: every rule in its order, and what cannot be judged yet."""

from __future__ import annotations

from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.core.ledger.log.books import Books
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.log.verdict import Hold
from kmel_p2p.core.ledger.rules.law import Law
from kmel_p2p.core.ledger.rules.proof import Decoder, Fault, fault_of
from kmel_p2p.core.ledger.rules.validity import Refusal, check_alone, check_base, check_chain, context_of
from kmel_p2p.delta.sparse import SparseDelta


class Payloads:
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


def judge(entry: Entry, books: Books, law: Law, payloads: Payloads) -> SparseDelta | Fault | Hold:
    """Judge the next entry of a log: its delta, the fault that its headers prove, or why it is to wait."""
    log = books.log(entry.author)
    refusal = check_chain(entry, log.newest, log.head_hash)
    if refusal is not None:
        return fault_of(refusal, entry, *([log.newest] if log.newest else []))
    hold = why_hold(entry, books, law)
    if hold is not None:
        return hold
    rules = law.rules[entry.basis.amendment]
    refusal = check_alone(entry, rules)
    if refusal is not None:
        return fault_of(refusal, entry)
    heads, unknown = books.at_base(entry.author, entry.base)
    if heads and not unknown and context_of(heads) != entry.basis.context:
        return Hold.CONTEXT
    refusal = check_base(entry, heads, rules, unknown, books.doubtful(entry.base))
    if refusal is not None:
        # With something unknown the author may have seen what excuses it: it waits, and is not blamed.
        return Hold.EXCUSE if unknown else fault_of(refusal, entry, *heads)
    delta = payloads.decode(entry.payload_hash, entry.payload)
    if delta is None:
        return fault_of(Refusal.PAYLOAD, entry)
    return delta if delta.norm_squared == entry.norm_squared else fault_of(Refusal.NORM_CLAIM, entry)


def why_hold(entry: Entry, books: Books, law: Law) -> Hold | None:
    """Why the next entry of a log cannot be judged here, if so. Nobody is blamed for it."""
    if entry.basis.amendment > law.number:
        return Hold.AMENDMENT
    if not all(books.is_proved(key, number) for key, number in entry.basis.ended.items()):
        return Hold.PROOF
    if not books.reaches(books.usable(entry.base)):
        return Hold.BASE
    return None
