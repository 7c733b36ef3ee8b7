"""The learners of one assay endpoint beside its networks: which there are, how each is fitted, stored and asked.

A learner is called `trees`, `boosting` or `gp` on features alone, and `trees.federated`, `gp.others` or
`boosting.local-2` with the activations and outputs of that network appended.

Measured on the silos of `benchmarks/silos.py` (240 training compounds): gradient boosting with depth 4 and 3 % of the
features per split is 1.7 % better than 300 extra trees with 20 %; LightGBM is 1.3 % better, CatBoost 1.1 %,
scikit-learn's histograms 0.7 %. A tenth of the features serves extra trees as well as a fifth, in half the time; a
twentieth costs 1.5 %. Most bits of a fingerprint occur in a handful of compounds: without them, and with half as many
of the other features again per split of the boosting, trees are as good in three quarters of the time. With 1,000
compounds (seed 100), the mean of 40 trees and 250 stages at a rate of 0.08 is as good as that of 60 and 400 at 0.05
(0.0 ± 0.3 %); 200 at 0.1 are 0.4 % worse, 200 of depth 5 at 0.08 1.2 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import logit_of
from kmel_p2p.learn.stack.gaussian_process import GaussianProcess
from kmel_p2p.learn.stack.readings import LearnerInputs, Similar
from kmel_p2p.learn.stack.stored import Tensors, damaged
from kmel_p2p.learn.stack.trees import TreeEnsemble

KINDS = ("trees", "boosting", "gp")

SMALL = 500
"""Training compounds up to which trees are grown with more care; above, fewer trees and features do as well."""

TREES, TREE_FEATURES, TREE_LEAF = (150, 40), 0.1, 2
STAGES, STAGE_RATES = (400, 250), (0.05, 0.08)
STAGE_FEATURES, STAGE_ROWS, STAGE_DEPTH = (0.045, 0.03), 0.7, 4
"""Pairs are for `SMALL` sets and for larger ones."""

RARE, RARE_SHARE = 5, 0.02
"""Trees do not look at columns in which fewer compounds, or a smaller share of a small set, differ from the rest."""

ABSURD = 3.0
"""A learner whose held-out loss is this many times that of a constant does not enter."""

CLASS_TREES, CLASS_STAGES, CLASS_STAGE_RATE = (150, 60), 100, 0.05
"""For classes: few stages, since their log loss soon rises on held-out rows; certainty grows with every stage."""

VOTES = 100
"""Trees that a share of class 1 counts as when it becomes a logit."""

Labels = NDArray[np.float64]
"""float64[n]; 0 and 1 for classes."""


@dataclass(frozen=True, slots=True)
class Learner:
    """One learner.

    Attributes:
        kind: one of `KINDS`.
        network: whose activations and outputs it reads; "" for none.
        model: what was fitted.
        votes: whether the model's outputs are shares of class 1, to be turned into logits.
    """

    kind: str
    network: str
    model: TreeEnsemble | GaussianProcess
    votes: bool = False

    def __call__(self, readings: LearnerInputs, similar: Similar) -> NDArray[np.float64]:
        """float64[n], labels or logits.

        Args:
            similar: the same compounds' similarities with those that the Gaussian processes know.
        """
        if isinstance(self.model, GaussianProcess):
            return self.model(similar.to(self.network))
        found = self.model(readings.columns(self.network))
        return logit_of(found, VOTES) if self.votes else found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model as named arrays."""
        return self.model.tensors()


def name_of(kind: str, network: str) -> str:
    """The learner's name."""
    return f"{kind}.{network}" if network else kind


def fit_learner(
    kind: str,
    network: str,
    readings: LearnerInputs,
    similar: Similar,
    labels: Labels,
    known: Labels,
    *,
    classes: bool,
    seed: int,
    before: Learner | None = None,
) -> Learner:
    """Fit one learner.

    Args:
        readings: of the n training compounds.
        similar: of the compounds that Gaussian processes are fitted to, with themselves.
        labels: of `readings`.
        known: labels of the compounds of `similar`.
        before: the same learner as fitted to fewer compounds; a Gaussian process keeps its weights and noise.
    """
    if kind == "gp":
        if before is not None and isinstance(before.model, GaussianProcess):
            return Learner(kind, network, before.model.refitted(similar.to(network), known, classes=classes))
        return Learner(kind, network, GaussianProcess.fit(similar.to(network), known, classes=classes))
    grow = {"trees": _extra_trees, "boosting": _boosting}[kind]
    columns = readings.columns(network)
    varied = varied_columns(columns)
    model = grow(columns[:, varied], varied, labels, classes, seed % 2**32)
    return Learner(kind, network, model, votes=classes and kind == "trees")


def read_learner(
    name: str, tensors: Tensors, widths: Callable[[str], int], known: int, classes: bool, where: str
) -> Learner:
    """A learner from its name and `Learner.tensors`.

    Args:
        widths: columns of `LearnerInputs.columns` for a network; raises KeyError for one that is not there.
        known: compounds that Gaussian processes know.

    Raises:
        ConfigError: something is damaged.
    """
    kind, _, network = name.partition(".")
    try:
        width = widths(network)
    except KeyError:
        raise damaged(where, f"{name} reads a network that is not there") from None
    if kind == "gp":
        return Learner(kind, network, GaussianProcess.from_tensors(tensors, 3 if network else 2, known, where))
    if kind not in KINDS:
        raise damaged(where, f"this version has no learner {kind!r:.40}")
    return Learner(kind, network, TreeEnsemble.from_tensors(tensors, width, where), classes and kind == "trees")


def sane(
    outputs: Mapping[str, NDArray[np.float64]], losses: Mapping[str, NDArray[np.float64]], constant: float
) -> list[str]:
    """Names of the learners that may enter a stack.

    Args:
        outputs: on held-out rows, float64[n] each.
        losses: of the same.
        constant: mean loss of predicting the same for all compounds; more than `ABSURD` times that is absurd.
    """
    return [
        name
        for name, output in outputs.items()
        if np.isfinite(output).all() and (not len(output) or float(losses[name].mean()) <= ABSURD * constant)
    ]


def varied_columns(columns: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which columns trees look at, ascending: see `RARE`; all, where none varies.

    Args:
        columns: float32[n, width].
    """
    least = max(1, min(RARE, int(RARE_SHARE * len(columns))))
    usual = np.median(columns, axis=0)
    varied: NDArray[np.int64] = np.flatnonzero((columns != usual).sum(axis=0) >= least)
    return varied if len(varied) else np.arange(columns.shape[1])


def _extra_trees(
    columns: NDArray[np.float32], varied: NDArray[np.int64], labels: Labels, classes: bool, seed: int
) -> TreeEnsemble:
    """Classes as 0 and 1: the variance of such labels is half the Gini impurity, so the splits are a classifier's."""
    from sklearn import config_context
    from sklearn.ensemble import ExtraTreesRegressor

    count = (CLASS_TREES if classes else TREES)[len(labels) > SMALL]
    forest = ExtraTreesRegressor(
        count, max_features=TREE_FEATURES, min_samples_leaf=TREE_LEAF, random_state=seed, n_jobs=1
    )
    with config_context(skip_parameter_validation=True):
        forest.fit(columns, labels)
    return TreeEnsemble.of((tree.tree_ for tree in forest.estimators_), 0.0, 1 / count, varied)


def _boosting(
    columns: NDArray[np.float32], varied: NDArray[np.int64], labels: Labels, classes: bool, seed: int
) -> TreeEnsemble:
    from sklearn import config_context
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    kind = GradientBoostingClassifier if classes else GradientBoostingRegressor
    large = len(labels) > SMALL
    rate = CLASS_STAGE_RATE if classes else STAGE_RATES[large]
    model = kind(
        n_estimators=CLASS_STAGES if classes else STAGES[large],
        learning_rate=rate,
        max_depth=STAGE_DEPTH,
        max_features=STAGE_FEATURES[large],
        subsample=STAGE_ROWS,
        random_state=seed,
    )
    # Every stage would check the same settings again, in a tenth of its time.
    with config_context(skip_parameter_validation=True):
        model.fit(columns, labels)
    mean = float(labels.mean())
    # What the first stage starts from: the mean, or the log odds of the mean.
    base = float(np.log(mean / (1 - mean))) if classes else mean
    return TreeEnsemble.of((stage[0].tree_ for stage in model.estimators_), base, rate, varied)
