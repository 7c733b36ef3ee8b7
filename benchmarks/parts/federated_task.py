"""A synthetic multi-task classification task with sparse binary inputs, spread unevenly over sites; pure numpy.

Inputs look like ECFP bits: a molecule has the bits of one of 24 scaffolds and of random substituents, whose popularity
falls off by a power law. Sites prefer different scaffolds and have 102 to 1152 molecules. Labels come from a random
teacher over bits and pairs of bits, the same everywhere, with so much noise that a site alone reaches an AUROC of 0.70
and dense gossip stays 0.02 behind all-reduce, as in the trial that the design rests on. The student is an MLP
1024-128-64-10 (140 106 values), trained with Adam; everything is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.delta import Layout, TensorSpec

Matrix = NDArray[np.float32]

BITS, HIDDEN, TASKS = 1024, (128, 64), 10
SIZES = (1152, 912, 720, 576, 456, 360, 288, 228, 180, 144, 120, 102)
TEST_SIZE = 2000
BATCH = 64
LEARNING_RATE = 1e-3

_WIDTHS = (BITS, *HIDDEN, TASKS)


@dataclass(frozen=True)
class Site:
    """One site's molecules: inputs float32[n, 1024], labels float32[n, 10] in {0, 1}."""

    inputs: Matrix
    labels: Matrix


@dataclass(frozen=True)
class Task:
    """All sites' data and a test set that no site prefers."""

    sites: tuple[Site, ...]
    test: Site


def make_task(seed: int, sizes: tuple[int, ...] = SIZES) -> Task:
    """The task of a seed."""
    rng = np.random.default_rng(seed)
    popularity = 1.0 / (1.0 + np.arange(BITS)) ** 0.7
    popularity = rng.permutation(popularity / popularity.sum())
    scaffolds = [rng.choice(BITS, 16, replace=False) for _ in range(24)]
    teacher = _Teacher(rng, popularity.astype(np.float64))

    def draw(count: int, preference: NDArray[np.float64]) -> Site:
        inputs = np.zeros((count, BITS), np.float32)
        for row, scaffold in zip(inputs, rng.choice(24, count, p=preference), strict=True):
            bits = scaffolds[scaffold]
            row[bits[rng.random(bits.size) < 0.9]] = 1.0
            row[rng.choice(BITS, 24, p=popularity)] = 1.0
        return Site(inputs, teacher.labels(inputs, rng))

    teacher.calibrate(draw(2000, np.full(24, 1 / 24)).inputs)
    sites = tuple(draw(size, rng.dirichlet(np.full(24, 0.3))) for size in sizes)
    return Task(sites, draw(TEST_SIZE, np.full(24, 1 / 24)))


class _Teacher:
    """Labels from weighted bits and pairs of frequent bits, thresholded so that a third is positive."""

    def __init__(self, rng: np.random.Generator, popularity: NDArray[np.float64]) -> None:
        frequent = np.argsort(-popularity)[:200]
        self._mix = rng.standard_normal((8, TASKS)) / 8**0.5
        self._linear = rng.standard_normal((BITS, 8))
        self._pairs = rng.choice(frequent, (400, 2))
        self._pair_weights = 1.5 * rng.standard_normal((400, 8))
        self._threshold = np.zeros(TASKS)
        self._spread = np.ones(TASKS)

    def calibrate(self, inputs: Matrix) -> None:
        scores = self._scores(inputs)
        self._threshold = np.quantile(scores, 2 / 3, axis=0)
        self._spread = scores.std(axis=0)

    def labels(self, inputs: Matrix, rng: np.random.Generator) -> Matrix:
        noise = 0.6 * self._spread * rng.standard_normal((len(inputs), TASKS))
        return (self._scores(inputs) + noise > self._threshold).astype(np.float32)

    def _scores(self, inputs: Matrix) -> NDArray[np.float64]:
        pairs = inputs[:, self._pairs[:, 0]] * inputs[:, self._pairs[:, 1]]
        return np.asarray((inputs @ self._linear + pairs @ self._pair_weights) @ self._mix)


# ---- the student ------------------------------------------------------------------------------------------------


def make_layout() -> Layout:
    """Its tensors: weights and biases of three layers, with the initial values a charter's trunk has."""
    specs = []
    for n, (inputs, outputs) in enumerate(pairwise(_WIDTHS)):
        specs += [TensorSpec(f"w{n}", (inputs, outputs), inputs**-0.5), TensorSpec(f"b{n}", (outputs,))]
    return Layout(specs)


@dataclass
class Trainer:
    """One site's Adam (Kingma and Ba, ICLR 2015), kept over rounds, and its order of batches."""

    site: Site
    layout: Layout
    rng: np.random.Generator
    _first: Matrix = field(init=False)
    _second: Matrix = field(init=False)
    _work: Matrix = field(init=False)
    _grad: Matrix = field(init=False)
    _steps: int = 0

    def __post_init__(self) -> None:
        self._first, self._second, self._work, self._grad = (np.zeros(self.layout.size, np.float32) for _ in range(4))

    def train(self, trunk: Matrix, steps: int) -> Matrix:
        """Drift of `steps` steps from `trunk`, float32[d]."""
        flat = trunk.copy()
        weights, gradients = self.layout.split(flat), self.layout.split(self._grad)
        for _ in range(steps):
            rows = self.rng.choice(len(self.site.inputs), BATCH)
            _gradient(weights, self.site.inputs[rows], self.site.labels[rows], gradients)
            self._step(flat)
        return flat - trunk

    def _step(self, flat: Matrix) -> None:
        self._steps += 1
        grad, work = self._grad, self._work
        self._first *= 0.9
        np.multiply(grad, 0.1, out=work)
        self._first += work
        self._second *= 0.999
        np.multiply(grad, grad, out=work)
        work *= 0.001
        self._second += work
        np.sqrt(self._second, out=work)
        work += 1e-8 * (1 - 0.999**self._steps) ** 0.5
        np.divide(self._first, work, out=work)
        work *= LEARNING_RATE * (1 - 0.999**self._steps) ** 0.5 / (1 - 0.9**self._steps)
        flat -= work


def predict(weights: dict[str, Matrix], inputs: Matrix) -> Matrix:
    """Logits, float32[n, 10]."""
    hidden = inputs
    for n in range(2):
        hidden = np.maximum(hidden @ weights[f"w{n}"] + weights[f"b{n}"], 0.0)
    return hidden @ weights["w2"] + weights["b2"]


def _gradient(weights: dict[str, Matrix], inputs: Matrix, labels: Matrix, out: dict[str, Matrix]) -> None:
    """Gradient of the mean logistic loss, written to `out`."""
    layers = [inputs]
    for n in range(2):
        layers.append(np.maximum(layers[-1] @ weights[f"w{n}"] + weights[f"b{n}"], 0.0))
    logits = layers[-1] @ weights["w2"] + weights["b2"]
    error = (1.0 / (1.0 + np.exp(-logits)) - labels) / np.float32(labels.size)
    for n in (2, 1, 0):
        np.matmul(layers[n].T, error, out=out[f"w{n}"])
        error.sum(axis=0, out=out[f"b{n}"])
        if n:
            error = (error @ weights[f"w{n}"].T) * (layers[n] > 0)


def auroc(scores: Matrix, labels: Matrix) -> float:
    """Mean over tasks of the area under the ROC curve (rank sum; ties do not occur in practice)."""
    order = scores.argsort(axis=0)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, len(scores) + 1)[:, None], 0)
    positive = labels.sum(axis=0)
    area = (ranks * labels).sum(axis=0) - positive * (positive + 1) / 2
    return float((area / (positive * (len(labels) - positive))).mean())
