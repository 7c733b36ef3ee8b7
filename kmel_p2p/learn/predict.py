"""Predicting with a model directory, without network or federation.

model = load_model(Path("state/model"))
for row in model.predict(["CCO", "c1ccccc1"]):
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kmel_p2p.chem.features import reference_hash
from kmel_p2p.chem.structures import describe_all, ignore_progress
from kmel_p2p.core.errors import ConfigError
from kmel_p2p.learn.checkpoint import Parameters
from kmel_p2p.learn.comparison import predictors
from kmel_p2p.learn.dataset import Inputs
from kmel_p2p.learn.model import Card, read_card, read_parameters


@dataclass(frozen=True, slots=True)
class Prediction:
    """One input, in its place.

    Attributes:
        smiles: as given.
        standardised: the structure predicted for; empty where there is none.
        values: assay endpoint -> value in its unit (probability for classes); empty where there is none.
        reason: why there is no prediction; empty where there is one.
    """

    smiles: str
    standardised: str
    values: Mapping[str, float]
    reason: str


class Model:
    """A loaded model directory.

    Attributes:
        card: what it is.
    """

    def __init__(self, card: Card, parameters: Mapping[str, Parameters]) -> None:
        self.card = card
        self._predictors = predictors(card.architecture, dict(parameters))

    def predict(
        self,
        smiles: Sequence[str],
        *,
        model: str | None = None,
        workers: int = 1,
        progress: Callable[[int, int], None] = ignore_progress,
    ) -> list[Prediction]:
        """One `Prediction` per input, in order, also for inputs that cannot be used.

        Args:
            model: `local`, `federated`, `personalised` or `hybrid` for every assay endpoint; None for the chosen ones.
            workers: processes that prepare structures.
            progress: called with (structures done, structures in all).

        Raises:
            ConfigError: there is no model of that name.
        """
        if model is not None and model not in self._predictors:
            raise ConfigError(f"there is no model {model!r}; there are: {', '.join(self._predictors)}")
        described = describe_all(smiles, self.card.features, workers=workers, progress=progress)
        table = described.table
        usable = np.flatnonzero([not reason for reason in table.reasons])
        part = table.take(usable)
        values = self._values(Inputs(part.counts, part.descriptors), model)
        place = {int(row): at for at, row in enumerate(usable)}
        names = [endpoint.name for endpoint in self.card.architecture.endpoints]
        return [
            Prediction(
                text,
                table.smiles[row],
                dict(zip(names, map(float, values[place[row]]), strict=True)) if row in place else {},
                table.reasons[row],
            )
            for text, row in zip(smiles, map(int, described.row_of), strict=True)
        ]

    def _values(self, inputs: Inputs, model: str | None) -> np.ndarray:
        """float64[n, E] in the units of the assay endpoints."""
        endpoints = self.card.architecture.endpoints
        chosen = [model or self.card.chosen[endpoint.name] for endpoint in endpoints]
        rows = inputs.rows(np.arange(len(inputs)))
        outputs = {name: self._predictors[name](rows) for name in set(chosen)}
        values = np.empty((len(inputs), len(endpoints)))
        for place, (endpoint, name) in enumerate(zip(endpoints, chosen, strict=True)):
            column = outputs[name][:, place]
            if endpoint.kind == "classification":
                values[:, place] = 1 / (1 + np.exp(-np.clip(column, -500, 500)))
            else:
                values[:, place] = endpoint.native(column)
        return values


def load_model(folder: Path) -> Model:
    """Load a model directory.

    Raises:
        ConfigError: it is missing, damaged, or this RDKit describes molecules otherwise than the model's.
    """
    card = read_card(folder)
    if reference_hash(card.features) != card.reference_hash:
        raise ConfigError(
            f"{folder}: this RDKit describes molecules otherwise than the one the model was trained with; "
            "install that version (its reference hash is in card.json)"
        )
    parameters = {name: Parameters(*pair) for name, pair in read_parameters(folder, card).items()}
    return Model(card, parameters)
