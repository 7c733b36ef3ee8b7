"""Checks the next entry of a log against every rule in its order, or says why it cannot be judged yet."""

from __future__ import annotations

import enum

import numpy as np

from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.rules.payload import Decoder, check_payload
from kmel_p2p.core.ledger.rules.proof import FaultProof, fault_of
from kmel_p2p.core.ledger.rules.rules import AmendedRules, Rules
from kmel_p2p.core.ledger.rules.validity import (
    Refusal,
    check_alone,
    check_base,
    check_chain,
    is_behind_base,
    is_replay,
)
from kmel_p2p.delta.sparse import SparseDelta

_NOBODY = np.zeros(0, np.bool_)


class Hold(enum.Enum):
    """Why the next entry of a log cannot be judged yet."""

    BASE = "its base is not here"
    PROOF = "it names an ended log without proof here"
    EPOCH = "its base goes beyond the end that it names of a log, and no epoch that explains this is here"
    AMENDMENT = "it was made under an amendment that is not here"
    CONFLICT = "it was made under another amendment with a number that is in force here"
    CONTEXT = "its author saw another branch of a log"
    EXCUSE = "it breaks a rule, unless a header of its base that is unknown here excuses it"


def check_entry(
    entry: Entry, accepted: AcceptedLogs, amended_rules: AmendedRules, decoder: Decoder, alone: Rules | None = None
) -> SparseDelta | FaultProof | Hold:
    """Judge the next entry of a log: its delta, the fault that its headers prove, or why it has to wait.

    `alone`: the rules under which it was checked alone (`check_alone`) when it came, if any.
    """
    rules = amended_rules.under(entry.basis)
    if rules is None:
        # What its base means is not known.
        below = entry.basis.amendment <= amended_rules.number
        return Hold.CONFLICT if below else Hold.AMENDMENT
    log, order = accepted.log(entry.author), amended_rules.now.roster
    if log.newest is not None and amended_rules.under(log.newest.basis) is None:
        # Compacted here and void: only a snapshot helps.
        return Hold.CONFLICT
    refusal = check_chain(entry, log.newest, log.head_hash, order.place(entry.author))
    if refusal is not None:
        return fault_of(refusal, entry, *([log.newest] if log.newest else []))
    hold = why_hold(entry, accepted)
    if hold is not None:
        return hold
    refusal = check_alone(entry, rules) if rules is not alone else None
    if refusal is not None:
        return fault_of(refusal, entry)
    named = accepted.at_base(entry.author, entry.base)
    if named.unknown or (len(named) and named.context != entry.basis.context):
        # Where a log has parted, the author may have seen the branch that was disowned since.
        named = accepted.at_base(entry.author, entry.base, parted=True)
        if not named.unknown:
            return Hold.CONTEXT
    doubtful = _NOBODY if accepted.closed(entry.author, entry.base) else accepted.doubtful(entry.base)
    refusal = check_base(entry, named, rules, named.unknown, doubtful, named.norms)
    if refusal is None and entry.basis.amendment < amended_rules.number:
        # A void header that is compacted here says nothing: its amendment gave way.
        in_force = (head for head in named if amended_rules.under(head.basis) is not None)
        refusal = Refusal.BASE_AMENDED if is_behind_base(entry, in_force) else None
    if refusal is not None:
        # The author may have seen an unknown header that excuses it: the entry waits, and nobody is blamed.
        return Hold.EXCUSE if named.unknown else fault_of(refusal, entry, *named)
    replayed = accepted.same_payload(entry)
    if replayed is not None and is_replay(entry, replayed, order.place(replayed.author)):
        return fault_of(Refusal.REPLAY, entry, replayed)
    checked = check_payload(entry, decoder)
    return fault_of(checked, entry) if isinstance(checked, Refusal) else checked


def why_hold(entry: Entry, accepted: AcceptedLogs) -> Hold | None:
    """What the next entry of a log lacks to be judged, if its amendments are here. Nobody is blamed for it."""
    if entry.basis.ended:
        ended = accepted.order.named_at(entry.basis.ended)
        if not all(accepted.is_proved(key, number) for key, number in ended.items()):
            return Hold.PROOF
        beyond = {key: end for key, end in ended.items() if entry.base.at(accepted.order.place(key)) >= end}
        if not all(accepted.epochs.covers(key, end) for key, end in beyond.items()):
            return Hold.EPOCH
    if not accepted.reaches_usable(entry.base):
        return Hold.BASE
    return None
