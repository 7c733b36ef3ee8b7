"""From outputs on held-out compounds to both sides of an assay endpoint, and to which of them answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.losses import compound_losses
from kmel_p2p.learn.stack.guard import answering
from kmel_p2p.learn.stack.learners import sane
from kmel_p2p.learn.stack.sides import BEST_LOCAL, LOCALS, STACK, Mixture, alone, with_federation, with_local_networks
from kmel_p2p.learn.stack.weights import cross_fitted, fit_weights

Outputs = Mapping[str, NDArray[np.float64]]
"""Learner -> float64[n] on held-out compounds."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """Both sides of an assay endpoint.

    Attributes:
        sides: `BEST_LOCAL` and `STACK`.
        crossed: their outputs on the held-out compounds, each from weights fitted to others of them, float64[n].
        own, foreign: the side that answers for compounds like the site's own, and for others.
    """

    sides: Mapping[str, Mixture]
    crossed: Outputs
    own: str
    foreign: str


def weigh(
    endpoint: AssayEndpoint, outputs: Outputs, labels: NDArray[np.float64], networks: Collection[str], seed: int
) -> Weighed:
    """Weigh the learners of both sides.

    Args:
        labels: float64[n], all measured, none of them a bound.
        networks: names of the site's networks.
        seed: of the folds.
    """
    losses = {name: compound_losses(endpoint, output, labels) for name, output in outputs.items()}
    usual = compound_losses(endpoint, np.full(len(labels), _constant(endpoint, labels)), labels)
    able = sane(outputs, losses, float(usual.mean()) if len(usual) else 0.0)

    def side(names: list[str]) -> tuple[Mixture, NDArray[np.float64], NDArray[np.float64]]:
        names = names or [LOCALS]
        columns = np.stack([outputs[name] for name in names], axis=1)
        crossed = cross_fitted(endpoint, columns, labels, seed)
        mixture = Mixture(tuple(names), fit_weights(endpoint, columns, labels))
        return mixture, crossed, compound_losses(endpoint, crossed, labels)

    small, large = side(alone(able)), side(with_local_networks(able, networks))
    local = large if len(labels) and large[2].mean() < small[2].mean() else small
    stack = side(with_federation(able, networks))
    answer = answering(stack[2], local[2])
    return Weighed({BEST_LOCAL: local[0], STACK: stack[0]}, {BEST_LOCAL: local[1], STACK: stack[1]}, answer, answer)


def only_others(outputs: Outputs) -> Weighed:
    """For an assay endpoint without training values of the site's own: only the federated network knows it."""
    sides = {BEST_LOCAL: Mixture((LOCALS,), np.ones(1)), STACK: Mixture(("federated",), np.ones(1))}
    return Weighed(sides, {BEST_LOCAL: outputs[LOCALS], STACK: outputs["federated"]}, STACK, STACK)


def _constant(endpoint: AssayEndpoint, labels: NDArray[np.float64]) -> float:
    """The best constant output for these labels."""
    if not len(labels):
        return 0.0
    if endpoint.kind == "regression":
        return float(np.median(labels))
    share = (float(labels.sum()) + 1) / (len(labels) + 2)
    return float(np.log(share / (1 - share)))
