"""Whether an entry may stand, decided from the entry, its chain and its base alone.

Every honest peer that has applied an entry's base reaches the same verdict, whatever else it has seen. A refusal is
either the *sender's* fault (anyone can forge bytes; the author is not blamed for a signature it did not make) or the
*author's* (it signed something the charter does not allow; its log ends there, at everyone).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.core.charter import Charter
from kmel_p2p.core.ledger.accumulator import WEIGHT_ONE
from kmel_p2p.core.ledger.entry import Entry
from kmel_p2p.core.types import SiteKey

_SQUARES_AT_ONCE = 2**14
"""Squares of values below 2**24 that sum without overflow in int64."""


class Refusal(enum.Enum):
    """Why an entry does not stand; the value is the text an operator reads."""

    SIGNATURE = "the signature is not the author's"
    CHARTER = "it was made under another charter"
    AUTHOR = "its author is not on the charter's roster"
    CODEC = "its payload codec is not the charter's"
    CHAIN = "its previous hash is not the hash of the author's last entry"
    BASE_SELF = "its base does not hold exactly the author's earlier entries"
    BASE_BACKWARD = "its base is behind the base of the author's last entry"
    BASE_AUTHOR = "its base names a site that is not on the roster"
    WEIGHT = "its weight is zero or above the charter's cap"
    STEPS = "it claims no training step"
    PAYLOAD = "its payload does not decode"
    NORM = "its norm is above the bound that its base allows"

    @property
    def blames_author(self) -> bool:
        """Whether the author's signature proves its own fault."""
        return self not in (Refusal.SIGNATURE, Refusal.CHARTER, Refusal.AUTHOR)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the charter lets an entry be."""

    charter_id: bytes
    roster: frozenset[SiteKey]
    codec_id: int
    weight_cap: int
    """Largest weight, in units of 2**-16."""
    norm_cap: float
    """Times the median of the newest norms at an entry's base."""
    first_norm_squared: int
    """Bound on the squared norm, units 2**-48, of an entry whose base is empty."""

    @classmethod
    def of(cls, charter: Charter, codec_id: int, initial_trunk: NDArray[np.float32]) -> Rules:
        """The rules of `charter`; a first entry may not move the trunk further than its initial length."""
        return cls(
            charter_id=charter.id,
            roster=frozenset(charter.roster),
            codec_id=codec_id,
            weight_cap=weight_cap(len(charter.sites), charter.averaging.weight_cap),
            norm_cap=charter.averaging.norm_cap,
            first_norm_squared=exact_norm_squared(initial_trunk),
        )


def weight_cap(sites: int, share: float) -> int:
    """`share` times the equal share of `sites`, at most the whole, in units of 2**-16."""
    return min(WEIGHT_ONE, max(1, int(share * WEIGHT_ONE / sites)))


def exact_norm_squared(values: NDArray[np.float32]) -> int:
    """Squared L2 norm in units of 2**-48, the same integer on every machine.

    Args:
        values: below one in magnitude, as initial trunks are; float32 sums would depend on the processor.
    """
    units = np.rint(np.ldexp(values.astype(np.float64), 24)).astype(np.int64)
    squares = units * units
    return sum(int(squares[i : i + _SQUARES_AT_ONCE].sum()) for i in range(0, squares.size, _SQUARES_AT_ONCE))


def check_origin(entry: Entry, rules: Rules) -> Refusal | None:
    """The checks that need nothing but the entry itself."""
    if entry.charter_id != rules.charter_id:
        return Refusal.CHARTER
    if entry.author not in rules.roster:
        return Refusal.AUTHOR
    if not entry.signature_is_good():
        return Refusal.SIGNATURE
    if entry.codec_id != rules.codec_id:
        return Refusal.CODEC
    if not 1 <= entry.weight <= rules.weight_cap:
        return Refusal.WEIGHT
    if entry.steps < 1:
        return Refusal.STEPS
    if entry.base.get(entry.author, 0) != entry.seq - 1:
        return Refusal.BASE_SELF
    if not entry.base.keys() <= rules.roster:
        return Refusal.BASE_AUTHOR
    return None


def check_chain(entry: Entry, previous: Entry | None, previous_hash: bytes) -> Refusal | None:
    """The checks against the author's last entry (None when it is folded away or there is none)."""
    if entry.previous != previous_hash:
        return Refusal.CHAIN
    if previous is not None and any(entry.base.get(k, 0) < n for k, n in previous.base.items()):
        return Refusal.BASE_BACKWARD
    return None


def norm_bound_squared(norms_at_base: Iterable[int], rules: Rules) -> int:
    """Largest squared norm (integer, units 2**-48) that an entry with this base may have.

    Args:
        norms_at_base: squared norm of the newest entry of each author at the base.

    The upper median is taken, so that the bound is one of the given integers times a constant and never depends on
    rounding. Clipping to the median of norms follows Templar's SparseLoCo aggregation (arXiv 2508.15706).
    """
    norms = sorted(norms_at_base)
    if not norms:
        return rules.first_norm_squared
    cap = int(rules.norm_cap * 2**16)
    return norms[len(norms) // 2] * cap * cap >> 32


def base_is_reached(base: Mapping[SiteKey, int], heads: Mapping[SiteKey, int]) -> bool:
    """Whether everything the author had applied is here."""
    return all(heads.get(key, 0) >= seq for key, seq in base.items())
