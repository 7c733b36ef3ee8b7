"""What a site finds when it looks at the part of the trunk that one other site gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey


@dataclass(frozen=True, slots=True)
class TrunkPart:
    """Entries `first` to `number` of an author.

    Attributes:
        cosine: of the newest of them with the oldest; 1 where they are few. Below zero, they take back what it gave.
    """

    author: SiteKey
    first: int
    number: int
    cosine: float = 1.0


Trunks = Callable[[], Iterator[tuple[TrunkPart | None, NDArray[np.float32]]]]
"""Work for another thread: first the trunk, then without each part in turn, float32[d]; one after the other, so that
two of them are in memory at most, beside what an author's entries moved lately."""


@dataclass(frozen=True, slots=True)
class EndpointLook:
    """One assay endpoint in one look.

    Attributes:
        compounds: own held-out compounds with a value.
        loss: trimmed mean of the loss with the author's part, in labels.
        without: the same without it, over the same compounds.
        error: standard error of their difference.
    """

    compounds: int
    loss: float
    without: float
    error: float


@dataclass(frozen=True, slots=True)
class Look:
    """The effect of an author's entries from `first` to `number`, by assay endpoint (place in the charter).

    Attributes:
        raised: whether all its entries together, followed along the trunk's way, made this site's loss larger.
        spoilt: whether they never helped, and made it larger by a good part of it and beyond chance.
        turned_since: of an author that takes back what it gave: the entry since which it made the loss larger, however
            much it gave before; None: it did not.
    """

    author: SiteKey
    first: int
    number: int
    parts: Mapping[int, EndpointLook]
    raised: bool = True
    spoilt: bool = False
    turned_since: int | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """A command of the driver: looks at one time, at one or several parts of each author."""

    looks: tuple[Look, ...]
