"""Which learners stand on which side: what a site can do alone, and what the federation adds.

    alone       the mean of the local networks, trees, boosting and a Gaussian process on features, and where the site
                asks for them the mean of its graph networks
    networks    those, and the same three on activations of one or two local networks
    stack       all of those, the personalised and the federated network, and the three on activations of the
                federated trunk and, where it is known, of the others' trunk
    foreign     those of the stack that the federation takes part in, with weights that nothing is fitted to: the two
                networks have half of it, the learners on them the other half

*Best local* is the better of `alone` and `networks` on held-out rows, fitted on the same rows as the stack. The stack
holds the learners of both and its own, up to 20 against 12, so a part of its gain is that of having more: with 12
learners it gained 2.9 instead of 3.1 % on the silos (seeds 100 and 101), and its worst pair was 1.05 instead of 0.4 %
worse.

Held-out rows are the site's own chemistry and cannot tell how far to trust the site's own learners elsewhere. There an
unweighted mean is better: on the silos of `benchmarks/silos.py` (seeds 100 and 101) it is 16 % better than the best
local stack on other silos' compounds, the weighed stack 12 %. In the demo, whose sites have 200 compounds of one
chemistry each, the networks are better alone (RMSE 0.59) than in an unweighted mean (0.60 to 0.77), because learners
fitted to so few compounds are wrong elsewhere; with half of the weight it is 0.58 to 0.65.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.stack.graph_networks import GRAPHS
from kmel_p2p.learn.stack.learners import KINDS, name_of
from kmel_p2p.learn.stack.logits import UNCHANGED, LogitMap

LOCALS = "locals"
"""The learner that is the mean of the local networks."""

LOCAL_NETWORKS = ("local", "local-2", "local-3")
OTHERS = "others"
"""Name of the network with the others' trunk: the sum of all entries but one's own, with one's own private heads."""

BEST_LOCAL, STACK, FOREIGN = "best_local", "stack", "foreign"
SIDES = (BEST_LOCAL, STACK, FOREIGN)
"""The sides of a site's stack, as `SiteStack.sides` names them."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Learners and their weights.

    Attributes:
        names: of the learners; networks by their own names, and `LOCALS`.
        weights: float64[k], not negative, sum 1.
        logits: what makes a class's mean logit a calibrated one; changes nothing for values.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    logits: LogitMap = UNCHANGED

    def needed(self) -> Mixture:
        """The same without learners of no weight, which need not be fitted again, kept or asked."""
        names = tuple(name for name, weight in zip(self.names, self.weights, strict=True) if weight > 0)
        return Mixture(names, self.weights[self.weights > 0], self.logits)


def read_by(networks: Collection[str]) -> tuple[str, ...]:
    """The networks whose activations learners read; "" for features alone."""
    federated = [name for name in ("federated", OTHERS) if name in networks]
    local = [name for name in LOCAL_NETWORKS if name in networks][: len(federated)]
    return ("", *federated, *local)


def alone(learners: Collection[str]) -> list[str]:
    """The small local stack."""
    return [name for name in (LOCALS, GRAPHS, *KINDS) if name in learners]


def with_local_networks(learners: Collection[str], networks: Collection[str]) -> list[str]:
    """The large local stack."""
    reading = [name for name in read_by(networks) if name in LOCAL_NETWORKS]
    wanted = [*LOCAL_NETWORKS[:2], *(name_of(kind, network) for network in reading for kind in KINDS)]
    return alone(learners) + [name for name in wanted if name in learners]


def of_federation(learners: Collection[str], networks: Collection[str]) -> list[str]:
    """What the federation takes part in."""
    reading = [name for name in read_by(networks) if name in ("federated", OTHERS)]
    wanted = ["personalised", "federated", *(name_of(kind, network) for network in reading for kind in KINDS)]
    return [name for name in wanted if name in learners]


def with_federation(learners: Collection[str], networks: Collection[str]) -> list[str]:
    """The federation's stack."""
    return with_local_networks(learners, networks) + of_federation(learners, networks)
