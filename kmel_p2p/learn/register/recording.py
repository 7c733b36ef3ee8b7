"""From predictions to rows of the register."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.measurements import Measurements
from kmel_p2p.chem.dataset.refresh import measured_in
from kmel_p2p.chem.structures.standardise import identity_of
from kmel_p2p.learn.evaluate.scores import best_constant, probability
from kmel_p2p.learn.predict.predict import Model
from kmel_p2p.learn.predict.values import Prediction
from kmel_p2p.learn.register.register import Registered


def registered(
    predictions: Sequence[Prediction],
    policy: FeatureRule,
    version: str,
    medians: Mapping[str, float],
    level: float,
    now_s: int,
) -> list[Registered]:
    """One row for each compound and assay endpoint that was predicted.

    Args:
        policy: which records are one compound.
        version: of the models (`Card.version`).
        medians: of the training values, by assay endpoint (`medians_of`).
        level: of intervals and classes, above 0 and below 1.
        now_s: time in seconds since 1970 (UTC).
    """
    rows = []
    for prediction in {one.standardised: one for one in predictions if one.assays}.values():
        compound = identity_of(prediction.standardised, policy)
        for name, value in prediction.assays.items():
            rows.append(
                Registered(
                    compound=compound,
                    endpoint=name,
                    version=version,
                    at_s=now_s,
                    value=value.value,
                    lower=value.lower,
                    upper=value.upper,
                    classes="".join(map(str, value.classes or ())),
                    level=level,
                    best_local=value.best_local,
                    median=medians.get(name),
                    similarity=prediction.similarity,
                    applicability=prediction.applicability,
                )
            )
    return rows


def medians_of(model: Model) -> dict[str, float]:
    """Assay endpoint -> the median of this site's training values, in its unit; for classes the share of class 1.

    Empty without training compounds to look at, as in an exported model.
    """
    compounds = None if model.neighbours is None else model.neighbours.compounds
    if compounds is None:
        return {}
    found = {}
    for place, endpoint in enumerate(model.card.architecture.endpoints):
        known = np.isfinite(compounds.labels[:, place])
        labels = compounds.labels[known, place].astype(np.float64)
        if not len(labels):
            continue
        constant = np.array([best_constant(endpoint, labels)])
        read = probability(constant) if endpoint.kind == "classification" else endpoint.native(constant)
        found[endpoint.name] = float(read[0])
    return found


def measured_by(measurements: Sequence[Measurements]) -> set[tuple[str, str]]:
    """(compound, assay endpoint) of everything that was measured, bounds included."""
    return {key for part in measurements for key in measured_in(part)}
