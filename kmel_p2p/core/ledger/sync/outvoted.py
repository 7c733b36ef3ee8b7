"""Whether this site's sum, or that of others, is the one that most sites attest.

A claim that does not hold here says that one of two ledgers is damaged, not which. So the other sites are asked for
their claims at the same vector. Where more than half of them (two at least) sign one and the same other sum, and more
than agree with this site (itself counted), this site is *outvoted*: it publishes nothing and fetches the ledger again.
Of two equal halves neither is outvoted, or both would take over what the other had; nor can one of two sites be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.sync.messages import Claim
from kmel_p2p.core.roster_vector import RosterVector
from kmel_p2p.core.types import SECOND, Micros

ANSWER_WITHIN: Micros = 10 * SECOND
"""Until then sites that have not answered may still agree with this one: it is outvoted only if that would not help."""

ASKED_FOR: Micros = 60 * SECOND
"""How long the others are asked about one vector; what is heard later is about another."""


@dataclass(slots=True)
class _Question:
    """Who holds which sum at one vector."""

    vector: RosterVector
    amendment: bytes
    chains: bytes
    asked_us: Micros
    agree: set[SiteKey] = field(default_factory=set)
    differ: dict[SiteKey, bytes] = field(default_factory=dict)
    """Site -> digest of the sum that it signed."""


class Vote:
    """See the module docstring.

    Args:
        others: the sites whose word counts: the roster without this one and the blocked ones.
    """

    def __init__(self, others: Callable[[], set[SiteKey]]) -> None:
        self.outvoted: tuple[SiteKey, ...] = ()
        """The sites that attest another sum than this one, if they are enough to outvote it; else empty."""
        self._others = others
        self._question: _Question | None = None

    def differs(self, site: SiteKey, claim: Claim, now: Micros) -> bool:
        """`site` signed another sum; returns whether the other sites are to be asked for theirs at its vector."""
        question, opened = self._question, False
        if question is None or (not self._is_about(claim) and now >= question.asked_us + ASKED_FOR):
            self._question = question = _Question(claim.vector, claim.amendment, claim.chains, now)
            opened = True
        if self._is_about(claim):
            question.agree.discard(site)
            question.differ[site] = claim.digest
        return opened

    def agrees(self, site: SiteKey, claim: Claim) -> None:
        """`site` signed the sum that is held here."""
        if self._question is not None and self._is_about(claim):
            self._question.agree.add(site)
            self._question.differ.pop(site, None)

    def count(self, now: Micros) -> None:
        """Count what is known by now."""
        question, others = self._question, self._others()
        if question is None:
            return
        digests = Counter(digest for site, digest in question.differ.items() if site in others)
        winner, votes = digests.most_common(1)[0] if digests else (b"", 0)
        agree = 1 + len(question.agree & others)
        silent = len(others) - len(others & (question.agree | question.differ.keys()))
        may_agree = agree + (silent if now < question.asked_us + ANSWER_WITHIN else 0)
        if votes >= max(2, len(others) // 2 + 1) and votes > may_agree:
            self.outvoted = tuple(sorted(s for s, d in question.differ.items() if d == winner and s in others))
        elif agree > len(others) // 2:
            self.outvoted = ()

    def forget(self) -> None:
        """The ledger is another one now."""
        self._question, self.outvoted = None, ()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _is_about(self, claim: Claim) -> bool:
        question = self._question
        asked = None if question is None else (question.vector, question.amendment, question.chains)
        return asked == (claim.vector, claim.amendment, claim.chains)
