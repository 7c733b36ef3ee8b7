"""Why a site predicts a value: the nearest own compounds with what was measured, and what each atom contributes.

made = explain(model, model.predictions(["CCO"]))[0]
made.assays["logD"].neighbours[0]       # Neighbour(smiles="CCCO", similarity=0.6, measured=Measured(0.25, ""))
made.assays["logD"].contributions       # one number per heavy atom of made.prediction.standardised, in its order

A contribution is what is predicted for the whole molecule less what is predicted with the atom left out
(`chem.structures.masked`), by the same models that answered, so it holds for stacks as for networks. It tells what the
model responds to, not why a compound behaves as it does: contributions do not add up to the value, and removing an
atom takes the model to molecules that nobody measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.chem.structures.masked import MAX_ATOMS, mask_atoms
from kmel_p2p.learn.predict.answering import Answering
from kmel_p2p.learn.predict.drawing import SIZE, draw, draw_contributions, full_colour
from kmel_p2p.learn.predict.model_directory import Card
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.own_compounds import Measured, OwnCompounds
from kmel_p2p.learn.predict.values import Prediction, Value
from kmel_p2p.learn.train.dataset import Inputs

NEIGHBOURS = 5
"""Own compounds told for each assay endpoint."""

LOG_ODDS = "log odds"
"""Unit of contributions to a probability."""

Similarities = NDArray[np.float64]
"""To each training compound, float64[n]."""


class Explainable(Protocol):
    """What is needed of a `predict.Model`."""

    card: Card
    neighbours: Neighbours | None
    answering: Answering

    @property
    def reads(self) -> ModelRule:
        """See `predict.Model`."""

    def outputs(self, inputs: NDArray[np.float32], names: Collection[str]) -> Mapping[str, NDArray[np.float64]]:
        """Model -> labels or logits, float64[n, E]."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A training compound of this site in which the assay endpoint was measured.

    Attributes:
        smiles: standardised structure.
        similarity: Tanimoto, 0 to 1.
        measured: its value.
    """

    smiles: str
    similarity: float
    measured: Measured


@dataclass(frozen=True, slots=True)
class AssayExplanation:
    """Why one assay endpoint is predicted as it is.

    Attributes:
        value: the prediction.
        neighbours: most similar first, at most `NEIGHBOURS`.
        contributions: one for each heavy atom, in the order of the standardised SMILES; positive where the atom raises
            the value. Empty where there are none (`Explanation.notes` says why).
        unit: of the contributions: that of the transformed value, `LOG_ODDS` for classes.
        full: the contribution that is drawn in full colour.
    """

    value: Value
    neighbours: tuple[Neighbour, ...] = ()
    contributions: tuple[float, ...] = ()
    unit: str = ""
    full: float = 1.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a compound is predicted as it is.

    Attributes:
        prediction: as `Model.predict` gives it, with the reason where there is none.
        assays: assay endpoint -> why; of those that are predicted.
        notes: what is missing, and why.
    """

    prediction: Prediction
    assays: Mapping[str, AssayExplanation] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def svg(self, name: str) -> str:
        """The structure coloured by contributions to an assay endpoint; plain where there are none.

        Raises:
            KeyError: the assay endpoint is not predicted.
        """
        made, smiles = self.assays[name], self.prediction.standardised
        return draw_contributions(smiles, made.contributions, made.full) if made.contributions else draw(smiles, SIZE)


NO_OWN = "no neighbours: this model directory has no training compounds (an exported copy leaves them at the site)"
NO_VALUES = "no neighbours: this model directory has fingerprints but no measured values; the site can write it anew"
NO_ATOMS = f"no atom contributions: they need 2 to {MAX_ATOMS} heavy atoms"


def explain(model: Explainable, predictions: Sequence[Prediction], name: str | None = None) -> list[Explanation]:
    """One for each prediction, in order.

    Takes about 0.3 s for a drug-sized molecule, most of it for descriptors.

    Args:
        predictions: what `model.predict` gave for the same `name`.
        name: the model that was asked for; None for what the site predicts with.
    """
    return [_explain(model, prediction, name) for prediction in predictions]


def _explain(model: Explainable, prediction: Prediction, name: str | None) -> Explanation:
    if prediction.reason or not prediction.assays:
        return Explanation(prediction)
    changes = _changes(model, prediction, name)
    own = None if model.neighbours is None else model.neighbours.compounds
    similar = None if own is None else _similarities(model, prediction)
    found = {}
    for place, endpoint in enumerate(model.card.architecture.endpoints):
        value = prediction.assays.get(endpoint.name)
        if value is None:
            continue
        near = () if own is None or similar is None else _nearest(own, similar, place, endpoint)
        contributions = () if changes is None else _in_units(changes[:, place], endpoint)
        full = full_colour(contributions, endpoint)
        found[endpoint.name] = AssayExplanation(value, near, contributions, contribution_unit(endpoint), full)
    notes = [NO_OWN if model.neighbours is None else NO_VALUES] if own is None else []
    return Explanation(prediction, found, tuple(notes if changes is not None else [*notes, NO_ATOMS]))


def contribution_unit(endpoint: AssayEndpoint) -> str:
    """Unit that contributions to this assay endpoint carry; empty where the assay endpoint has none."""
    return LOG_ODDS if endpoint.kind == "classification" else endpoint.reported_unit


def _changes(model: Explainable, prediction: Prediction, name: str | None) -> NDArray[np.float64] | None:
    """Output for the whole less the output without each atom, float64[A, E], in labels or logits."""
    masked = mask_atoms(prediction.standardised, model.card.features)
    if masked is None:
        return None
    inputs = Inputs(masked.counts, masked.descriptors).read_by(model.reads, list(masked.smiles))
    rows = inputs.rows(np.arange(len(inputs)))
    if name is not None:
        outputs = model.outputs(rows, [name])[name]
    else:
        # As similar as the whole: with an atom less, another model might answer, and the change would be its.
        similarity = prediction.similarity
        near = None if similarity is None else np.full(len(rows), similarity)
        outputs = model.answering.answer(rows, near).output
    changes: NDArray[np.float64] = outputs[:1] - outputs[1:]
    return changes


def _in_units(changes: NDArray[np.float64], endpoint: AssayEndpoint) -> tuple[float, ...]:
    scale = 1.0 if endpoint.kind == "classification" else endpoint.scale
    return tuple(float(change) * scale for change in changes)


def _similarities(model: Explainable, prediction: Prediction) -> Similarities:
    from kmel_p2p.chem.structures.described import describe_chunk

    assert model.neighbours is not None
    table = describe_chunk([prediction.standardised], model.card.features, related=False)
    return model.neighbours.similarities(table.counts.occupied(np.arange(1))[0])


def _nearest(own: OwnCompounds, similar: Similarities, place: int, endpoint: AssayEndpoint) -> tuple[Neighbour, ...]:
    """The most similar compounds in which the assay endpoint at `place` was measured."""
    known = np.flatnonzero(np.isfinite(own.labels[:, place]))
    order = known[np.argsort(-similar[known], kind="stable")][:NEIGHBOURS]
    pairs = ((int(row), own.measured(int(row), place, endpoint)) for row in order)
    return tuple(Neighbour(own.smiles[row], float(similar[row]), found) for row, found in pairs if found is not None)
