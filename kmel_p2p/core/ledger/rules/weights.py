"""The weight of an entry: the site's share, by size class, among the sites that train the same.

Every site that publishes trains the trunk. A shared head is trained by the sites that have measurements of its assay
endpoint, so its weight is the share among those alone: a head that two of six sites train learns as if only these two
existed. Weights are whole units of 2**-16; the shares of sites that see each other add up to exactly one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.log.accumulator import WEIGHT_ONE

MAX_SIZE_CLASS = 40
"""2**40 measurements; a larger class counts as this one."""


@dataclass(frozen=True, slots=True)
class Trains:
    """What a training site says about itself.

    Attributes:
        size_class: floor(log2(measurements)) + 1; 0 when unknown.
        heads: shared heads that it trains, by number.
    """

    size_class: int
    heads: frozenset[int]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one entry, in units of 2**-16.

    Attributes:
        trunk: of everything outside the shared heads.
        heads: of each shared head that the site trains, by head number.
    """

    trunk: int
    heads: Mapping[int, int]


def weight_cap(sites: int, share: float) -> int:
    """`share` times the equal share of `sites`, at most the whole, in units of 2**-16."""
    return int(min(WEIGHT_ONE, max(1, share * WEIGHT_ONE / sites)))


def shares(classes: Mapping[SiteKey, int], cap: int = WEIGHT_ONE) -> dict[SiteKey, int]:
    """The share of each of these sites (at most 2**16), by size class: from 1 to `cap`, together exactly 2**16.

    Every site gets one unit, and the rest is divided in proportion to 2**class. A site that would exceed the cap gets
    the cap, and the others share what remains: a site that claims a huge class leaves no other with nothing. (Where the
    cap is too low for that, everybody gets the cap.) Not each share is rounded but the running total in the order of
    keys (as in Bresenham's line), so that every site computes its own share alone and all of them fit together.

    Args:
        classes: size class of each site.
        cap: the largest share, at least 1.
    """
    sizes = {key: 1 << min(classes[key], MAX_SIZE_CLASS) for key in sorted(classes)}
    given: dict[SiteKey, int] = {}
    total, rest = sum(sizes.values()), WEIGHT_ONE - len(sizes)
    for key in sorted(sizes, key=lambda key: (-sizes[key], key)):
        # Two: the unit that each site has, and one that rounding may add.
        if 2 + rest * sizes[key] // total <= cap:
            break
        given[key] = cap
        rest -= cap - 1
        total -= sizes.pop(key)
    before = running = 0
    for key, size in sizes.items():
        running += size
        until = rest * running // total
        given[key] = 1 + until - before
        before = until
    return given


def weights_of(
    own: SiteKey, training: Mapping[SiteKey, Trains], cap: int = WEIGHT_ONE, cap_share: float = math.inf
) -> Weights:
    """The weights of this site's next entry.

    Args:
        own: this site.
        training: all sites that train, this one among them.
        cap: the charter's largest weight of the trunk.
        cap_share: the charter's cap in equal shares; of a head among the sites that train it.
    """
    trunk = shares({key: site.size_class for key, site in training.items()}, cap)[own]
    heads: dict[int, int] = {}
    for head in sorted(training[own].heads):
        trainers = {key: site.size_class for key, site in training.items() if head in site.heads}
        heads[head] = shares(trainers, weight_cap(len(trainers), cap_share))[own]
    return Weights(trunk, heads)
