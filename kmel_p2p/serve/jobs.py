"""What the process of the models computes. Answers are plain values and text, so that the server loads no torch."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.chem.read.structure_file import InputForm, StructureFile, name_place
from kmel_p2p.chem.read.table_file import InputFile
from kmel_p2p.learn.predict.columns import csv_head, csv_rows, require_room
from kmel_p2p.learn.predict.explain import Explanation, explain
from kmel_p2p.learn.predict.explanation_view import compound_view
from kmel_p2p.learn.predict.predict import Model, load_model
from kmel_p2p.learn.predict.values import Prediction, Value
from kmel_p2p.web.templates import page

MAX_ROWS = 20_000
"""Of an uploaded table; a minute or two. `kmel-peer predict` has no limit."""

MAX_CHARACTERS = 2000
"""Of one SMILES; what is longer is refused before RDKit sees it."""

MAX_UNPACKED_BYTES = 200 << 20
"""Of an uploaded workbook, which is a compressed archive: a small one can unpack to anything."""

TOO_LONG = f"longer than {MAX_CHARACTERS:,} characters"


class ModelJobs:
    """The models of a directory. Every public method is a job.

    Attributes:
        model: the models.

    Args:
        folder: model directory.

    Raises:
        ConfigError: as `load_model`.
    """

    def __init__(self, folder: Path) -> None:
        self.model: Model = load_model(folder)
        self._endpoints = self.model.card.architecture.endpoints

    def about(self) -> dict[str, Any]:
        """What the models are, as `api.About` has it."""
        card = self.model.card
        missing, without = self.model.without_values(), self.model.without_intervals()
        return {
            "labels": dict(card.labels),
            "digest": card.digest,
            "assay_endpoints": [
                {
                    "name": endpoint.name,
                    "kind": endpoint.kind,
                    "unit": endpoint.unit,
                    "no_values": missing.get(endpoint.name, ""),
                    "no_intervals": without.get(endpoint.name, ""),
                }
                for endpoint in self._endpoints
            ],
            "knows_own_compounds": self.model.neighbours is not None,
            "recorded": False,
        }

    def predict(self, smiles: Sequence[str], level: float) -> list[dict[str, Any]]:
        """Values of each structure, as `api.Predicted` has them."""
        return [_plain(prediction) for prediction in self.predictions(smiles, level)]

    def explain(self, smiles: Sequence[str], level: float) -> list[dict[str, Any]]:
        """Values and why, as `api.Explained` has them."""
        return [_explained(made) for made in explain(self.model, self.predictions(smiles, level))]

    def cards(self, smiles: Sequence[str], names: Sequence[str], level: float, first: int) -> str:
        """Values and why as HTML, one section per structure.

        Args:
            names: of the structures, empty where they have none.
            first: number of the first of them.
        """
        made = explain(self.model, self.predictions(smiles, level))
        compounds = [compound_view(one, self._endpoints, name) for one, name in zip(made, names, strict=True)]
        return page("kmel_p2p.serve", "results.html", {"compounds": compounds, "first": first})

    def table_shape(self, path: Path, smiles_column: str) -> dict[str, Any]:
        """How many rows an uploaded table has, and the head of the table with predictions as CSV.

        Raises:
            DataError: it cannot be read, has too many rows, or has a column of that name already.
        """
        file = _open(path, smiles_column)
        if file.count > MAX_ROWS:
            raise DataError(f"{path.name}: has {file.count:,} rows; {MAX_ROWS:,} at most, kmel-peer predict takes more")
        require_room(file.header, self.model.card)
        return {"rows": file.count, "head": csv_head(file.header, self.model.card)}

    def table_rows(self, path: Path, smiles_column: str, start: int, size: int, level: float) -> str:
        """Rows of an uploaded table with their predictions, as CSV."""
        file = _open(path, smiles_column)
        parts = []
        for block in file.blocks(start, start + size, size):
            predictions = self.predictions([row[file.smiles_at] for row in block.rows], level)
            parts.append(csv_rows(block.rows, predictions, self.model.card, block.refused))
        return "".join(parts)

    def table_start(self, path: Path, smiles_column: str, most: int) -> dict[str, Any]:
        """The first structures of an uploaded table with their names, and how many rows there are.

        Raises:
            DataError: it cannot be read.
        """
        file = _open(path, smiles_column)
        rows = [row for block in file.blocks(0, most, most) for row in block.rows]
        named = name_place(file.header)
        return {
            "rows": file.count,
            "smiles": [row[file.smiles_at] for row in rows],
            "names": ["" if named is None else row[named].strip() for row in rows],
        }

    def predictions(self, smiles: Sequence[str], level: float) -> list[Prediction]:
        """One for each structure; every other job asks here."""
        short = [text if len(text) <= MAX_CHARACTERS else "" for text in smiles]
        found = self.model.predictions(short, level=level)
        return [
            prediction if len(text) <= MAX_CHARACTERS else Prediction(text[:80], "", {}, None, "", TOO_LONG)
            for text, prediction in zip(smiles, found, strict=True)
        ]


def _plain(prediction: Prediction) -> dict[str, Any]:
    return {
        "smiles": prediction.smiles,
        "standardised": prediction.standardised,
        "predictions": {name: _value(value) for name, value in prediction.assays.items()},
        "similarity": prediction.similarity,
        "applicability": prediction.applicability,
        "reason": prediction.reason,
    }


def _value(value: Value) -> dict[str, Any]:
    return {
        "value": value.value,
        "lower": value.lower,
        "upper": value.upper,
        "classes": None if value.classes is None else list(value.classes),
        "model": value.model,
    }


def _explained(made: Explanation) -> dict[str, Any]:
    return {
        **_plain(made.prediction),
        "assays": {
            name: {
                "contributions": list(assay.contributions),
                "contribution_unit": assay.unit,
                "neighbours": [
                    {
                        "smiles": neighbour.smiles,
                        "similarity": neighbour.similarity,
                        "measured": neighbour.measured.value,
                        "relation": neighbour.measured.relation,
                    }
                    for neighbour in assay.neighbours
                ],
            }
            for name, assay in made.assays.items()
        },
        "notes": list(made.notes),
    }


def _open(path: Path, smiles_column: str) -> StructureFile:
    _require_small(path)
    try:
        return StructureFile(InputFile(path), InputForm(smiles_column=smiles_column))
    except (ConfigError, DataError) as error:
        # Where it was put is nobody's business; and there are no options here to name.
        text = str(error).replace(f"{path.parent}/", "").replace("Use --smiles-column to name it", "Name it above")
        raise DataError(text) from None


def _require_small(path: Path) -> None:
    """Raises:
    DataError: an archive would unpack to more than `MAX_UNPACKED_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        return  # no archive: the reader says what is wrong with it
    if unpacked > MAX_UNPACKED_BYTES:
        raise DataError(f"{path.name}: unpacks to {unpacked >> 20} MiB; save what is needed as CSV")
