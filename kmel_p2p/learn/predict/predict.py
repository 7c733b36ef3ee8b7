"""Predicting with a model directory, without network or federation.

model = load_model(Path("state/model"))
for row in model.predict(["CCO", "c1ccccc1"]):
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.structures.described import describe_all, ignore_progress
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.learn.evaluate.comparison import predictors
from kmel_p2p.learn.evaluate.scores import Predict
from kmel_p2p.learn.models.reference import MADE_WITH, installation, trunk_reference_hash
from kmel_p2p.learn.models.registry import trunk_kind
from kmel_p2p.learn.predict.answering import Answering, ByNetworks, ByStack, Similarity, parts_of
from kmel_p2p.learn.predict.explain import Explanation, explain
from kmel_p2p.learn.predict.model_directory import Card, read_card, read_parameters
from kmel_p2p.learn.predict.neighbours import Neighbours, read_neighbours
from kmel_p2p.learn.predict.outputs import outputs_of
from kmel_p2p.learn.predict.shift import Shift, shift
from kmel_p2p.learn.predict.stack_file import StoredStack, read_stack
from kmel_p2p.learn.predict.trunk_file import is_trunk, read_trunk
from kmel_p2p.learn.predict.uncertainty import MIN_CALIBRATION, MIN_OF_CLASS, Calibration, needed
from kmel_p2p.learn.predict.values import DEFAULT_LEVEL, Prediction, Value, values_of
from kmel_p2p.learn.stack.sides import BEST_LOCAL, SIDES
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import Inputs

NOT_WITHOUT_OWN = ("local", "hybrid", BEST_LOCAL)
"""Models that know nothing about an assay endpoint the site has not measured, even if its head is shared."""

BLOCK_VALUES = 1 << 23
"""Inputs computed and predicted at once (some 3,700 compounds), so that large tables take no more memory."""


class Model:
    """A loaded model directory.

    Attributes:
        card: what the model directory contains.
        neighbours: training compounds of this site; None in an exported model.
        stack: the learners of this site; None in an exported model.
        answering: what predicts: the site's stack, or the networks where there is none.
    """

    def __init__(
        self,
        card: Card,
        parameters: Mapping[str, Parameters],
        neighbours: Neighbours | None = None,
        stack: StoredStack | None = None,
    ) -> None:
        self.card = card
        self.neighbours = neighbours
        self.stack = None if stack is None else stack.stack
        self._predictors = predictors(card.architecture, dict(parameters))
        names = [endpoint.name for endpoint in card.architecture.endpoints]
        self._untrained = frozenset(place for place, name in enumerate(names) if name in card.untrained)
        self.answering: Answering
        if stack is not None:
            self.answering = ByStack(stack, self._untrained, neighbours)
        else:
            known = {name: Calibration.read(raw) for name, raw in card.uncertainty.items()}
            chosen = [card.chosen[name] for name in names]
            self.answering = ByNetworks(self._predictors, chosen, self._untrained, known, neighbours)

    @property
    def predictors(self) -> Mapping[str, Predict]:
        """The four models as functions from inputs to outputs; `outputs.outputs_of` computes several at once."""
        return self._predictors

    @property
    def names(self) -> list[str]:
        """All models that may be asked for."""
        return [*self._predictors, *self.answering.models]

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
            model: one of `names` for every assay endpoint: `local`, `federated`, `personalised` or `hybrid`, and with a
                stack `best_local`, `stack` or `foreign`. None means what the site predicts with (`answering`); only
                that has intervals.
            level: share of compounds whose true value should lie in the interval, above 0 and below 1.
            workers: processes that prepare structures.
            progress: called with (structures done, total structures).

        Raises:
            TypeError: `smiles` is a single text.
            ConfigError: there is no model of that name, or the level is out of range.
        """
        if isinstance(smiles, str):
            raise TypeError(f"predict takes several SMILES: predict([{smiles!r:.80}]), not predict({smiles!r:.80})")
        if model is not None and model not in self.names:
            raise ConfigError(
                f"there is no model {model!r}; there are: {', '.join(self.names)}"
                + ("" if model not in SIDES else ". An exported model has no learners: predict at the site")
            )
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

    def explain(self, smiles: str, *, model: str | None = None, level: float = DEFAULT_LEVEL) -> Explanation:
        """Why one compound is predicted as it is: nearest own compounds with measured values, and atom contributions.

        Args:
            model, level: as for `predict`.

        Raises:
            ConfigError: as `predict`.
        """
        return explain(self, self.predict([smiles], model=model, level=level), model)[0]

    def shift(self, predictions: Sequence[Prediction]) -> Shift | None:
        """What to warn of if these compounds, together, differ from those that intervals were calibrated on."""
        known = [row.similarity for row in {row.standardised: row for row in predictions}.values()]
        batch = np.array([similarity for similarity in known if similarity is not None])
        return None if self.neighbours is None else shift(batch, self.neighbours.held_out)

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
            both = self.answering.calibration(endpoint.name)
            known = min(both.own, both.unusual, key=lambda calibration: calibration.values)
            classes = endpoint.kind == "classification"
            if not known and endpoint.name in self.card.untrained:
                reasons[endpoint.name] = "this site had no measurements of it to calibrate with"
            elif not known:
                reasons[endpoint.name] = (
                    f"the model's validation fold had fewer than {MIN_OF_CLASS if classes else MIN_CALIBRATION} values"
                    f"{' of each class' if classes else ''} to calibrate with"
                )
            elif known.values < needed(level):
                # Those like the site's own may have enough.
                some = "for compounds less like this site's own, " if both.own.values >= needed(level) else ""
                reasons[endpoint.name] = (
                    f"{some}a level of {level:g} needs {needed(level)} values{' of each class' if classes else ''} to "
                    f"calibrate with, there were {known.values}; a lower level has "
                    f"{'sets of classes' if classes else 'intervals'}"
                )
        return reasons

    def _rows(
        self, part: StructureTable, model: str | None, level: float
    ) -> Iterator[tuple[dict[str, Value], float | None]]:
        """For each compound, values by assay endpoint, and similarity."""
        molecules = trunk_kind(self.card.architecture.trunk).molecules(part.smiles)
        inputs = Inputs(part.counts, part.descriptors, molecules)
        every = np.arange(len(inputs))
        near = None if self.neighbours is None else self.neighbours.nearest(inputs.bits(every))
        columns = self._columns(inputs.rows(every), near, model, level)
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
    def chosen(self) -> dict[str, str]:
        """Assay endpoint -> the model that answers for compounds like the site's own."""
        names = (name for name, _ in self.answering.names)
        return {endpoint.name: name for endpoint, name in zip(self.card.architecture.endpoints, names, strict=True)}

    def outputs(self, inputs: NDArray[np.float32], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        """Model -> labels or logits, float64[n, number of assay endpoints], of the models called `names`.

        Args:
            inputs: rows of network inputs.
        """
        found = outputs_of(self._predictors, [name for name in names if name in self._predictors], inputs)
        if set(names) <= found.keys():
            return found
        return found | {name: output for name, output in self.answering.outputs(inputs).items() if name in names}

    def _columns(
        self, inputs: NDArray[np.float32], near: Similarity, model: str | None, level: float
    ) -> dict[str, list[Value]]:
        """Predictions by assay endpoint, one per row of `inputs`."""
        missing = self.without_values(model)
        endpoints = {p: e for p, e in enumerate(self.card.architecture.endpoints) if e.name not in missing}
        if model is not None:
            output = self.outputs(inputs, [model])[model]
            return {
                endpoint.name: values_of(endpoint, output[:, place], [model] * len(output))
                for place, endpoint in endpoints.items()
            }
        answer = self.answering.answer(inputs, near)
        columns = {}
        for place, endpoint in endpoints.items():
            names = [self.answering.names[place][int(far)] for far in answer.far]
            parts = parts_of(self.answering.calibration(endpoint.name), answer.far)
            columns[endpoint.name] = values_of(
                endpoint, answer.output[:, place], names, parts, answer.spread[:, place], level
            )
        return columns


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
    neighbours = read_neighbours(folder, card.features.bits, len(card.architecture.endpoints))
    stack = read_stack(folder, card, parameters)
    try:
        return Model(card, parameters, neighbours, stack)
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
