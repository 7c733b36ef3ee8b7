"""Does it pay, at what cost, and what was exposed: what a site's page says first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

SAME = 0.005
"""Smaller differences are told as none."""

EVIDENCE = 1.96
"""Standard errors by which the losses on held-out compounds must differ."""

BEST_LOCAL = "best_local"
"""As a comparison names the side (`learn.stack.sides`)."""


@dataclass(frozen=True, slots=True)
class SitePayoff:
    """What the federation is worth to one site, by assay endpoint, as the comparison of its final models says.

    Attributes:
        gaining: where held-out compounds speak for the federation.
        alone: where the site predicts with best local.
        unclear: the others.
        change: error of what the site predicts with, relative to best local's, on the test fold: mean over the assay
            endpoints; None where no test value says.
    """

    gaining: Sequence[str]
    alone: Sequence[str]
    unclear: Sequence[str]
    change: float | None

    @property
    def count(self) -> int:
        """Assay endpoints that were compared."""
        return len(self.gaining) + len(self.alone) + len(self.unclear)


def against_best_local(result: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Assay endpoint -> errors on the test fold of what the site `predicts` with, and of `best_local`, where known."""
    found = {}
    for endpoint in (result or {}).get("endpoints", ()):
        local = (endpoint.get("stacked") or {}).get(BEST_LOCAL, {}).get("test")
        own = endpoint.get("predicted", {}).get("test")
        if local is not None and own is not None:
            found[endpoint["name"]] = {"predicts": float(own), BEST_LOCAL: float(local)}
    return found


def site_payoff(result: Mapping[str, Any] | None) -> SitePayoff | None:
    """Of a comparison (`learn.evaluate.comparison`); None where there is none, or no stack to compare with."""
    gaining, alone, unclear, changes = [], [], [], []
    for endpoint in (result or {}).get("endpoints", ()):
        stacked = endpoint.get("stacked")
        if not stacked or not endpoint["train"]:
            continue
        name, difference = endpoint["name"], stacked["difference"]
        if stacked["own"] == BEST_LOCAL:
            alone.append(name)
        elif difference is not None and difference[0] + EVIDENCE * difference[1] < 0:
            gaining.append(name)
        else:
            unclear.append(name)
        local, own = stacked[BEST_LOCAL].get("test"), endpoint["predicted"].get("test")
        if local is not None and own is not None and local > 0:
            changes.append(own / local - 1)
    if not (gaining or alone or unclear):
        return None
    return SitePayoff(gaining, alone, unclear, fmean(changes) if changes else None)
