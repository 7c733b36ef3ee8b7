"""Does the federation pay, over all sites: a summary of what they state of themselves on the board.

It follows from the notices and the roster alone, so all sites that hold the same ones show the same. A statement is its
author's word: a site that lies can shift the counts by one site, and by its part of each assay endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.notice import BETTER, EFFECTS_PCT, UNKNOWN, WORSE, PayoffStatement, content_in

if TYPE_CHECKING:
    from kmel_p2p.agreement.amendment import Constitution
    from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
    from kmel_p2p.core.board.notice import Notice

SiteVerdict = Literal["better", "no evidence", "worse", "unknown"]

MARK = b"payoff"
"""In the bytes of every statement of payoff: the others need not be decoded."""


@dataclass(frozen=True, slots=True)
class FederationPayoff:
    """What the sites say of themselves.

    Attributes:
        sites: name of each site of the roster -> `better` where the federation's models are at one assay endpoint at
            least, else what comes next; `unknown`: it has stated nothing.
        endpoints: name of each assay endpoint that somebody states something of -> how many sites say `better`,
            `no evidence` and `worse`.
        half_pct: half of all that are better are so by this many percent of the error or more: one of `EFFECTS_PCT`, or
            0 for less; None: none is better.
    """

    sites: Mapping[str, SiteVerdict] = field(default_factory=dict)
    endpoints: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    half_pct: int | None = None

    def count(self, verdict: SiteVerdict) -> int:
        """Sites of which this is said."""
        return sum(each == verdict for each in self.sites.values())

    @property
    def gaining(self) -> int:
        """Assay endpoints at which the federation's models are better for one site at least."""
        return sum(told["better"] > 0 for told in self.endpoints.values())


def is_payoff(notice: Notice) -> bool:
    """Whether a notice that stands states its author's payoff."""
    return MARK in notice.body and isinstance(content_in(notice.body), PayoffStatement)


def federation_payoff(
    notices: Iterable[Notice], constitution: Constitution, endpoints: AssayEndpoints
) -> FederationPayoff | None:
    """The summary; None where no site has stated anything. Of each site the newest statement counts.

    Args:
        endpoints: those in force. What is said of retired ones, or of places beyond them, does not count.
    """
    newest: dict[SiteKey, Notice] = {}
    for notice in notices:
        before = newest.get(notice.author)
        if is_payoff(notice) and notice.author in constitution.roster and (not before or notice.rank > before.rank):
            newest[notice.author] = notice
    sites: dict[str, SiteVerdict] = {}
    told: dict[str, dict[str, int]] = {}
    gains: list[int] = []
    for key, rule in constitution.roster.items():
        verdicts: set[SiteVerdict] = set()
        for name, letter in zip(endpoints.names, _classes(newest.get(key)), strict=False):
            if letter == UNKNOWN or name in endpoints.retired:
                continue
            verdict = _verdict(letter)
            verdicts.add(verdict)
            told.setdefault(name, {"better": 0, "no evidence": 0, "worse": 0})[verdict] += 1
            if letter in BETTER:
                gains.append(BETTER.index(letter))
        order: tuple[SiteVerdict, ...] = ("better", "no evidence", "worse")
        sites[rule.name] = next((verdict for verdict in order if verdict in verdicts), "unknown")
    if not told:
        return None
    # The upper median: at least half are as large.
    half = (0, *EFFECTS_PCT)[sorted(gains)[len(gains) // 2]] if gains else None
    by_endpoint = {name: told[name] for name in endpoints.names if name in told}
    return FederationPayoff(dict(sorted(sites.items())), by_endpoint, half)


def _classes(notice: Notice | None) -> str:
    content = None if notice is None else content_in(notice.body)
    return content.classes if isinstance(content, PayoffStatement) else ""


def _verdict(letter: str) -> SiteVerdict:
    return "better" if letter in BETTER else "worse" if letter in WORSE else "no evidence"


TEXTS: Mapping[str, str] = {
    "pays": "it pays for {some} of {count} sites ({gaining} of {endpoints} assay endpoints)",
    "pays_by": "it pays for {some} of {count} sites ({gaining} of {endpoints} assay endpoints; half of the gains are "
    "{percent} % or more)",
    "pays_none": "it pays for none of {count} sites",
    "no_evidence": "{count} without evidence either way",
    "worse": "{count} better off alone",
    "unknown": "{count} without a statement",
    "claimed": "by what the sites state of themselves",
}
"""Parts of the summary, for people."""


def payoff_in_words(found: FederationPayoff, word: Callable[[str], str] = TEXTS.__getitem__) -> str:
    """In one sentence, without a capital letter and a full stop.

    Args:
        word: gives a text of `TEXTS` in the reader's language.
    """
    name = "pays_none" if not found.gaining else "pays_by" if found.half_pct else "pays"
    parts = [
        word(name).format(
            some=found.count("better"), count=len(found.sites), gaining=found.gaining, endpoints=len(found.endpoints),
            percent=found.half_pct,
        )
    ]  # fmt: skip
    others: tuple[tuple[str, SiteVerdict], ...] = (
        ("no_evidence", "no evidence"), ("worse", "worse"), ("unknown", "unknown"),
    )  # fmt: skip
    parts += [word(name).format(count=count) for name, verdict in others if (count := found.count(verdict))]
    return ", ".join((*parts, word("claimed")))
