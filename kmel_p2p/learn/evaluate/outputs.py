"""What several models say of the same rows, each network asked once.

Some models are made of others (`hybrid` of `local` and `personalised`), and most work needs several of them for the
same compounds: scores of all four, the disagreement that intervals widen with, the answer for foreign compounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import Predict


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
        """The mean of what the parts said."""
        total = outputs[0]
        for other in outputs[1:]:
            total = total + other
        return total / len(outputs)


def outputs_of(
    predict: Mapping[str, Predict], names: Iterable[str], inputs: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Model -> float64[n, E] outputs of the models called `names`; parts that several need are computed once.

    Args:
        predict: model -> its function; all of `names` among them.
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
