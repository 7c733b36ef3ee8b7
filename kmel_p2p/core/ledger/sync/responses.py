"""What a site that asks is given: proofs, entries, or that they are folded away here."""

from __future__ import annotations

from collections.abc import Iterable

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.sync.messages import MAX_BODIES, MAX_FAULTS, Bodies, Compacted, Proofs, Want
from kmel_p2p.core.types import Lane

MAX_ANSWER_BYTES = 8 * 1024 * 1024
"""Bodies in one answer, unless a single entry is larger. Small enough that a pull from one slow site does not hold
back the rest; the asker comes again at once for more."""


def responses(want: Want, accepted: AcceptedLogs, to: SiteKey) -> list[Effect]:
    """The messages that answer `want`, as far as one answer goes."""
    effects: list[Effect] = []
    against = (accepted.proof_against(key) for key in want.evidence)
    known = [fault for fault in against if fault is not None]
    for start in range(0, len(known), MAX_FAULTS):
        proofs = tuple(fault.evidence for fault in known[start : start + MAX_FAULTS])
        effects.append(Send(to, Proofs(proofs), Lane.BULK))
    floor = accepted.floor
    if any(span.first <= floor.get(span.author, 0) for span in want.ranges):
        effects.append(Send(to, Compacted(floor)))
    bodies: list[bytes] = []
    size = 0
    for encoded in _asked_for(want, accepted):
        if len(bodies) == MAX_BODIES or (bodies and size + len(encoded) > MAX_ANSWER_BYTES):
            break
        bodies.append(encoded)
        size += len(encoded)
    if bodies:
        effects.append(Send(to, Bodies(tuple(bodies)), Lane.BULK))
    return effects


def _asked_for(want: Want, accepted: AcceptedLogs) -> Iterable[bytes]:
    for span in want.ranges:
        for number in range(span.first, min(span.last, span.first + MAX_BODIES - 1) + 1):
            entry = accepted.get(span.author, number)
            if entry is None:
                break
            yield entry.encode()
