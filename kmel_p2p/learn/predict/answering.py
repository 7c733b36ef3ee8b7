"""What a site predicts with: its stack, or in an exported model the chosen networks.

Either has one model for compounds like the site's own and one for those that are less so: the stack for the quarter of
held-out compounds that were least similar and for all beyond (`Neighbours.unusual`), networks only where no validation
compound was as far away (`Neighbours.foreign`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.evaluate.scores import Predict
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.outputs import FALLBACK, ONLY_OTHERS, answers, outputs_of
from kmel_p2p.learn.predict.stack_file import StoredStack
from kmel_p2p.learn.predict.uncertainty import MEMBERS, Calibration, Parts, SiteCalibration, disagreement
from kmel_p2p.learn.stack.sides import SIDES

Similarity = NDArray[np.float64] | None
"""To the nearest training compound, float64[n]; None where there is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the site predicts for some compounds.

    Attributes:
        output: float64[n, E], labels or logits.
        spread: float64[n, E], how much what answers disagrees within itself.
        far: bool[n], compounds less like the site's own.
        outputs: model -> float64[n, E], of those that were computed on the way.
        judged: float64[n, E], what class sets are made from: `output`, but where few of a class were held out.
    """

    output: NDArray[np.float64]
    spread: NDArray[np.float64]
    far: NDArray[np.bool_]
    outputs: Mapping[str, NDArray[np.float64]]
    judged: NDArray[np.float64]


class Answering(Protocol):
    """What predicts.

    Attributes:
        models: further models than the networks, which may be asked for by name.
        names: for each assay endpoint the model for compounds like the site's own, and for others.
    """

    models: tuple[str, ...]
    names: Sequence[tuple[str, str]]

    def answer(self, inputs: NDArray[np.float32], near: Similarity) -> Answer:
        """What the site predicts for rows of network inputs."""

    def outputs(self, inputs: NDArray[np.float32]) -> Mapping[str, NDArray[np.float64]]:
        """`models` -> float64[n, E]."""

    def calibration(self, name: str) -> SiteCalibration:
        """What intervals of this assay endpoint are made from."""


def parts_of(calibration: SiteCalibration, far: NDArray[np.bool_]) -> Parts:
    """Which compounds are calibrated with what."""
    return [(~far, calibration.own), (far, calibration.unusual)]


class ByNetworks:
    """See `outputs.answers`.

    Args:
        predict: the networks.
        chosen: of each assay endpoint.
        untrained: places of the assay endpoints without training measurements.
        calibrations: by assay endpoint.
    """

    models: tuple[str, ...] = ()

    def __init__(
        self,
        predict: Mapping[str, Predict],
        chosen: Sequence[str],
        untrained: Collection[int],
        calibrations: Mapping[str, Calibration],
        neighbours: Neighbours | None,
    ) -> None:
        self._predict, self._chosen, self._untrained = predict, chosen, untrained
        self._calibrations, self._neighbours = calibrations, neighbours
        self.names: Sequence[tuple[str, str]] = [
            (name, FALLBACK if FALLBACK in predict and place not in untrained else name)
            for place, name in enumerate(chosen)
        ]

    def answer(self, inputs: NDArray[np.float32], near: Similarity) -> Answer:
        """Computes only the networks that are needed."""
        far = np.zeros(len(inputs), bool)
        if near is not None and self._neighbours is not None:
            far = self._neighbours.are_foreign(near)
        found = outputs_of(self._predict, self._needed(far), inputs)
        output = answers(found, self._chosen, far, self._untrained)
        spread = disagreement(found) if found.keys() & set(MEMBERS) else np.zeros_like(output)
        return Answer(output, spread, far, found, output)

    def outputs(self, inputs: NDArray[np.float32]) -> Mapping[str, NDArray[np.float64]]:
        """Nothing: all models are networks."""
        return {}

    def calibration(self, name: str) -> SiteCalibration:
        """The same for all compounds: no validation compound was like those far away."""
        known = self._calibrations.get(name, Calibration())
        return SiteCalibration(known, known)

    def _needed(self, far: NDArray[np.bool_]) -> set[str]:
        names = set(self._chosen)
        if far.any():
            names.add(FALLBACK)
        if any(calibration.residuals for calibration in self._calibrations.values()):
            names.update(MEMBERS)
        return names & self._predict.keys()


class ByStack:
    """The sides of the site's stack.

    Args:
        stored: the stack with its calibrations.
        untrained: places of the assay endpoints without training measurements; the federated network answers there.
    """

    models: tuple[str, ...] = SIDES

    def __init__(
        self,
        stored: StoredStack,
        untrained: Collection[int],
        neighbours: Neighbours | None,
    ) -> None:
        self._stack, self._calibrations, self._neighbours = stored.stack, stored.calibrations, neighbours
        self.names: Sequence[tuple[str, str]] = [
            (ONLY_OTHERS, ONLY_OTHERS) if place in untrained else (stack.own, stack.unusual)
            for place, stack in enumerate(stored.stack.endpoints)
        ]

    def answer(self, inputs: NDArray[np.float32], near: Similarity) -> Answer:
        """Computes all sides."""
        far = np.zeros(len(inputs), bool)
        if near is not None and self._neighbours is not None:
            far = self._neighbours.are_unusual(near)
        found = self._stack.outputs(inputs)
        output = self._stack.chosen(found.sides, far)
        judged = np.where(np.isnan(found.judged), output, found.judged)
        return Answer(output, found.spread, far, found.sides, judged)

    def outputs(self, inputs: NDArray[np.float32]) -> Mapping[str, NDArray[np.float64]]:
        """All sides."""
        return self._stack.sides(inputs)

    def calibration(self, name: str) -> SiteCalibration:
        """Of compounds like the site's own, and of others."""
        return self._calibrations[name]
