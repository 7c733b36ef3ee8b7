"""By which rules entries are judged: those of the charter as it was under the amendment that an entry names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey
from kmel_p2p.core.ledger.rules.validity import Rules, weight_cap


@dataclass(frozen=True, slots=True)
class Law:
    """What a ledger needs of a constitution.

    Attributes:
        rules: by number of amendments in force, the newest last.
        head_hash: hash of the newest amendment, zeros when there is none.
        retired: author -> first sequence number not accepted any more.
        withdrawn: author -> first sequence number whose contribution is taken out of the trunk.
    """

    rules: tuple[Rules, ...]
    head_hash: bytes
    retired: Mapping[SiteKey, int]
    withdrawn: Mapping[SiteKey, int]

    @classmethod
    def first(cls, rules: Rules) -> Law:
        """A charter without amendments."""
        return cls((rules,), bytes(HASH_BYTES), {}, {})

    @classmethod
    def of(cls, constitution: Constitution, rules: Rules, share: float) -> Law:
        """The law under a constitution.

        Args:
            constitution: charter and amendments in force.
            rules: the first charter's.
            share: the charter's weight cap, in equal shares.
        """
        by_number = []
        for number in range(constitution.number + 1):
            then = constitution.at(number)
            cap = weight_cap(len(then.roster), share)
            by_number.append(
                replace(rules, roster=frozenset(then.everyone), weight_cap=cap, current=frozenset(then.roster))
            )
        retired = {key: rule.last + 1 for key, rule in constitution.retired.items()}
        withdrawn = {key: rule.retract_from for key, rule in constitution.retired.items() if rule.retract_from}
        return cls(tuple(by_number), constitution.head_hash, retired, withdrawn)

    @property
    def number(self) -> int:
        """Amendments in force."""
        return len(self.rules) - 1

    @property
    def now(self) -> Rules:
        """The rules in force."""
        return self.rules[-1]

    def at(self, number: int) -> Rules | None:
        """The rules under so many amendments; None when they are not here."""
        return self.rules[number] if number < len(self.rules) else None
