"""Proofs that an author broke the rules: its own signed headers, which convince anybody who has the charter.

Evidence is a list of signed headers, the offending one first:

    [header]                      it breaks a rule by itself
    [entry]                       its payload is not what the header says
    [header, other]               a fork: same number, other content
    [header, previous]            the chain is broken, or the base goes backward
    [header, earlier]             the payload is that of an earlier entry, anybody's, that the author had
    [header, header, header, ...] with every header its base names: the base is stale, it leaves out amendments, or a
                                  weight or the norm is too large

The last kind is complete when the headers hash to the context that the offender signed: then no other branch of any log
can be an excuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import Entry, SignedHeader, decode, decode_stub
from kmel_p2p.core.ledger.rules.payload import Decoder, check_payload
from kmel_p2p.core.ledger.rules.rules import AmendedRules, Rules
from kmel_p2p.core.ledger.rules.validity import (
    Refusal,
    check_alone,
    check_base,
    check_chain,
    check_origin,
    context_of,
    is_behind_base,
    is_replay,
)

MAX_EVIDENCE = MAX_SITES + 1
"""The offending header and every header that its base can name."""


@dataclass(frozen=True, slots=True)
class FaultProof:
    """Evidence that an author broke the rules: its log ends before `number`."""

    author: SiteKey
    number: int
    reason: str
    evidence: tuple[bytes, ...]


def fault_of(refusal: Refusal, offender: SignedHeader, *others: SignedHeader) -> FaultProof:
    """The fault that these headers prove. A fault of the payload needs the whole entry as evidence."""
    whole = refusal in (Refusal.PAYLOAD, Refusal.NORM_CLAIM)
    first = offender.encode() if whole and isinstance(offender, Entry) else offender.stub()
    evidence = (first, *(other.stub() for other in others))
    return FaultProof(offender.author, offender.number, refusal.value, evidence)


def fork_of(one: SignedHeader, other: SignedHeader) -> FaultProof:
    """The fork that two headers of one author and number prove."""
    first, second = sorted((one, other), key=lambda header: header.hash)
    return fault_of(Refusal.FORK, first, second)


def prove(
    evidence: Sequence[bytes], amended: AmendedRules, codec: Decoder, max_payload_bytes: int
) -> FaultProof | None:
    """What the evidence proves. None: nothing, or nothing that can be decided before an amendment is here.

    Raises:
        WireError: a part is neither a header nor an entry.
    """
    if not 1 <= len(evidence) <= MAX_EVIDENCE:
        return None
    offender = _read(evidence[0], max_payload_bytes)
    if len(evidence) > 2 and len(evidence) > 1 + len(offender.base):
        return None  # more headers than its base names: not worth reading
    others = [_read(part, max_payload_bytes) for part in evidence[1:]]
    if any(check_origin(header, amended.now) is not None for header in (offender, *others)):
        return None
    rules = amended.under(offender.basis)
    if rules is None or any(amended.under(header.basis) is None for header in others):
        # The places in their bases stand for sites that are not known here; and of two entries with one number, one may
        # have been made under an amendment that gave way: then it belongs to no log.
        return None
    refusal = _refusal(offender, others, rules, amended, codec)
    return None if refusal is None else FaultProof(offender.author, offender.number, refusal.value, tuple(evidence))


def _refusal(
    offender: SignedHeader, others: list[SignedHeader], rules: Rules, amended: AmendedRules, codec: Decoder
) -> Refusal | None:
    order = amended.now.roster
    if len(others) == 1 and others[0].author == offender.author and others[0].number == offender.number:
        return Refusal.FORK if others[0].hash != offender.hash else None
    if not others:
        return _by_itself(offender, rules, codec)
    second = others[0]
    if len(others) == 1 and is_replay(offender, second, order.place(second.author)):
        return Refusal.REPLAY
    if len(others) == 1 and second.author == offender.author:
        follows = second.number == offender.number - 1
        return check_chain(offender, second, second.hash, order.place(offender.author)) if follows else None
    named = order.named(offender.base)
    named.pop(offender.author, None)
    if named != {header.author: header.number for header in others} or len(named) != len(others):
        return None
    if offender.author not in rules.roster or len(offender.base) > len(order):
        return None
    if context_of(others) != offender.basis.context:
        return None
    refusal = check_base(offender, others, rules)
    behind = refusal is None and is_behind_base(offender, others)
    return Refusal.BASE_AMENDED if behind else refusal


def _by_itself(offender: SignedHeader, rules: Rules, codec: Decoder) -> Refusal | None:
    refusal = check_alone(offender, rules)
    own = rules.roster.place(offender.author) if refusal is None else 0
    if refusal is None and all(place == own for place, _ in offender.base.items()):
        refusal = check_base(offender, (), rules)
    if refusal is None and isinstance(offender, Entry):
        checked = check_payload(offender, codec)
        refusal = checked if isinstance(checked, Refusal) else None
    return refusal


def _read(part: bytes, max_payload_bytes: int) -> SignedHeader:
    try:
        return decode_stub(part)
    except WireError:
        return decode(part, max_payload_bytes=max_payload_bytes)
