"""Predicting with a model directory, without network or federation.

model = load_model(Path("state/model"))
for row in model.predict(["CCO", "c1ccccc1"]):
    ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.chem.endpoint import AssayEndpoint
from kmel_p2p.chem.structures import describe_all, ignore_progress
from kmel_p2p.core.errors import ConfigError
from kmel_p2p.learn.answer import CHOSEN, answers
from kmel_p2p.learn.checkpoint import Parameters
from kmel_p2p.learn.comparison import predictors
from kmel_p2p.learn.dataset import Inputs
from kmel_p2p.learn.model import Card, read_card, read_parameters
from kmel_p2p.learn.neighbours import Neighbours, read_neighbours
from kmel_p2p.learn.reference import trunk_reference_hash
from kmel_p2p.learn.scores import Predict
from kmel_p2p.learn.trunk_file import is_trunk, read_trunk
from kmel_p2p.learn.uncertainty import MEMBERS, Calibration, class_sets, intervals

DEFAULT_LEVEL = 0.9
"""Of intervals: a value in ten lies outside."""


@dataclass(frozen=True, slots=True)
class Value:
    """Prediction of one assay endpoint.

    Attributes:
        value: in the unit of the assay endpoint; the probability of class 1 for classes.
        lower, upper: ends of the conformal interval in the same unit; None for classes and without calibration.
        classes: classes that cannot be ruled out, such as (1,) or (0, 1); None for values and without calibration.
    """

    value: float
    lower: float | None = None
    upper: float | None = None
    classes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One input, in its place.

    Attributes:
        smiles: as given.
        standardised: the structure predicted for; empty where there is none.
        assays: assay endpoint -> prediction; empty where there is none.
        similarity: to the nearest training compound of this site (Tanimoto, 0 to 1); None where that is not known.
        applicability: `inside`, `edge` or `outside` of what the model was tried on; empty where that is not known.
        reason: why there is no prediction; empty where there is one.
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


class Model:
    """A loaded model directory.

    Attributes:
        card: what it is.
        neighbours: training compounds of this site; None in an exported model.
    """

    def __init__(self, card: Card, parameters: Mapping[str, Parameters], neighbours: Neighbours | None = None) -> None:
        self.card = card
        self.neighbours = neighbours
        self._predictors = predictors(card.architecture, dict(parameters))
        self._calibrations = {name: Calibration.read(raw) for name, raw in card.uncertainty.items()}

    @property
    def predictors(self) -> Mapping[str, Predict]:
        """The four models as functions from inputs to outputs."""
        return self._predictors

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """What intervals are made from, by assay endpoint."""
        return self._calibrations

    def predict(
        self,
        smiles: Sequence[str],
        *,
        model: str | None = None,
        level: float = DEFAULT_LEVEL,
        workers: int = 1,
        progress: Callable[[int, int], None] = ignore_progress,
    ) -> list[Prediction]:
        """One `Prediction` per input, in order, also for inputs that cannot be used.

        Args:
            model: `local`, `federated`, `personalised` or `hybrid` for every assay endpoint; None for the chosen ones,
                and the personalised one for compounds unlike any of this site's (`learn.answer`). Intervals are
                calibrated for the chosen ones only, so others come without.
            level: share of compounds whose true value the interval is to hold, above 0 and below 1.
            workers: processes that prepare structures.
            progress: called with (structures done, structures in all).

        Raises:
            ConfigError: there is no model of that name, or the level is none.
        """
        if model is not None and model not in self._predictors:
            raise ConfigError(f"there is no model {model!r}; there are: {', '.join(self._predictors)}")
        if not 0 < level < 1:
            raise ConfigError(f"the level is {level}; it must be above 0 and below 1")
        described = describe_all(smiles, self.card.features, workers=workers, progress=progress)
        table = described.table
        usable = np.flatnonzero([not reason for reason in table.reasons])
        part = table.take(usable)
        graphs = self.card.architecture.trunk == "dmpnn"
        inputs = Inputs(part.counts, part.descriptors, part.smiles if graphs else None)
        near = self.neighbours.nearest(inputs.bits(np.arange(len(inputs)))) if self.neighbours else None
        columns = self._columns(inputs, model, level, near)
        place = {int(row): at for at, row in enumerate(usable)}
        return [
            self._prediction(text, table.smiles[row], table.reasons[row], place.get(row), columns, near)
            for text, row in zip(smiles, map(int, described.row_of), strict=True)
        ]

    def _prediction(
        self,
        text: str,
        standardised: str,
        reason: str,
        at: int | None,
        columns: Mapping[str, list[Value]],
        near: np.ndarray | None,
    ) -> Prediction:
        if at is None:
            return Prediction(text, standardised, {}, None, "", reason)
        similarity = float(near[at]) if near is not None else None
        applicability = ""
        if self.neighbours is not None and similarity is not None:
            applicability = self.neighbours.applicability(similarity)
        assays = {name: column[at] for name, column in columns.items()}
        return Prediction(text, standardised, assays, similarity, applicability, reason)

    def outputs(self, inputs: NDArray[np.float32], foreign: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Model -> labels or logits, float64[n, number of assay endpoints]; `answer.CHOSEN` is what the site predicts.

        Args:
            inputs: rows of network inputs.
            foreign: bool[n], compounds unlike the site's own.
        """
        found = {name: function(inputs) for name, function in self._predictors.items()}
        chosen = [self.card.chosen[endpoint.name] for endpoint in self.card.architecture.endpoints]
        return found | {CHOSEN: answers(found, chosen, foreign)}

    def _columns(
        self, inputs: Inputs, model: str | None, level: float, near: NDArray[np.float64] | None
    ) -> dict[str, list[Value]]:
        """Predictions by assay endpoint, one per row of `inputs`."""
        foreign = np.zeros(len(inputs), bool)
        if self.neighbours is not None and near is not None:
            foreign = self.neighbours.are_foreign(near)
        outputs = self.outputs(inputs.rows(np.arange(len(inputs))), foreign)
        spread = np.std([outputs[name] for name in MEMBERS if name in outputs], axis=0)
        columns = {}
        for place, endpoint in enumerate(self.card.architecture.endpoints):
            output = outputs[model or CHOSEN][:, place]
            calibration = self._calibrations.get(endpoint.name, Calibration()) if model is None else Calibration()
            columns[endpoint.name] = _values(endpoint, output, spread[:, place], calibration, level)
        return columns


def _values(
    endpoint: AssayEndpoint, output: np.ndarray, spread: np.ndarray, calibration: Calibration, level: float
) -> list[Value]:
    if endpoint.kind == "classification":
        sets = class_sets(calibration, output, level)
        probabilities = 1 / (1 + np.exp(-np.clip(output, -500, 500)))
        if sets is None:
            return [Value(float(p)) for p in probabilities]
        return [
            Value(float(p), classes=tuple(map(int, np.flatnonzero(row))))
            for p, row in zip(probabilities, sets, strict=True)
        ]
    native = endpoint.native(output)
    ends = intervals(calibration, output, spread, level)
    if ends is None:
        return [Value(float(value)) for value in native]
    lower, upper = endpoint.native(ends[:, 0]), endpoint.native(ends[:, 1])
    return [Value(float(v), float(a), float(b)) for v, a, b in zip(native, lower, upper, strict=True)]


def load_model(folder: Path) -> Model:
    """Load a model directory, or a directory with the shared trunk alone.

    Raises:
        ConfigError: it is missing, damaged, or this RDKit describes molecules otherwise than the model's.
    """
    if is_trunk(folder):
        return _load_trunk(folder)
    card = read_card(folder)
    _check_features(folder, card)
    parameters = {name: Parameters(*pair) for name, pair in read_parameters(folder, card).items()}
    return Model(card, parameters, read_neighbours(folder, card.features.bits))


def _load_trunk(folder: Path) -> Model:
    """The federated model alone, for the assay endpoints whose heads are shared; it has no intervals."""
    found, trunk = read_trunk(folder)
    shape = found.architecture
    shared = tuple(shape.endpoints[place] for place in shape.shared)
    if not shared:
        raise ConfigError(
            f"{folder}: every head of this federation is private, and a trunk alone predicts nothing; load the model "
            "directory of a site (state/model), which has that site's heads"
        )
    card = Card(
        architecture=dataclasses.replace(shape, endpoints=shared, calibrate=False),
        features=found.features,
        reference_hash=found.reference_hash,
        chosen=dict.fromkeys((endpoint.name for endpoint in shared), "federated"),
        labels={
            "federation": found.federation,
            "charter_id": found.charter_id,
            "state_digest": found.ledger_digest,
            "vector": " ".join(f"{author['name']}:{author['entries']}" for author in found.authors),
        },
        result={},
        digest=found.digest,
    )
    if card.reference_hash:
        _check_features(folder, card)
    return Model(card, {"federated": Parameters(trunk, np.zeros(0, np.float32))})


def _check_features(folder: Path, card: Card) -> None:
    if trunk_reference_hash(card.features, card.architecture.trunk) != card.reference_hash:
        raise ConfigError(
            f"{folder}: this RDKit describes molecules otherwise than the one the model was trained with; "
            "install that version (its reference hash is in card.json)"
        )
