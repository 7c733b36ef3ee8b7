"""Fitting the stack of a site: learners on training rows, weights and the choice of side on held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import MAX_ROWS, blocks, scorable, some_of, too_little
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.stack.gaussian_process import MAX_ROWS as MAX_KNOWN
from kmel_p2p.learn.stack.guard import MIN_HELD_OUT
from kmel_p2p.learn.stack.learners import KINDS, Learner, fit_learner, name_of
from kmel_p2p.learn.stack.out_of_fold import out_of_fold
from kmel_p2p.learn.stack.readings import Known, LearnerInputs, Similar
from kmel_p2p.learn.stack.sides import LOCALS, OTHERS, read_by
from kmel_p2p.learn.stack.stack import EndpointStack, SiteStack, networks_of, output_of
from kmel_p2p.learn.stack.weigh import Evidence, only_others, weigh
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import Dataset


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Outputs for the held-out compounds of one assay endpoint, from weights that were fitted to others of them.

    Attributes:
        rows: int64[n] of the dataset, ascending.
        labels: float64[n].
        sides: those of `sides.SIDES`, float64[n] each.
        spread: how much the learners of the federation's stack disagree, float64[n].
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.float64]
    sides: Mapping[str, NDArray[np.float64]]
    spread: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FittedStack:
    """What `fit_stack` made.

    Attributes:
        stack: predicts.
        held_out: for each assay endpoint, what intervals, probabilities and comparisons are made from.
    """

    stack: SiteStack
    held_out: tuple[HeldOut, ...]


def fit_stack(
    architecture: Architecture,
    dataset: Dataset,
    models: Mapping[str, Parameters],
    seed: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> FittedStack:
    """Fit all learners of a site and weigh them.

    Args:
        models: parameters of `local`, `federated` and `personalised`, and of as many of `local-2`, `local-3` and
            `others` as there are (`sides`).
        report: called with (learners done, learners in all); may raise to interrupt.
    """
    site = _Site(dataset, networks_of(architecture, models), read_by(models), seed)
    total, done = learners_in_all(dataset, models), 0

    def tick() -> None:
        nonlocal done
        report(done, total)
        done += 1

    endpoints, left = [], []
    for place in range(len(dataset.endpoints)):
        stack, held_out = _endpoint(site, place, tick)
        endpoints.append(stack)
        left.append(held_out)
    report(total, total)
    return FittedStack(SiteStack(architecture, dataset.inputs.width, models, site.known, tuple(endpoints)), tuple(left))


def learners_in_all(dataset: Dataset, networks: Collection[str]) -> int:
    """How many learners `fit_stack` fits with these networks, at most: what it reports progress in."""
    return len(dataset.endpoints) * len(read_by(networks)) * len(KINDS)


class _Site:
    """What all assay endpoints of a site share.

    Attributes:
        readers: networks that learners read; "" for none.
        held: int64 rows that nothing was fitted to, except checkpoints and weights.
        rows: for each assay endpoint the training rows of trees.
        of_known: for each assay endpoint the rows of `known` that its Gaussian processes are fitted to.
    """

    def __init__(self, dataset: Dataset, networks: Mapping[str, Network], readers: Collection[str], seed: int) -> None:
        self.dataset, self.networks, self.readers, self.seed = dataset, networks, readers, seed
        self.held = np.union1d(dataset.valid, dataset.calibration)
        places = range(len(dataset.endpoints))
        self.rows = [_training_rows(dataset, place, seed) for place in places]
        self.chosen = [some_of(rows, MAX_KNOWN, seed) for rows in self.rows]
        together = np.unique(np.concatenate(self.chosen))
        self.of_known = [np.searchsorted(together, chosen) for chosen in self.chosen]
        parts = (self.read(block) for block in blocks(together)) if len(together) else iter([self.read(together)])
        self.known = Known.of(parts, [name for name in readers if name])

    def read(self, rows: NDArray[np.int64]) -> LearnerInputs:
        return LearnerInputs(self.dataset.inputs.rows(rows), self.networks, self.dataset.inputs.width)

    def read_out_of_fold(self, rows: NDArray[np.int64]) -> LearnerInputs:
        """Training rows without what private heads say: they were fitted to the same rows' values."""
        private = [place for place, endpoint in enumerate(self.dataset.endpoints) if endpoint.head == "private"]
        return LearnerInputs(self.dataset.inputs.rows(rows), self.networks, self.dataset.inputs.width, private)

    def labels(self, rows: NDArray[np.int64], place: int) -> NDArray[np.float64]:
        labels: NDArray[np.float64] = self.dataset.labels[rows, place].astype(np.float64)
        return labels


def _endpoint(site: _Site, place: int, tick: Callable[[], None]) -> tuple[EndpointStack, HeldOut]:
    dataset = site.dataset
    endpoint = dataset.endpoints[place]
    learners = _learners(site, place, tick) if len(site.rows[place]) else {}
    asked = site.held[scorable(dataset, site.held, place)]
    readings = site.read(asked)
    similar = Similar(readings, site.known, site.of_known[place])
    names = (LOCALS, *(name for name in site.networks if name != OTHERS), *learners)
    outputs = {name: output_of(name, learners, readings, similar, place) for name in names}
    labels = site.labels(asked, place)
    trained = bool(len(dataset.measured(dataset.train, place)))
    more = _more_evidence(site, place) if learners and len(labels) < MIN_HELD_OUT else None
    weighed = weigh(endpoint, outputs, labels, site.networks, site.seed, more) if trained else only_others(outputs)
    needed = {name for side in weighed.sides.values() for name in side.names}
    kept = {name: learner for name, learner in learners.items() if name in needed}
    stack = EndpointStack(kept, site.of_known[place], weighed.sides, weighed.own, weighed.unusual, len(asked))
    return stack, HeldOut(asked, labels, weighed.crossed, weighed.spread)


def _more_evidence(site: _Site, place: int) -> Evidence | None:
    """From training compounds. None without the others' trunk, or where the head is private: own values made it."""
    endpoint, rows = site.dataset.endpoints[place], site.chosen[place]
    if OTHERS not in site.networks or endpoint.head == "private":
        return None
    return out_of_fold(
        endpoint, site.read_out_of_fold, site.known, rows, site.of_known[place], site.labels(rows, place), site.seed
    )


def _learners(site: _Site, place: int, tick: Callable[[], None]) -> dict[str, Learner]:
    """Every kind on features alone and on each network's activations."""
    rows, chosen = site.rows[place], site.chosen[place]
    classes = site.dataset.endpoints[place].kind == "classification"
    readings = site.read(rows)
    similar = Similar(site.read(chosen), site.known, site.of_known[place])
    labels, known_labels = site.labels(rows, place), site.labels(chosen, place)
    learners = {}
    for network in site.readers:
        for kind in KINDS:
            tick()
            learners[name_of(kind, network)] = fit_learner(
                kind, network, readings, similar, labels, known_labels, classes=classes, seed=site.seed + place
            )
    return learners


def _training_rows(dataset: Dataset, place: int, seed: int) -> NDArray[np.int64]:
    """Rows that trees are fitted to: training values without bounds; none where they would not do."""
    rows = dataset.train[scorable(dataset, dataset.train, place)]
    return np.empty(0, np.int64) if too_little(dataset.labels[rows, place]) else some_of(rows, MAX_ROWS, seed)
