"""The charter's rules for entries, now and under each earlier amendment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.entry import NO_AMENDMENTS, Basis
from kmel_p2p.core.ledger.rules.weights import weight_cap
from kmel_p2p.core.roster_vector import RosterOrder


@dataclass(frozen=True, slots=True)
class Rules:
    """The charter's rules for entries, under one amendment."""

    charter_id: bytes
    roster: RosterOrder
    """Every site that is or was on the roster."""
    codec_id: int
    weight_cap: int
    """Largest weight, in units of 2**-16."""
    norm_cap: float
    """Largest norm, as a multiple of the median of the newest norms at the entry's base."""
    first_norm_squared: int
    """Bound on the squared norm, units 2**-48, of an entry whose base holds no entry of another site."""
    lone_entries: int | None = None
    """Entries that a site may publish before it has seen one of another site; None: as many as it likes."""
    heads: int = 0
    """Number of shared heads."""
    current: frozenset[SiteKey] = frozenset()
    """Sites that are not retired."""
    cap_share: float = 2.0
    """Largest weight, in equal shares among the current sites."""
    trusted_after: int = 1
    """Number of the entry from which on a site may have the largest weight."""
    epochs: bool = False
    """Whether logs may go on in another epoch (`log.epoch`)."""

    def share_at(self, number: int) -> float:
        """Largest weight of the entry with this number, in equal shares: it grows from 1 to `cap_share`."""
        if number >= self.trusted_after:
            return self.cap_share
        return 1 + (self.cap_share - 1) * (number - 1) / (self.trusted_after - 1)

    def cap_at(self, number: int) -> int:
        """The same in units of 2**-16."""
        return self.weight_cap if number >= self.trusted_after else weight_cap(len(self.current), self.share_at(number))

    @classmethod
    def of(cls, charter: Charter, codec_id: int, initial_trunk: NDArray[np.float32]) -> Rules:
        """The rules of `charter`, for a trunk of as many values as `initial_trunk` has."""
        return cls(
            charter_id=charter.id,
            roster=RosterOrder(charter.roster),
            codec_id=codec_id,
            weight_cap=weight_cap(len(charter.sites), charter.averaging.weight_cap),
            norm_cap=charter.ledger.norm_cap,
            first_norm_squared=first_norm_squared(charter, initial_trunk.size),
            lone_entries=charter.pace.max_lead if charter.start_sites > 1 else None,
            heads=sum(endpoint.head == "shared" for endpoint in charter.assay_endpoints),
            current=frozenset(charter.roster),
            cap_share=charter.averaging.weight_cap,
            trusted_after=charter.ledger.trusted_after,
            epochs=charter.ledger.epochs,
        )


@dataclass(frozen=True, slots=True)
class AmendedRules:
    """The rules under every amendment: an entry is judged by those under the amendment that it names.

    Attributes:
        rules: by number of amendments in force, the newest last.
        hashes: of the newest of so many amendments; zeros for none.
        retired: author -> first number not accepted.
        withdrawn: author -> first number whose contribution is taken out of the trunk.
        overruled: hashes of amendments that gave way to others: entries made under them are void.
    """

    rules: tuple[Rules, ...]
    hashes: tuple[bytes, ...]
    retired: Mapping[SiteKey, int]
    withdrawn: Mapping[SiteKey, int]
    overruled: frozenset[bytes] = frozenset()

    @classmethod
    def first(cls, rules: Rules) -> AmendedRules:
        """A charter without amendments."""
        return cls((rules,), (NO_AMENDMENTS,), {}, {})

    @classmethod
    def of(cls, constitution: Constitution, rules: Rules) -> AmendedRules:
        """The rules under a constitution.

        Args:
            constitution: charter and amendments in force.
            rules: the first charter's.
        """
        by_number = []
        for number in range(constitution.number + 1):
            then = constitution.at(number)
            rule = then.campaign.ledger
            by_number.append(
                replace(
                    rules,
                    roster=RosterOrder(then.order),
                    weight_cap=weight_cap(len(then.roster), rule.weight_cap),
                    norm_cap=rule.norm_cap,
                    current=frozenset(then.roster),
                    cap_share=rule.weight_cap,
                )
            )
        retired = {key: rule.last + 1 for key, rule in constitution.retired.items()}
        withdrawn = {key: rule.retract_from for key, rule in constitution.retired.items() if rule.retract_from}
        hashes = tuple(constitution.hash_at(number) for number in range(constitution.number + 1))
        return cls(tuple(by_number), hashes, retired, withdrawn, frozenset(constitution.overruled))

    @property
    def number(self) -> int:
        """Amendments in force."""
        return len(self.rules) - 1

    @property
    def now(self) -> Rules:
        """The rules in force."""
        return self.rules[-1]

    @property
    def head_hash(self) -> bytes:
        """Hash of the newest amendment; zeros when there is none."""
        return self.hashes[-1]

    def under(self, basis: Basis) -> Rules | None:
        """The rules under the amendments that an entry was made under; None when those are not the ones here."""
        number = basis.amendment
        if number >= len(self.rules) or self.hashes[number] != basis.amendment_hash:
            return None
        return self.rules[number]

    def voids(self, basis: Basis) -> bool:
        """Whether an entry made under these amendments belongs to no log: they have given way to others."""
        return basis.amendment_hash in self.overruled and self.under(basis) is None

    def contradicts(self, number: int, newest: bytes) -> bool:
        """Whether another amendment than `newest` has this number here."""
        return number < len(self.hashes) and self.hashes[number] != newest


def first_norm_squared(charter: Charter, values: int) -> int:
    """Bound on the squared norm of a first entry, units 2**-48, for a trunk of so many values.

    Adam moves a value by about the learning rate in a step, so that no honest first entry is much larger than all
    values sent times all steps. It needs no other site's norm to compare with.
    """
    rule = charter.ledger
    sent = min(values, -(-values // rule.chunk) * rule.kept)
    each = rule.first_norm * charter.training.learning_rate * rule.steps_per_entry
    return int(each * each * sent * 2.0**48)
