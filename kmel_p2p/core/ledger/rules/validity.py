"""Whether an entry is valid, decided from the entry, its chain and its base alone.

Every honest peer that has applied an entry's base reaches the same verdict, whatever else it has seen. A refusal is
either the *sender's* fault (anyone can forge bytes; nobody is blamed for a signature that is not its own) or the
*author's* (it signed something that the charter does not allow; its log ends there, at every peer). Blame rests on
signed headers alone, so that it can be proved to anybody: see `proof`.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, SignedHeader, context_hash
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.rules.weights import weight_cap
from kmel_p2p.core.roster_vector import RosterVector

REPLAY_WINDOW = 512
"""Newest entries of each author at a base in which a payload must not occur. Half of the headers that are kept, so that
a site which came by a snapshot judges like all others."""


class Refusal(enum.Enum):
    """Why an entry is refused; the value is the text that an operator reads."""

    SIGNATURE = "the signature is not the author's"
    CHARTER = "it was made under another charter"
    AUTHOR = "its author is not on the charter's roster"
    CODEC = "its payload codec is not the charter's"
    WEIGHT = "its weight is zero or above the charter's cap"
    HEADS = "it gives a weight to a shared head that the charter does not have, or one of zero"
    HEAD_WEIGHT = "its weight for a shared head is above the cap among the sites that may train it"
    STEPS = "it claims no training step"
    BASE_SELF = "its base does not hold exactly the author's earlier entries"
    OUTSIDE = "its author was not on the roster under the amendment that it names"
    BASE_AUTHOR = "its base names a site that is not on the roster"
    BASE_ENDED = "its base holds entries of a log that it calls ended before them"
    ALONE = "it ran further ahead than the charter allows before it had seen an entry of any other site"
    CHAIN = "its previous hash is not the hash of the author's last entry"
    BASE_BACKWARD = "its base is behind the base of the author's last entry"
    BASE_STALE = "its base leaves out entries that entries in it were made on"
    BASE_AMENDED = "it names fewer amendments than entries in its base were made under"
    NORM = "its norm is above the bound that its base allows"
    PAYLOAD = "its payload does not decode"
    REPLAY = "its payload is that of an earlier entry which it was made on"
    NORM_CLAIM = "its payload has another norm than its header says"
    FORK = "its author signed two different entries with one number"

    @property
    def blames_author(self) -> bool:
        """Whether the author's signature proves its own fault."""
        return self not in (Refusal.SIGNATURE, Refusal.CHARTER, Refusal.AUTHOR)


def check_origin(header: SignedHeader, rules: Rules) -> Refusal | None:
    """The checks of charter, author and signature. If one fails, the sender is to blame."""
    if header.charter_id != rules.charter_id:
        return Refusal.CHARTER
    if header.author not in rules.roster:
        return Refusal.AUTHOR
    if not header.signature_is_good():
        return Refusal.SIGNATURE
    return None


def check_alone(header: SignedHeader, rules: Rules) -> Refusal | None:
    """The checks that need only the header. `rules` are those under the amendment that it names."""
    base, ended = header.base, header.basis.ended
    places = len(rules.roster)
    if header.author not in rules.roster:
        return Refusal.OUTSIDE
    if header.codec_id != rules.codec_id:
        return Refusal.CODEC
    if not 1 <= header.weight <= rules.cap_at(header.number):
        return Refusal.WEIGHT
    heads = header.head_weights
    if heads and not all(head < rules.heads and weight for head, weight in heads.items()):
        return Refusal.HEADS
    if header.steps < 1:
        return Refusal.STEPS
    if header.number == 1 and header.previous != NO_PREVIOUS:
        return Refusal.CHAIN
    own = rules.roster.place(header.author)
    if base.at(own) != header.number - 1:
        return Refusal.BASE_SELF
    if len(base) > places or (ended and max(ended) >= places):
        return Refusal.BASE_AUTHOR
    if ended and not rules.epochs and any(base.at(place) >= number for place, number in ended.items()):
        return Refusal.BASE_ENDED
    if rules.lone_entries is not None and header.number > rules.lone_entries and not _names_others(header, own):
        return Refusal.ALONE
    return None


def check_chain(header: SignedHeader, previous: SignedHeader | None, previous_hash: bytes, own: int) -> Refusal | None:
    """The checks against the header of the author's last entry (None: there is none, or it is not held).

    Both were made under amendments that are here. `own`: the author's place.
    """
    if header.previous != previous_hash:
        return Refusal.CHAIN
    if previous is None:
        return None
    if header.basis.amendment < previous.basis.amendment or not _reaches(header, previous.base, own):
        return Refusal.BASE_BACKWARD
    return None


def check_base(
    header: SignedHeader,
    at_base: Collection[SignedHeader],
    rules: Rules,
    unknown: int = 0,
    doubtful: NDArray[np.bool_] | None = None,
    norms: Sequence[int] | None = None,
) -> Refusal | None:
    """The checks against the headers that the base names.

    Args:
        header: the entry to judge.
        at_base: newest header of each other author at the base, without those that a fault took away.
        rules: the charter's.
        unknown: others at the base whose header is unknown (their log was ended below it, or it is no longer held);
            their norms count as larger than any, so that no author is blamed for another's fork.
        doubtful: by place, bool[places]: the only authors whose entries the base may lack although those headers were
            made on them (None: any). Saves work: with n sites the headers name n authors each.
        norms: squared norms of those headers, ascending, where they are known already.
    """
    if doubtful is None or np.count_nonzero(doubtful):
        own = rules.roster.place(header.author)
        if not all(_reaches(header, head.base, own, doubtful) for head in at_base):
            return Refusal.BASE_STALE
    if not _head_weights_are_allowed(header, at_base, rules, unknown):
        return Refusal.HEAD_WEIGHT
    ascending = sorted(head.norm_squared for head in at_base) if norms is None else norms
    bound = norm_bound_squared(ascending, rules, unknown)
    return Refusal.NORM if header.norm_squared > bound else None


def is_behind_base(header: SignedHeader, at_base: Iterable[SignedHeader]) -> bool:
    """Whether the entry was made under fewer amendments than an entry that its author had before it.

    Nobody applies an entry before the amendments that it was made under, so that an honest author has them then. Who
    leaves them out would go on under the caps of an earlier campaign.

    Args:
        header: the entry to judge.
        at_base: newest header of each other author at the base. All were made under amendments that are in force here.
    """
    return any(head.basis.amendment > header.basis.amendment for head in at_base)


def is_replay(header: SignedHeader, earlier: SignedHeader, place: int) -> bool:
    """Whether the entry has the payload of an earlier one, anybody's, that its author had before it.

    A delta has one spelling, so that equal payloads are equal deltas; those of zeros alone are nobody's work. Only the
    `REPLAY_WINDOW` newest entries of each author at the base count: every peer holds the headers of those.

    Args:
        header: the entry to judge.
        earlier: the other one.
        place: of the earlier one's author.
    """
    age = header.base.at(place) - earlier.number
    same = header.payload_hash == earlier.payload_hash and header.norm_squared > 0
    return same and 0 <= age < REPLAY_WINDOW


def head_cap(
    head: int, author: SiteKey, number: int, at_base: Iterable[SignedHeader], rules: Rules, unknown: int = 0
) -> int:
    """Largest weight, in units of 2**-16, that entry `number` of `author` may give to a shared head.

    The charter's cap among the sites that may train the head: all current ones except those whose newest entry at the
    base does not name it. A site without an entry counts as one that may, so the cap starts at the trunk's.

    Args:
        head: its number.
        author: whose entry it is.
        number: of the entry.
        at_base: newest header of each other author at the base.
        rules: the charter's.
        unknown: others at the base whose header is unknown; counted as sites that do not train it.
    """
    without = sum(
        head not in other.head_weights for other in at_base if other.author in rules.current and other.author != author
    )
    return weight_cap(max(1, len(rules.current) - without - unknown), rules.share_at(number))


def _head_weights_are_allowed(
    header: SignedHeader, heads: Collection[SignedHeader], rules: Rules, unknown: int
) -> bool:
    # A weight within the trunk's cap is always allowed.
    heavy = {head: w for head, w in header.head_weights.items() if w > rules.cap_at(header.number)}
    return all(
        weight <= head_cap(head, header.author, header.number, heads, rules, unknown) for head, weight in heavy.items()
    )


def context_of(at_base: Iterable[SignedHeader]) -> bytes:
    """The context hash of these headers; see `entry.context_hash`."""
    return context_hash(head.hash for head in sorted(at_base, key=lambda head: head.author))


def norm_bound_squared(norms: Sequence[int], rules: Rules, unknown: int = 0) -> int:
    """Largest squared norm (integer, units 2**-48) that an entry with this base may have.

    Args:
        norms: squared norm of the newest entry of each other author at the base, ascending.
        rules: the charter's.
        unknown: further norms, counted as larger than any given; they can only raise the bound.

    The author's own norm is left out: otherwise a site alone could raise its bound with every entry. The upper median
    makes the bound one of the given integers times a constant, so it never depends on rounding. Clipping to the median
    of norms follows Templar's SparseLoCo aggregation (arXiv 2508.15706).
    """
    if not norms:
        return rules.first_norm_squared
    cap = int(rules.norm_cap * 2**16)
    middle = min((len(norms) + unknown) // 2, len(norms) - 1)
    return norms[middle] * cap * cap >> 32


def _reaches(header: SignedHeader, earlier: RosterVector, own: int, doubtful: NDArray[np.bool_] | None = None) -> bool:
    """Whether the base holds `earlier`, disregarding what lies beyond the ends of logs that the header names.

    Args:
        header: whose base it is.
        earlier: what it must hold.
        own: the author's place, which is left to another rule.
        doubtful: the only places that are looked at; None: all.
    """
    base, needed = header.base.numbers, earlier.numbers
    common = min(base.size, needed.size)
    if common == needed.size and not np.count_nonzero(needed > base[:common]):
        return True
    lacking = needed > 0
    lacking[:common] = needed[:common] > base[:common]
    if doubtful is not None:
        lacking[: doubtful.size] &= doubtful[: needed.size]
    if own < needed.size:
        lacking[own] = False
    ended = header.basis.ended
    return all(
        place in ended and header.base.at(place) >= min(int(needed[place]), ended[place] - 1)
        for place in np.flatnonzero(lacking).tolist()
    )


def _names_others(header: SignedHeader, own: int) -> bool:
    """Whether the header's base or its ended logs name another site than the one at `own`."""
    named = header.base.numbers > 0
    others = int(named.sum()) - int(own < named.size and named[own])
    return others > 0 or any(place != own for place in header.basis.ended)
