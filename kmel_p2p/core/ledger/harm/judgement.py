"""From looks at an author's contribution to a verdict on it.

A look compares a site's loss on its own held-out compounds with the trunk and with the trunk less what one author gave.
A single look proves little: honest authors fail a small test as often as one cares to look. So a verdict of harm needs
a large effect that chance does not explain, and it has to hold over several looks.

Even that is not enough. Once the others have trained with an honest author's part for some entries, the trunk without
it may be better by chance of where they stood; of 49 honest federations of four small sites, two lost a member by it.
But an honest author makes the others' loss smaller at first, and one that sends harm never does. So no harm is found
where an author's entries, followed along the trunk's way (`core.ledger.worth`), did not make the loss larger in sum.

Taking entries out stops showing harm once the others have trained against them. Along the way it stays. At the start
of a federation honest entries help. Whose entries never did, and soon spoilt a good part of the loss beyond chance,
does harm.

Who turns bad later has given much before. Along the way each of its entries makes the loss larger, but so do those of
honest authors that pull the trunk their own way. What parts the two is what the entries themselves say: an honest
author goes on as it began, one that turned takes back what it gave (`turning`). So harm is also found where an author
does both: takes back what it gave, and makes this site's loss larger by it.

A site that finds harm in most of the others is the odd one: its assay reads otherwise, or its compounds have nothing in
common with theirs. What it says then is true of itself, and no reason to take anybody's entries out for all; who turned
has said so by entries, whoever looks.

An author that looks indispensable need not be: without one of few authors the trunk is a network that nobody trained.
So looks tell harm, not merit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.rounds.looks import EndpointLook, Look

TURNED_COUNTS = 2
"""For so many looks counts one that finds that an author turned: chance turns no entries round."""

FEWEST_COMPOUNDS = 20
"""Held-out compounds with a value of an assay endpoint; with fewer, a look says nothing of it."""

SIZES = (0.1, 0.25, 1.0)
"""Changes of the loss, as shares of the smaller one, from which on an effect is of size 1, 2 and 3."""

HARM = 0.15
"""By so much the loss with the author's part must exceed that without it."""

SURE = 2.0
"""Standard errors that an effect must exceed."""

TOLD_AFTER = 2
"""Looks one after the other that must find the harm before people may be told."""

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


@dataclass(frozen=True, slots=True)
class AuthorFinding:
    """What looks at an author say so far.

    Attributes:
        look: the one that tells most, from the first entry that it speaks against.
        harmful: looks one after the other that found harm, with this one; enough of them are a reason for a vote.
        turned: whether the author turned: chance does not look like that, so people are told of it at once.
    """

    look: Look
    harmful: int
    turned: bool


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

    def weigh(self, looks: Mapping[int, Look]) -> AuthorFinding:
        """What this site makes of an author with these looks.

        Args:
            looks: at one author at one time, by first entry; not empty.
        """
        worst, whole = max(looks.values(), key=lambda look: (harm_of(look), -look.first)), looks[min(looks)]
        series = self._series.setdefault(worst.author, _Series())
        # The same entries seen again prove nothing new.
        new = worst.number > series.number
        series.number = max(series.number, worst.number)
        parted, turned = harm_of(worst) >= HARM and worst.raised, whole.turned_since is not None
        if not (parted or turned or whole.spoilt):
            series.harmful, series.quiet = 0, series.quiet + new
            return AuthorFinding(whole, 0, False)
        counts = new * (TURNED_COUNTS if turned else 1)
        series.harmful, series.quiet = series.harmful + counts, 0
        if not parted:
            # Where it also spoilt the whole, all its entries speak against it.
            since = whole.first if whole.turned_since is None or whole.spoilt else whole.turned_since
            worst = replace(whole, first=max(whole.first, since))
        return AuthorFinding(worst, series.harmful, turned)

    def is_odd(self, others: Collection[SiteKey]) -> bool:
        """Whether this site has proved harm against more than half of the others.

        Args:
            others: sites that count, without this one.
        """
        against = [key for key in others if key in self._series and self._series[key].harmful >= LOOKS]
        return 2 * len(against) > len(others)

    def quiet(self, author: SiteKey) -> int:
        """Looks at an author, one after the other, that found no harm."""
        series = self._series.get(author)
        return series.quiet if series is not None else 0
