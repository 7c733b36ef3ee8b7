"""From outputs on held-out compounds to the sides of an assay endpoint, and to which of them answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.losses import compound_losses
from kmel_p2p.learn.evaluate.scores import best_constant
from kmel_p2p.learn.stack.guard import CONTRADICTED, CONTRADICTED_ELSEWHERE, answers
from kmel_p2p.learn.stack.learners import sane
from kmel_p2p.learn.stack.sides import (
    BEST_LOCAL,
    FOREIGN,
    LOCALS,
    STACK,
    Mixture,
    alone,
    of_federation,
    with_federation,
    with_local_networks,
)
from kmel_p2p.learn.stack.weights import cross_fitted, fit_weights, mixed

Outputs = Mapping[str, NDArray[np.float64]]
"""Learner -> float64[n] on held-out compounds."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """The sides of an assay endpoint.

    Attributes:
        sides: those of `sides.SIDES`.
        crossed: their outputs on the held-out compounds, each from weights fitted to others of them, float64[n].
        own, unusual: the side that answers for compounds like the site's own, and for those that are less so.
    """

    sides: Mapping[str, Mixture]
    crossed: Outputs
    own: str
    unusual: str


def weigh(
    endpoint: AssayEndpoint, outputs: Outputs, labels: NDArray[np.float64], networks: Collection[str], seed: int
) -> Weighed:
    """Weigh the learners of all sides.

    Args:
        labels: float64[n], all measured, none of them a bound.
        networks: names of the site's networks.
        seed: of the folds.
    """
    losses = {name: compound_losses(endpoint, output, labels) for name, output in outputs.items()}
    usual = compound_losses(endpoint, np.full(len(labels), best_constant(endpoint, labels)), labels)
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
    own = STACK if answers(stack[2], local[2], CONTRADICTED) else BEST_LOCAL
    names = of_federation(able, networks)
    if not names:
        foreign, unusual = stack, own
    else:
        mixture = Mixture(tuple(names), np.full(len(names), 1 / len(names)))
        crossed = mixed(endpoint, np.stack([outputs[name] for name in names], axis=1), mixture.weights)
        foreign = mixture, crossed, compound_losses(endpoint, crossed, labels)
        unusual = FOREIGN if answers(foreign[2], local[2], CONTRADICTED_ELSEWHERE) else BEST_LOCAL
    found = {BEST_LOCAL: local, STACK: stack, FOREIGN: foreign}
    sides = {name: part[0] for name, part in found.items()}
    return Weighed(sides, {name: part[1] for name, part in found.items()}, own, unusual)


def only_others(outputs: Outputs) -> Weighed:
    """For an assay endpoint without training values of the site's own: only the federated network knows it."""
    names = {BEST_LOCAL: LOCALS, STACK: "federated", FOREIGN: "federated"}
    sides = {side: Mixture((name,), np.ones(1)) for side, name in names.items()}
    return Weighed(sides, {side: outputs[name] for side, name in names.items()}, STACK, FOREIGN)
