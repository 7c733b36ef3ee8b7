"""Does it pay, for whom, at what cost, and what was exposed: the first lines of a simulation's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from kmel_p2p.site.observe.status import bytes_text, span_text

SAME = 0.005
"""Smaller differences are told as none."""


@dataclass(frozen=True, slots=True)
class Payoff:
    """Figures behind the sentences. Changes are relative: predicts / best local - 1.

    Attributes:
        predicts, best_local: error of what sites predict with, and of the best each can make alone, means over sites.
        change: of these means.
        by_site: site -> change.
    """

    predicts: float
    best_local: float
    change: float
    by_site: Mapping[str, float]

    @property
    def gaining(self) -> list[str]:
        """Sites that predict better than they could alone."""
        return [name for name, change in self.by_site.items() if change < -SAME]

    @property
    def losing(self) -> list[str]:
        """Sites that predict worse."""
        return [name for name, change in self.by_site.items() if change > SAME]


def payoff_of(details: Mapping[str, Any]) -> Payoff | None:
    """Of a run (`details.json`); None where sites have no stack to compare with."""
    sites = {name: site for name, site in details["sites"].items() if site.get("best_local") is not None}
    if len(sites) < len(details["sites"]) or not sites:
        return None
    predicts, alone = (fmean(site[key] for site in sites.values()) for key in ("predicts", "best_local"))
    by_site = {name: site["predicts"] / site["best_local"] - 1 for name, site in sites.items()}
    return Payoff(predicts, alone, predicts / alone - 1, by_site)


def in_words(report: Mapping[str, Any], details: Mapping[str, Any]) -> list[str]:
    """Sentences: does it pay, for whom; at what cost; what was exposed. Only what is known is told."""
    found = []
    payoff = payoff_of(details)
    if payoff is not None:
        found.append(_worth(payoff))
    sent = fmean(site["bytes_sent"] for site in report["sites"])
    what = "shares" if "spread" in report else "entries"
    entries = fmean(site["entries"] for site in report["sites"])
    found.append(
        f"It cost each site {entries:.0f} {what}, {bytes_text(sent)} of traffic, and {span_text(details['run_s'])} on "
        "this machine."
    )
    if details.get("exposed"):
        found.append(f"{details['exposed']}; no structure and no measurement left a site.")
    return found


def _worth(payoff: Payoff) -> str:
    count, gaining = len(payoff.by_site), payoff.gaining
    changes = sorted(payoff.by_site.values())
    against = f"the best that each site can make alone ({payoff.predicts:.3f} against {payoff.best_local:.3f})"
    if not gaining and not payoff.losing:
        return f"It makes no difference: what the sites predict with errs as much as {against}."
    if len(gaining) == count:
        whom = "It pays for every site"
    elif gaining:
        whom = f"It pays for {len(gaining)} of {count} sites ({', '.join(gaining)})"
    else:
        whom = "It does not pay"
    more = "less" if payoff.change < 0 else "more"
    least, most = percent(changes[0]), percent(changes[-1])
    spread = f"{least} to {most} by site" if least != most else f"{least} at each"
    worse = f"; {', '.join(payoff.losing)} would do better alone" if payoff.losing else ""
    return (
        f"{whom}: what the sites predict with errs {abs(100 * payoff.change):.0f} % {more} than {against}, "
        f"{spread}{worse}."
    )


def percent(share: float, digits: int = 0) -> str:
    """A relative change with its sign."""
    return f"{100 * share:+.{digits}f} %".replace("-", "\N{MINUS SIGN}")
