"""From labels and logits to what people read: values in units, probabilities, intervals and sets of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.learn.evaluate.scores import probability
from kmel_p2p.learn.predict.uncertainty import Parts, class_sets_of, intervals_of, needed

DEFAULT_LEVEL = 0.9
"""Of intervals: one value in ten lies outside."""


@dataclass(frozen=True, slots=True)
class Value:
    """Prediction of one assay endpoint.

    Attributes:
        value: in the unit of the assay endpoint; the probability of class 1 for classes, never 0 or 1.
        lower, upper: ends of the conformal interval in the same unit. None for classes, and if there are too few
            calibration values for the level (`Model.without_intervals` says for which assay endpoints).
        classes: classes that cannot be ruled out, such as (1,) or (0, 1); None for values and without calibration.
        model: name of the model that answered.
        best_local: what best local says, on the scale of `value`; None where that was not computed.
    """

    value: float
    lower: float | None = None
    upper: float | None = None
    classes: tuple[int, ...] | None = None
    model: str = ""
    best_local: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one input.

    Attributes:
        smiles: as given; empty for inputs that are not text.
        standardised: the structure predicted for; empty if there is none.
        assays: assay endpoint -> prediction; empty if there is none. Assay endpoints that this model cannot predict
            are left out (`Model.without_values` says why).
        similarity: to the nearest training compound of this site (Tanimoto, 0 to 1); None if not known.
        applicability: `inside`, `edge` or `outside` of what the model was validated on; empty if not known.
        reason: why there is no prediction; empty if there is one.
    """

    smiles: str
    standardised: str
    assays: Mapping[str, Value]
    similarity: float | None
    applicability: str
    reason: str

    @property
    def values(self) -> dict[str, float]:
        """Assay endpoint -> value."""
        return {name: value.value for name, value in self.assays.items()}


def in_digits(value: float, endpoint: AssayEndpoint) -> str:
    """A value as people read it: three digits; no probability is told as 0 or 1, however few its digits."""
    if endpoint.kind == "classification":
        return "<0.001" if value < 0.001 else ">0.999" if value > 0.999 else f"{value:.3f}"
    return f"{float(f'{value:.3g}'):g}"


def values_of(
    endpoint: AssayEndpoint,
    output: NDArray[np.float64],
    names: Sequence[str],
    parts: Parts = (),
    spread: NDArray[np.float64] | None = None,
    level: float = DEFAULT_LEVEL,
    best_local: NDArray[np.float64] | None = None,
    judged: NDArray[np.float64] | None = None,
) -> list[Value]:
    """One for each compound.

    Args:
        output: float64[n], labels or logits.
        names: of the models that answered, n of them.
        parts: what intervals or classes are made from; without, there are none.
        spread: float64[n], how much what answered disagrees within itself.
        best_local: float64[n], labels or logits of best local; None where there is none.
        judged: float64[n], logits that class sets are made from (`Answer.judged`); None: `output`.
    """
    alone = [None] * len(output) if best_local is None else list(map(float, _readable(endpoint, best_local)))
    # With fewer values than the level needs, an interval would be infinite, and no class could be left out.
    parts = [(rows, known) for rows, known in parts if known and known.values >= needed(level)]
    if endpoint.kind == "classification":
        sets, known = class_sets_of(parts, output if judged is None else judged, level)
        classes = [
            tuple(map(int, np.flatnonzero(row))) if told else None for row, told in zip(sets, known, strict=True)
        ]
        return [
            Value(float(p), classes=c, model=name, best_local=local)
            for p, c, name, local in zip(probability(output), classes, names, alone, strict=True)
        ]
    ends = endpoint.native(intervals_of(parts, output, np.zeros(len(output)) if spread is None else spread, level))
    return [
        Value(float(v), _known(low), _known(high), model=name, best_local=local)
        for v, (low, high), name, local in zip(endpoint.native(output), ends, names, alone, strict=True)
    ]


def _readable(endpoint: AssayEndpoint, output: NDArray[np.float64]) -> NDArray[np.float64]:
    """Labels or logits on the scale of `Value.value`."""
    return probability(output) if endpoint.kind == "classification" else endpoint.native(output)


def _known(end: float) -> float | None:
    return float(end) if np.isfinite(end) else None
