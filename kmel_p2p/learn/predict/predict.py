"""Predicting with a model directory, without network or federation.

model = load_model(Path("state/model"))
for row in model.predict(["CCO", "c1ccccc1"]):
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.structures.described import describe_all, ignore_progress
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.learn.evaluate.comparison import predictors
from kmel_p2p.learn.evaluate.scores import Predict, probability
from kmel_p2p.learn.models.reference import MADE_WITH, installation, trunk_reference_hash
from kmel_p2p.learn.models.registry import trunk_kind
from kmel_p2p.learn.predict.model_directory import Card, read_card, read_parameters
from kmel_p2p.learn.predict.neighbours import Neighbours, read_neighbours
from kmel_p2p.learn.predict.outputs import CHOSEN, FALLBACK, answers, outputs_of
from kmel_p2p.learn.predict.trunk_file import is_trunk, read_trunk
from kmel_p2p.learn.predict.uncertainty import (
    MEMBERS,
    MIN_CALIBRATION,
    Calibration,
    class_sets,
    disagreement,
    intervals,
    needed,
)
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import Inputs

DEFAULT_LEVEL = 0.9
"""Of intervals: one value in ten lies outside."""

NOT_WITHOUT_OWN = ("local", "hybrid")
"""Models that know nothing about an assay endpoint the site has not measured, even if its head is shared."""

BLOCK_VALUES = 1 << 23
"""Inputs computed and predicted at once (some 3,700 compounds), so that large tables take no more memory."""


@dataclass(frozen=True, slots=True)
class Value:
    """Prediction of one assay endpoint.

    Attributes:
        value: in the unit of the assay endpoint; the probability of class 1 for classes.
        lower, upper: ends of the conformal interval in the same unit. None for classes, and if there are too few
            calibration values for the level (`Model.without_intervals` says for which assay endpoints).
        classes: classes that cannot be ruled out, such as (1,) or (0, 1); None for values and without calibration.
        model: name of the model that answered.
    """

    value: float
    lower: float | None = None
    upper: float | None = None
    classes: tuple[int, ...] | None = None
    model: str = ""


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


class Model:
    """A loaded model directory.

    Attributes:
        card: what the model directory contains.
        neighbours: training compounds of this site; None in an exported model.
    """

    def __init__(self, card: Card, parameters: Mapping[str, Parameters], neighbours: Neighbours | None = None) -> None:
        self.card = card
        self.neighbours = neighbours
        self._predictors = predictors(card.architecture, dict(parameters))
        names = [endpoint.name for endpoint in card.architecture.endpoints]
        self._untrained = frozenset(place for place, name in enumerate(names) if name in card.untrained)
        self._calibrations = {name: Calibration.read(raw) for name, raw in card.uncertainty.items()}

    @property
    def predictors(self) -> Mapping[str, Predict]:
        """The four models as functions from inputs to outputs; `outputs.outputs_of` computes several at once."""
        return self._predictors

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """What intervals are computed from, by assay endpoint."""
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
        """One `Prediction` per input, in order, including inputs that cannot be used.

        Args:
            smiles: a list, array or column of SMILES; None and NaN (empty cells of a table) count as empty.
            model: `local`, `federated`, `personalised` or `hybrid` for every assay endpoint. None means the chosen
                ones, and the personalised one for compounds unlike any of this site's (`outputs.answers`); only these
                have intervals.
            level: share of compounds whose true value should lie in the interval, above 0 and below 1.
            workers: processes that prepare structures.
            progress: called with (structures done, total structures).

        Raises:
            TypeError: `smiles` is a single text.
            ConfigError: there is no model of that name, or the level is out of range.
        """
        if isinstance(smiles, str):
            raise TypeError(f"predict takes several SMILES: predict([{smiles!r:.80}]), not predict({smiles!r:.80})")
        if model is not None and model not in self._predictors:
            raise ConfigError(f"there is no model {model!r}; there are: {', '.join(self._predictors)}")
        if not 0 < level < 1:
            raise ConfigError(f"the level is {level}; it must be above 0 and below 1")
        texts = [text if isinstance(text, str) else "" for text in smiles]
        described = describe_all(texts, self.card.features, workers=workers, progress=progress)
        table = described.table
        usable = np.flatnonzero([not reason for reason in table.reasons])
        found: dict[int, tuple[dict[str, Value], float | None]] = {}
        block = max(1, BLOCK_VALUES // self.card.architecture.inputs)
        for start in range(0, len(usable), block):
            rows = usable[start : start + block]
            found |= zip(map(int, rows), self._rows(table.take(rows), model, level), strict=True)
        return [
            self._prediction(text, table.smiles[row], table.reasons[row], found.get(row))
            for text, row in zip(texts, map(int, described.row_of), strict=True)
        ]

    def without_values(self, model: str | None = None) -> dict[str, str]:
        """Assay endpoint -> why it is not predicted, for those that are not.

        Args:
            model: as for `predict`.
        """
        reasons = {}
        for place in self._untrained:
            endpoint = self.card.architecture.endpoints[place]
            if endpoint.name in self.card.unlearned:
                reasons[endpoint.name] = "no site of the federation had measurements to train its shared head on"
            elif endpoint.head == "private":
                reasons[endpoint.name] = "this site had no measurements to train its private head on"
            elif model in NOT_WITHOUT_OWN:
                reasons[endpoint.name] = f"this site had no measurements to train a {model} model on"
        return reasons

    def without_intervals(self, level: float = DEFAULT_LEVEL) -> dict[str, str]:
        """Assay endpoint -> why its predictions have no interval or classes at this level, for those that have none.

        Args:
            level: as for `predict`.
        """
        reasons, silent = {}, self.without_values()
        for endpoint in self.card.architecture.endpoints:
            if endpoint.name in silent:
                continue
            known = self._calibrations.get(endpoint.name, Calibration())
            if not known and endpoint.name in self.card.untrained:
                reasons[endpoint.name] = "this site had no measurements of it to calibrate with"
            elif not known:
                reasons[endpoint.name] = (
                    f"the model's validation fold had fewer than {MIN_CALIBRATION} values"
                    f"{' of each class' if endpoint.kind == 'classification' else ''} to calibrate with"
                )
            elif known.residuals and len(known.residuals) < needed(level):
                reasons[endpoint.name] = (
                    f"a level of {level:g} needs {needed(level)} values to calibrate with, "
                    f"there were {len(known.residuals)}; a lower level has intervals"
                )
        return reasons

    def _rows(
        self, part: StructureTable, model: str | None, level: float
    ) -> Iterator[tuple[dict[str, Value], float | None]]:
        """For each compound, values by assay endpoint, and similarity."""
        molecules = trunk_kind(self.card.architecture.trunk).molecules(part.smiles)
        inputs = Inputs(part.counts, part.descriptors, molecules)
        every = np.arange(len(inputs))
        near, foreign = None, np.zeros(len(inputs), bool)
        if self.neighbours is not None:
            near = self.neighbours.nearest(inputs.bits(every))
            foreign = self.neighbours.are_foreign(near)
        columns = self._columns(inputs.rows(every), foreign, model, level)
        for at in range(len(inputs)):
            values = {name: column[at] for name, column in columns.items()}
            yield values, float(near[at]) if near is not None else None

    def _prediction(
        self, text: str, standardised: str, reason: str, found: tuple[dict[str, Value], float | None] | None
    ) -> Prediction:
        if found is None:
            return Prediction(text, standardised, {}, None, "", reason)
        values, similarity = found
        applicability = ""
        if self.neighbours is not None and similarity is not None:
            applicability = self.neighbours.applicability(similarity)
        return Prediction(text, standardised, values, similarity, applicability, reason)

    @property
    def chosen(self) -> list[str]:
        """Name of the chosen model of each assay endpoint, in the architecture's order."""
        return [self.card.chosen[endpoint.name] for endpoint in self.card.architecture.endpoints]

    def outputs(self, inputs: NDArray[np.float32], foreign: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
        """Model -> labels or logits, float64[n, number of assay endpoints]; `outputs.CHOSEN` is the site's prediction.

        Args:
            inputs: rows of network inputs.
            foreign: bool[n], compounds unlike the site's own.
        """
        found = outputs_of(self._predictors, self._predictors, inputs)
        return found | {CHOSEN: answers(found, self.chosen, foreign, self._untrained)}

    def _needed(self, foreign: NDArray[np.bool_]) -> set[str]:
        """The models needed for predicting with the chosen ones; others are not computed."""
        names = set(self.chosen)
        if foreign.any():
            names.add(FALLBACK)
        if any(calibration.residuals for calibration in self._calibrations.values()):
            names.update(MEMBERS)
        return names & self._predictors.keys()

    def _columns(
        self, inputs: NDArray[np.float32], foreign: NDArray[np.bool_], model: str | None, level: float
    ) -> dict[str, list[Value]]:
        """Predictions by assay endpoint, one per row of `inputs`."""
        missing = self.without_values(model)
        endpoints = {p: e for p, e in enumerate(self.card.architecture.endpoints) if e.name not in missing}
        if model is not None:
            output = outputs_of(self._predictors, [model], inputs)[model]
            return {
                endpoint.name: _values(endpoint, output[:, place], [model] * len(output))
                for place, endpoint in endpoints.items()
            }
        outputs = outputs_of(self._predictors, self._needed(foreign), inputs)
        answer = answers(outputs, self.chosen, foreign, self._untrained)
        spread = disagreement(outputs) if outputs.keys() & set(MEMBERS) else np.zeros_like(answer)
        columns = {}
        for place, endpoint in endpoints.items():
            settled = FALLBACK not in outputs or place in self._untrained
            fallback = self.chosen[place] if settled else FALLBACK
            names = [fallback if far else self.chosen[place] for far in foreign]
            calibration = self._calibrations.get(endpoint.name, Calibration())
            columns[endpoint.name] = _values(endpoint, answer[:, place], names, calibration, spread[:, place], level)
        return columns


def _values(
    endpoint: AssayEndpoint,
    output: NDArray[np.float64],
    names: Sequence[str],
    calibration: Calibration | None = None,
    spread: NDArray[np.float64] | None = None,
    level: float = DEFAULT_LEVEL,
) -> list[Value]:
    """Values with intervals or classes from the calibration; `names` are the models that answered."""
    known = calibration or Calibration()
    if endpoint.kind == "classification":
        sets = class_sets(known, output, level)
        probabilities = probability(output)
        classes = [None] * len(output) if sets is None else [tuple(map(int, np.flatnonzero(row))) for row in sets]
        return [
            Value(float(p), classes=c, model=name) for p, c, name in zip(probabilities, classes, names, strict=True)
        ]
    native = endpoint.native(output)
    ends = intervals(known, output, np.zeros(len(output)) if spread is None else spread, level)
    if ends is None or len(known.residuals) < needed(level):
        return [Value(float(value), model=name) for value, name in zip(native, names, strict=True)]
    lower, upper = endpoint.native(ends[:, 0]), endpoint.native(ends[:, 1])
    return [
        Value(float(v), float(a), float(b), model=name)
        for v, a, b, name in zip(native, lower, upper, names, strict=True)
    ]


def load_model(folder: Path) -> Model:
    """Load a model directory, or a directory with only the shared trunk.

    Raises:
        ConfigError: it is missing or damaged, or features computed here differ from those it was made with.
    """
    if is_trunk(folder):
        return _load_trunk(folder)
    card = read_card(folder)
    _check_features(folder, card)
    parameters = {name: Parameters(*pair) for name, pair in read_parameters(folder, card).items()}
    neighbours = read_neighbours(folder, card.features.bits)
    try:
        return Model(card, parameters, neighbours)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def _load_trunk(folder: Path) -> Model:
    """The federated model alone, for the assay endpoints whose heads are shared; it has no intervals."""
    found, trunk = read_trunk(folder)
    shape = found.architecture
    shared = tuple(shape.endpoints[place] for place in shape.shared)
    if not shared:
        raise ConfigError(
            f"{folder}: all heads of this federation are private, and a trunk alone predicts nothing; load a site's "
            "model directory (state/model), which has that site's heads"
        )
    card = Card(
        architecture=shape.changed(endpoints=shared, calibrate=False),
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
        untrained=found.unlearned,
        unlearned=found.unlearned,
    )
    if card.reference_hash:
        _check_features(folder, card)
    return Model(card, {"federated": Parameters(trunk, np.zeros(0, np.float32))})


def _check_features(folder: Path, card: Card) -> None:
    if trunk_reference_hash(card.features, card.architecture.trunk) != card.reference_hash:
        made_with = card.labels.get(MADE_WITH, f"reference hash {card.reference_hash[:16]}")
        raise ConfigError(
            f"{folder}: this installation ({installation(card.architecture.trunk)}) computes different features than "
            f"the one the model was made with ({made_with}); install that version to predict with this model"
        )
