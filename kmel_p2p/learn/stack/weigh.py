"""From outputs on held-out compounds to the sides of an assay endpoint, and to which of them answers.

With few held-out values, training values decide as well: `Evidence` has losses of learners that were refitted without
them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.losses import compound_losses
from kmel_p2p.learn.evaluate.scores import best_constant
from kmel_p2p.learn.stack.guard import CONTRADICTED, CONTRADICTED_ELSEWHERE, answers
from kmel_p2p.learn.stack.learners import sane
from kmel_p2p.learn.stack.logits import UNCHANGED, calibrated
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
from kmel_p2p.learn.stack.weights import cross_fitted, fit_weights, mixed, trusted

Outputs = Mapping[str, NDArray[np.float64]]
"""Learner -> float64[n] on held-out compounds."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Losses of training compounds that the learners were not fitted to, float64[n] each, in the same order.

    Attributes:
        federated: of what the federation takes part in.
        local: of what the site can do alone.
    """

    federated: NDArray[np.float64]
    local: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weighed:
    """The sides of an assay endpoint.

    Attributes:
        sides: those of `sides.SIDES`.
        crossed: their outputs on the held-out compounds, each from weights fitted to others of them, float64[n].
        spread: standard deviation of the learners of the federation's stack on the held-out compounds, float64[n].
        own, unusual: the side that answers for compounds like the site's own, and for those that are less so.
    """

    sides: Mapping[str, Mixture]
    crossed: Outputs
    spread: NDArray[np.float64]
    own: str
    unusual: str


def weigh(
    endpoint: AssayEndpoint,
    outputs: Outputs,
    labels: NDArray[np.float64],
    networks: Collection[str],
    seed: int,
    more: Evidence | None = None,
    base_rate: float = 0.5,
) -> Weighed:
    """Weigh the learners of all sides.

    Args:
        labels: float64[n], all measured, none of them a bound.
        networks: names of the site's networks.
        seed: of the folds.
        more: what decides beside the held-out compounds, where those are few.
        base_rate: share of class 1 among the site's training compounds.
    """
    raised = {name: raised_by(endpoint, name, networks) for name in outputs}
    raw, outputs = outputs, {name: output - raised[name] for name, output in outputs.items()}
    losses = {name: compound_losses(endpoint, output, labels) for name, output in outputs.items()}
    usual = compound_losses(endpoint, np.full(len(labels), best_constant(endpoint, labels)), labels)
    able = sane(outputs, losses, float(usual.mean()) if len(usual) else 0.0)

    def side(names: list[str], shares: NDArray[np.float64] | None = None) -> _Side:
        names = names or [LOCALS]
        columns = np.stack([outputs[name] for name in names], axis=1)
        fit = fit_weights if shares is None else partial(trusted, shares)
        weights = fit(endpoint, columns, labels, base_rate)
        crossed = cross_fitted(endpoint, columns, labels, seed, base_rate, fit)
        logits = UNCHANGED
        if endpoint.kind == "classification":
            logits, crossed = calibrated(crossed, labels, seed)
            together = float(weights.shares @ [raised[name] for name in names])
            logits = logits.after(weights.slope, weights.shift - weights.slope * together)
        mixture = Mixture(tuple(names), weights.shares, logits)
        return _Side(mixture, crossed, compound_losses(endpoint, crossed, labels))

    def better(federated: _Side, limit: float) -> bool:
        pairs = federated.losses, local.losses
        if more is not None:
            pairs = np.concatenate([pairs[0], more.federated]), np.concatenate([pairs[1], more.local])
        return answers(*pairs, limit)

    small, large = side(alone(able)), side(with_local_networks(able, networks))
    local = large if len(labels) and large.losses.mean() < small.losses.mean() else small
    stack = side(with_federation(able, networks))
    own = STACK if better(stack, CONTRADICTED) else BEST_LOCAL
    names = of_federation(able, networks)
    if not names:
        foreign, unusual = stack, own
    else:
        foreign = side(names, for_foreign(names, networks))
        unusual = FOREIGN if better(foreign, CONTRADICTED_ELSEWHERE) else BEST_LOCAL
    found = {BEST_LOCAL: local, STACK: stack, FOREIGN: foreign}
    sides = {name: part.mixture for name, part in found.items()}
    crossed = {name: part.crossed for name, part in found.items()}
    return Weighed(sides, crossed, spread_of(endpoint, stack.mixture, raw), own, unusual)


def raised_by(endpoint: AssayEndpoint, name: str, networks: Collection[str]) -> float:
    """By how much a learner's logits are higher than its evidence: in the networks' loss, class 1 counts more often."""
    weighted = endpoint.kind == "classification" and (name == LOCALS or name in networks)
    return math.log(endpoint.positive_weight) if weighted else 0.0


def for_foreign(names: list[str], networks: Collection[str]) -> NDArray[np.float64]:
    """Weights float64[k] that nothing is fitted to: half for the networks, half for the learners on them."""
    own = np.array([name in networks for name in names])
    if own.all() or not own.any():
        return np.full(len(names), 1 / len(names))
    weights: NDArray[np.float64] = np.where(own, 0.5 / own.sum(), 0.5 / (~own).sum())
    return weights


@dataclass(frozen=True, slots=True)
class _Side:
    """Attributes:
    crossed, losses: on the held-out compounds, float64[n].
    """

    mixture: Mixture
    crossed: NDArray[np.float64]
    losses: NDArray[np.float64]


def spread_of(endpoint: AssayEndpoint, mixture: Mixture, outputs: Outputs) -> NDArray[np.float64]:
    """Standard deviation of a side's learners, by their weights: how much they disagree, float64[n]."""
    columns = np.stack([outputs[name] for name in mixture.names], axis=1)
    mean = mixed(endpoint, columns, mixture.weights)
    spread: NDArray[np.float64] = np.sqrt((columns - mean[:, None]) ** 2 @ mixture.weights)
    return spread


def only_others(outputs: Outputs) -> Weighed:
    """For an assay endpoint without training values of the site's own: only the federated network knows it."""
    names = {BEST_LOCAL: LOCALS, STACK: "federated", FOREIGN: "federated"}
    sides = {side: Mixture((name,), np.ones(1)) for side, name in names.items()}
    crossed = {side: outputs[name] for side, name in names.items()}
    return Weighed(sides, crossed, np.zeros(len(crossed[STACK])), STACK, FOREIGN)
