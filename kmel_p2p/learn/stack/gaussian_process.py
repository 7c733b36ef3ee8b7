"""A Gaussian process over given similarities (Rasmussen and Williams 2006): their weights and the noise by likelihood.

Similarities are weighed on a grid, with the scale of the labels in closed form, by the marginal likelihood of at most
`CHOOSING_ROWS` compounds; then one system of equations is solved for at most `MAX_ROWS`. Classes are regressed on as -1
and +1, and the outputs become logits by Platt scaling (Platt 1999) of leave-one-out outputs, which are closed-form.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.stack.kernels import evenly
from kmel_p2p.learn.stack.stored import Tensors, damaged, require

CHOOSING_ROWS = 400
MAX_ROWS = 2500

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
NOISES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Grids for the weight of each similarity, and for the variance of the noise as a share of the signal's."""

PLATT_STEPS = 50
PLATT_PULL = 1e-3
"""Keeps the slope finite where leave-one-out outputs separate the classes."""

Similarities = Sequence[NDArray[np.float64]]
"""float64[n, m] each: similarities of n compounds with the m known ones."""


@dataclass(frozen=True, slots=True)
class GaussianProcess:
    """Mean of the posterior.

    Attributes:
        weights: float64[k] of the similarities, sum 1.
        noise: variance as a share of the signal's.
        mean: of the labels.
        coefficients: float64[m].
        platt: slope and shift of the logits, (1, 0) for values.
    """

    weights: NDArray[np.float64]
    noise: float
    mean: float
    coefficients: NDArray[np.float64]
    platt: tuple[float, float] = (1.0, 0.0)

    @classmethod
    def fit(cls, similarities: Similarities, labels: NDArray[np.float64], *, classes: bool) -> GaussianProcess:
        """Choose weights and noise, and solve.

        Args:
            similarities: among the known compounds, float64[m, m] each.
            labels: float64[m]; 0 and 1 for classes.
        """
        targets = 2 * labels - 1 if classes else labels
        some = evenly(len(labels), CHOOSING_ROWS)
        chosen = choose([part[np.ix_(some, some)] for part in similarities], (targets - float(targets.mean()))[some])
        return cls._solved(similarities, labels, classes, *chosen)

    def refitted(self, similarities: Similarities, labels: NDArray[np.float64], *, classes: bool) -> GaussianProcess:
        """With the same weights and noise, for other known compounds; arguments as for `fit`."""
        return self._solved(similarities, labels, classes, self.weights, self.noise)

    @classmethod
    def _solved(
        cls,
        similarities: Similarities,
        labels: NDArray[np.float64],
        classes: bool,
        weights: NDArray[np.float64],
        noise: float,
    ) -> GaussianProcess:
        targets = 2 * labels - 1 if classes else labels
        mean = float(targets.mean())
        together = _mixed(similarities, weights)
        together[np.diag_indices_from(together)] += noise
        if not classes:
            solved = np.linalg.solve(together, targets - mean).astype(np.float64)
            return cls(weights, noise, mean, solved)
        inverse = np.linalg.inv(together).astype(np.float64)
        coefficients: NDArray[np.float64] = inverse @ (targets - mean)
        return cls(weights, noise, mean, coefficients, platt(left_out(inverse, coefficients, targets), labels))

    def __call__(self, similarities: Similarities) -> NDArray[np.float64]:
        """float64[n]: labels, or logits."""
        slope, shift = self.platt
        found: NDArray[np.float64] = (
            slope * (_mixed(similarities, self.weights) @ self.coefficients + self.mean) + shift
        )
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays."""
        return {
            "weights": self.weights,
            "coefficients": self.coefficients,
            "constants": np.array([self.noise, self.mean, *self.platt]),
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, kernels: int, known: int, where: str) -> GaussianProcess:
        """What `tensors` gave.

        Args:
            kernels, known: how many similarities there are, and known compounds.
            where: what the tensors are, for the error.

        Raises:
            ConfigError: they are damaged.
        """
        weights = require(tensors, "weights", np.float64, (kernels,), where)
        coefficients = require(tensors, "coefficients", np.float64, (known,), where)
        noise, mean, slope, shift = map(float, require(tensors, "constants", np.float64, (4,), where))
        if (weights < 0).any() or noise <= 0:
            raise damaged(where, "a weight or the noise of a Gaussian process is negative")
        return cls(weights, noise, mean, coefficients, (slope, shift))


def choose(similarities: Similarities, targets: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Weights float64[k] and noise of the highest marginal likelihood.

    Args:
        similarities: float64[m, m] each.
        targets: float64[m], mean about 0.
    """
    count = len(targets)
    best, lowest = (np.full(len(similarities), 1 / len(similarities)), NOISES[0]), np.inf
    for weights in _grid(len(similarities)):
        values, vectors = np.linalg.eigh(_mixed(similarities, weights))
        projected = (vectors.T @ targets) ** 2
        for noise in NOISES:
            variances = np.maximum(values, 0) + noise
            scale = max(float((projected / variances).sum()) / count, np.finfo(float).tiny)
            surprise = count * np.log(scale) + float(np.log(variances).sum())
            if surprise < lowest:
                best, lowest = (weights, noise), surprise
    return best


def left_out(
    inverse: NDArray[np.float64], coefficients: NDArray[np.float64], targets: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Output for each known compound had it been left out, float64[m], with the mean as it is.

    Args:
        inverse: float64[m, m] of similarities plus noise.
    """
    found: NDArray[np.float64] = targets - coefficients / np.diagonal(inverse)
    return found


def platt(outputs: NDArray[np.float64], classes: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and shift that make outputs logits, by Newton's method on Platt's smoothed classes.

    Args:
        outputs: float64[n].
        classes: float64[n], 0 or 1.
    """
    positive = float(classes.sum())
    negative = len(classes) - positive
    goals = np.where(classes > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))
    design = np.stack([outputs, np.ones_like(outputs)], axis=1)
    at = np.array([1.0, 0.0])
    for _ in range(PLATT_STEPS):
        shares = 1 / (1 + np.exp(-np.clip(design @ at, -30, 30)))
        gradient = design.T @ (shares - goals) + PLATT_PULL * (at - [1.0, 0.0])
        curvature = design.T @ (design * (shares * (1 - shares))[:, None]) + PLATT_PULL * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        at = at - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return float(at[0]), float(at[1])


def _grid(kinds: int) -> list[NDArray[np.float64]]:
    """All weights on the grid with sum 1."""
    return [np.array(shares) for shares in itertools.product(SHARES, repeat=kinds) if abs(sum(shares) - 1) < 1e-9]


def _mixed(similarities: Similarities, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = weights[0] * similarities[0]
    for weight, part in zip(weights[1:], similarities[1:], strict=True):
        total = total + weight * part
    return total
