"""Predicting with a model directory, without network or federation.

model = load_model(Path("state/model"))
model.predict(["CCO", "c1ccccc1"])                  # a DataFrame
for row in model.predictions(["CCO", "c1ccccc1"]):  # the same as objects
    ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.structures.described import Described, Progress, describe_blocks, ignore_progress
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.learn.evaluate.comparison import predictors
from kmel_p2p.learn.evaluate.scores import Predict
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.reference import MADE_WITH, installation, trunk_reference_hash
from kmel_p2p.learn.predict.answering import Answering, ByNetworks, ByStack, Similarity, parts_of
from kmel_p2p.learn.predict.explain import Explanation, explain
from kmel_p2p.learn.predict.frame import frame_of
from kmel_p2p.learn.predict.model_directory import Card, read_card, read_parameters
from kmel_p2p.learn.predict.neighbours import Neighbours, read_neighbours
from kmel_p2p.learn.predict.outputs import outputs_of
from kmel_p2p.learn.predict.shift import Batch, Shift
from kmel_p2p.learn.predict.silent import without_intervals, without_values
from kmel_p2p.learn.predict.stack_file import StoredStack, read_stack
from kmel_p2p.learn.predict.trunk_file import is_trunk, read_trunk
from kmel_p2p.learn.predict.uncertainty import Calibration
from kmel_p2p.learn.predict.values import DEFAULT_LEVEL, Prediction, Value, values_of
from kmel_p2p.learn.stack.sides import BEST_LOCAL, SIDES
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import Inputs

if TYPE_CHECKING:
    import pandas as pd
    from rdkit import Chem

    Compounds: TypeAlias = str | Chem.Mol | Iterable[str | Chem.Mol | None] | pd.DataFrame | os.PathLike[str]

BLOCK = 4096
"""Compounds described, predicted and written at once: some 40 seconds of one core."""

BLOCK_VALUES = 1 << 23
"""Inputs computed at once (some 3,700 compounds), so that wide ones take no more memory."""


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
    def reads(self) -> Architecture:
        """The model whose rows of inputs predict (`Dataset.read_by`)."""
        return self.card.architecture if self.stack is None else self.stack.reads

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
        compounds: Compounds,
        *,
        smiles_column: str = "smiles",
        model: str | None = None,
        level: float = DEFAULT_LEVEL,
        workers: int = 1,
        progress: Progress = ignore_progress,
    ) -> pd.DataFrame:
        """What was given, with the columns that `kmel-peer predict` adds; a row for every compound, in order.

        Args:
            compounds: one SMILES or RDKit molecule, several of them, a DataFrame, or the path of a file that
                `kmel-peer predict` reads. The answer has the columns, the order and the index of a table; other
                compounds are in its column `smiles`.
            smiles_column: of a DataFrame or file; it may also hold RDKit molecules.
            model, level, workers, progress: as for `predictions`.

        Raises:
            TypeError: `compounds` is nothing of the kind.
            ConfigError: as `predictions`.
            DataError: there is no such column, a column has the name of one to be added, or a file cannot be read.
        """

        def predict(smiles: Sequence[str]) -> list[Prediction]:
            return self.predictions(smiles, model=model, level=level, workers=workers, progress=progress)

        return frame_of(compounds, smiles_column, self.card, predict)

    def predictions(
        self,
        smiles: Sequence[str],
        *,
        model: str | None = None,
        level: float = DEFAULT_LEVEL,
        workers: int = 1,
        progress: Progress = ignore_progress,
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
            raise TypeError(f"predictions takes several SMILES: predictions([{smiles!r:.80}])")
        texts = [text if isinstance(text, str) else "" for text in smiles]
        blocks = [texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK)]
        done = 0

        def count(finished: int) -> None:
            nonlocal done
            done += finished
            progress(done, len(texts))

        found: list[Prediction] = []
        for part in self.predict_blocks(blocks, model=model, level=level, workers=workers, done=count):
            found += part
            done = len(found)
            progress(done, len(texts))
        return found

    def predict_blocks(
        self,
        blocks: Iterable[Sequence[str]],
        *,
        model: str | None = None,
        level: float = DEFAULT_LEVEL,
        workers: int = 1,
        isolated: bool = False,
        done: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Prediction]]:
        """The same for any number of compounds, block by block, in memory that does not grow with them.

        Args:
            blocks: of SMILES, some thousands each; taken as they are needed.
            model, level, workers: as for `predictions`.
            isolated: prepare structures in other processes alone: one on which RDKit crashes costs its row alone.
            done: told how many structures were finished, from time to time; equal ones in a block count once.

        Raises:
            ConfigError: as `predictions`, at once.
        """
        if model is not None and model not in self.names:
            raise ConfigError(
                f"there is no model {model!r}; there are: {', '.join(self.names)}"
                + ("" if model not in SIDES else ". An exported model has no learners: predict at the site")
            )
        if not 0 < level < 1:
            raise ConfigError(f"the level is {level}; it must be above 0 and below 1")
        described = describe_blocks(blocks, self.card.features, workers=workers, isolated=isolated, done=done)
        return (self._block(block, model, level) for block in described)

    def _block(self, described: Described, model: str | None, level: float) -> list[Prediction]:
        table = described.table
        usable = np.flatnonzero([not reason for reason in table.reasons])
        found: dict[int, tuple[dict[str, Value], float | None]] = {}
        step = max(1, BLOCK_VALUES // self.card.architecture.inputs)
        for start in range(0, len(usable), step):
            rows = usable[start : start + step]
            found |= zip(map(int, rows), self._rows(table.take(rows), model, level), strict=True)
        return [
            self._prediction(table.sources[row], table.smiles[row], table.reasons[row], found.get(row))
            for row in map(int, described.row_of)
        ]

    def explain(self, smiles: str, *, model: str | None = None, level: float = DEFAULT_LEVEL) -> Explanation:
        """Why one compound is predicted as it is: nearest own compounds with measured values, and atom contributions.

        Args:
            model, level: as for `predictions`.

        Raises:
            ConfigError: as `predictions`.
        """
        return explain(self, self.predictions([smiles], model=model, level=level), model)[0]

    def shift(self, predictions: Sequence[Prediction]) -> Shift | None:
        """What to warn of if these compounds, together, differ from those that intervals were calibrated on."""
        return self.batch([predictions]).shift()

    def batch(self, blocks: Iterable[Sequence[Prediction]] = ()) -> Batch:
        """The same for any number of compounds; equal ones in a block count once."""
        batch = Batch(np.empty(0) if self.neighbours is None else np.sort(self.neighbours.held_out))
        for block in blocks:
            known = [row.similarity for row in {row.standardised: row for row in block}.values()]
            batch.add(np.array([similarity for similarity in known if similarity is not None], np.float64))
        return batch

    def without_values(self, model: str | None = None) -> dict[str, str]:
        """Assay endpoint -> why it is not predicted, for those that are not.

        Args:
            model: as for `predictions`.
        """
        return without_values(self.card, model)

    def without_intervals(self, level: float = DEFAULT_LEVEL) -> dict[str, str]:
        """Assay endpoint -> why its predictions have no interval or classes at this level, for those that have none.

        Args:
            level: as for `predictions`.
        """
        return without_intervals(self.card, self.answering, level)

    def _rows(
        self, part: StructureTable, model: str | None, level: float
    ) -> Iterator[tuple[dict[str, Value], float | None]]:
        """For each compound, values by assay endpoint, and similarity."""
        inputs = Inputs(part.counts, part.descriptors).read_by(self.reads, part.smiles)
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
        alone = answer.outputs.get(BEST_LOCAL)
        columns = {}
        for place, endpoint in endpoints.items():
            names = [self.answering.names[place][int(far)] for far in answer.far]
            parts = parts_of(self.answering.calibration(endpoint.name), answer.far)
            # Best local knows nothing of an assay endpoint that this site has not measured.
            best_local = None if alone is None or place in self._untrained else alone[:, place]
            columns[endpoint.name] = values_of(
                endpoint, answer.output[:, place], names, parts, answer.spread[:, place], level, best_local,
                answer.judged[:, place],
            )  # fmt: skip
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
    if trunk_reference_hash(card.features, card.architecture) != card.reference_hash:
        made_with = card.labels.get(MADE_WITH, f"reference hash {card.reference_hash[:16]}")
        raise ConfigError(
            f"{folder}: this installation ({installation(card.architecture)}) computes different features than "
            f"the one the model was made with ({made_with}); install that version to predict with this model"
        )
