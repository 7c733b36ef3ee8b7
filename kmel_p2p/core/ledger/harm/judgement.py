"""From looks at an author's contribution to a verdict on it.

A look compares a site's loss on its own held-out compounds with the trunk and with the trunk less what one author gave.
A single look proves little: honest authors fail a small test as often as one cares to look. So a verdict of harm needs
a large effect that chance does not explain, and it has to hold over several looks.

Even that is not enough. Once the others have trained with an honest author's part for some entries, the trunk without
it may be better by chance of where they stood; of 49 honest federations of four small sites, two lost a member by it.
But an honest author makes the others' loss smaller at first, and one that sends harm never does. So no harm is found
where an author's entries, followed along the trunk's way (`core.ledger.worth`), did not make the loss larger in sum.

An author that looks indispensable need not be: without one of few authors the trunk is a network that nobody trained.
So looks tell harm, not merit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.rounds.looks import EndpointLook, Look

FEWEST_COMPOUNDS = 20
"""Held-out compounds with a value of an assay endpoint; with fewer, a look says nothing of it."""

SIZES = (0.1, 0.25, 1.0)
"""Changes of the loss, as shares of the smaller one, from which on an effect is of size 1, 2 and 3."""

HARM = 0.15
"""By so much the loss with the author's part must exceed that without it."""

SURE = 2.0
"""Standard errors that an effect must exceed."""

TOLD_AFTER = 2
"""Looks one after the other that must find the harm before anybody is told."""

LOOKS = 3
"""Looks one after the other that prove it."""


def size_of(part: EndpointLook) -> int:
    """The effect of one part: -3 to -1 the author helps, 0 no evidence, 1 to 3 it does harm."""
    apart = part.loss - part.without
    smaller = min(part.loss, part.without)
    if part.compounds < FEWEST_COMPOUNDS or not abs(apart) > SURE * part.error or not smaller > 0:
        return 0
    size = sum(abs(apart) / smaller >= least for least in SIZES)
    return size if apart > 0 else -size


def change_of(part: EndpointLook) -> float:
    """By how much the loss is larger with the author's part than without it, as a share of that without it."""
    return (part.loss - part.without) / part.without if part.without > 0 else 0.0


def harm_of(look: Look) -> float:
    """By how much the loss of all assay endpoints together is larger with the author's part, as a share; at least 0.

    Zero where chance may explain it, or where there are too few compounds.
    """
    parts = [part for part in look.parts.values() if part.compounds >= FEWEST_COMPOUNDS]
    loss, without = sum(part.loss for part in parts), sum(part.without for part in parts)
    error = sum(part.error**2 for part in parts) ** 0.5
    apart = loss - without
    return apart / without if without > 0 and apart > SURE * error else 0.0


@dataclass(slots=True)
class _Series:
    """Looks at one author, one after the other, that found harm, or none."""

    harmful: int = 0
    quiet: int = 0
    number: int = 0


@dataclass(slots=True)
class Judgement:
    """What this site makes of its looks. Begins anew with the process: a vote that was cast stays cast."""

    _series: dict[SiteKey, _Series] = field(default_factory=dict)

    def forget(self, author: SiteKey) -> None:
        """An amendment decided for the author: harm has to be proved anew."""
        self._series.pop(author, None)

    def weigh(self, looks: Mapping[int, Look]) -> tuple[Look, int]:
        """The look that tells most of an author, and how many looks one after the other found harm, with this one.

        Args:
            looks: at one author at one time, by first entry; not empty.
        """
        worst = max(looks.values(), key=lambda look: (harm_of(look), -look.first))
        series = self._series.setdefault(worst.author, _Series())
        # The same entries seen again prove nothing new.
        new = worst.number > series.number
        series.number = max(series.number, worst.number)
        if harm_of(worst) < HARM or not worst.raised:
            series.harmful, series.quiet = 0, series.quiet + new
            return looks[min(looks)], 0
        series.harmful, series.quiet = series.harmful + new, 0
        return worst, series.harmful

    def quiet(self, author: SiteKey) -> int:
        """Looks at an author, one after the other, that found no harm."""
        series = self._series.get(author)
        return series.quiet if series is not None else 0
