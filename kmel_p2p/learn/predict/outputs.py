"""Outputs of several models for the same compounds, and which of them a site answers with.

Most work needs several models at once (scores of all four, the disagreement that widens intervals, the answer for
foreign compounds), and `hybrid` is made of two others; each network is computed once.

A model is chosen on validation compounds, which resemble the site's own chemistry; there the hybrid gains by averaging
with the local model. Where a compound is clearly less like the training compounds than any validation compound was
(`Neighbours.foreign`), the local model knows least and the choice was never tested, so the personalised model answers
(docs/models.md). For an assay endpoint without training measurements of the site's own, nothing can be chosen: only the
other sites know its shared head, so the federated model answers, and nobody knows its private head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import Predict, blocks
from kmel_p2p.learn.train.dataset import Dataset

FALLBACK = "personalised"
"""The model that answers for compounds unlike the site's own."""

ONLY_OTHERS = "federated"
"""The model that answers where only the other sites have measurements."""

CHOSEN = "chosen"
"""What a site predicts with, listed in tables beside the models."""


@dataclass(frozen=True, slots=True)
class MeanOf:
    """A model whose outputs are the mean of those of others.

    Attributes:
        parts: the others by name; at least one.
    """

    parts: Mapping[str, Predict]

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64[n, E] outputs for float32[n, width] inputs."""
        return self.of([part(inputs) for part in self.parts.values()])

    @staticmethod
    def of(outputs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
        """The mean of the parts' outputs."""
        total = outputs[0]
        for other in outputs[1:]:
            total = total + other
        return total / len(outputs)


def outputs_of(
    predict: Mapping[str, Predict], names: Iterable[str], inputs: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Model -> float64[n, E] outputs of the models called `names`; shared parts are computed once.

    Args:
        predict: model -> its function; must include all of `names`.
        inputs: rows of network inputs (`dataset.Inputs.rows`).
    """
    known: dict[str, NDArray[np.float64]] = {}

    def ask(name: str, function: Predict) -> NDArray[np.float64]:
        if name not in known:
            if isinstance(function, MeanOf):
                known[name] = function.of([ask(part, own) for part, own in function.parts.items()])
            else:
                known[name] = function(inputs)
        return known[name]

    return {name: ask(name, predict[name]) for name in names}


def outputs_on(
    dataset: Dataset, rows: NDArray[np.int64], predict: Mapping[str, Predict], names: Iterable[str]
) -> dict[str, NDArray[np.float64]]:
    """`outputs_of` for compounds of a dataset, in bounded memory."""
    names = tuple(names)
    parts = [outputs_of(predict, names, dataset.inputs.rows(block)) for block in blocks(rows)]
    nothing = np.empty((0, len(dataset.endpoints)))
    return {name: np.concatenate([nothing, *(part[name] for part in parts)]) for name in names}


def answers(
    outputs: Mapping[str, NDArray[np.float64]],
    chosen: Sequence[str],
    foreign: NDArray[np.bool_],
    untrained: Collection[int] = (),
) -> NDArray[np.float64]:
    """What a site predicts, float64[n, number of assay endpoints].

    Args:
        outputs: model -> float64[n, number of assay endpoints]: the chosen ones, and `FALLBACK` if there is one.
        chosen: name of the model for each assay endpoint.
        foreign: bool[n], compounds unlike the site's own.
        untrained: places of the assay endpoints without training measurements of the site's own. All compounds are
            foreign there, and the chosen model answers.
    """
    found = np.empty((len(foreign), len(chosen)))
    for place, name in enumerate(chosen):
        found[:, place] = outputs[name][:, place]
    if FALLBACK in outputs:
        own = np.array([place not in untrained for place in range(len(chosen))], bool)
        found[np.ix_(foreign, own)] = outputs[FALLBACK][np.ix_(foreign, own)]
    return found
