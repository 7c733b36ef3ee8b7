"""Predictions as columns: the same names and contents in CSV, Parquet and a DataFrame."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.shown import cell
from kmel_p2p.learn.predict.model_directory import Card
from kmel_p2p.learn.predict.values import Prediction, Value

Column: TypeAlias = list[str] | list[float | None]
"""Texts, empty where there is nothing to say, or numbers."""

FACTS = ("kmel_standardised", "kmel_similarity", "kmel_applicability", "kmel_model", "kmel_reason")
"""Columns after those of the assay endpoints."""


def names_of(endpoint: AssayEndpoint) -> list[str]:
    """The columns of an assay endpoint."""
    name = f"kmel_{endpoint.name}"
    if endpoint.kind == "classification":
        return [name, f"{name}_classes"]
    return [name + (f" [{endpoint.unit}]" if endpoint.unit else ""), f"{name}_lower", f"{name}_upper"]


def added_columns(card: Card) -> dict[str, type]:
    """Name -> `float` or `str` of the columns that predictions add to a table, in order."""
    found: dict[str, type] = {}
    for endpoint in card.architecture.endpoints:
        found |= dict.fromkeys(names_of(endpoint), float)
        if endpoint.kind == "classification":
            found[names_of(endpoint)[1]] = str
    return found | dict.fromkeys(FACTS, str) | {"kmel_similarity": float}


def require_room(header: Sequence[str], card: Card) -> None:
    """Check that predictions would overwrite nothing of a table.

    Raises:
        DataError: names the column in the way.
    """
    for name in added_columns(card):
        if name in header:
            raise DataError(
                f"the input has the column {name!r} already, perhaps from an earlier prediction; rename or remove it"
            )


def columns_of(predictions: Sequence[Prediction], card: Card, refused: Mapping[int, str]) -> dict[str, Column]:
    """The columns of `added_columns`, a row for each prediction.

    Args:
        refused: row -> why its structure could not be read, where the input knows better than the prediction.
    """
    found: dict[str, Column] = {}
    for endpoint in card.architecture.endpoints:
        values = [prediction.assays.get(endpoint.name) for prediction in predictions]
        name, *others = names_of(endpoint)
        found[name] = [None if value is None else value.value for value in values]
        if endpoint.kind == "classification":
            found[others[0]] = [_classes(value) for value in values]
        else:
            found[others[0]] = [None if value is None else value.lower for value in values]
            found[others[1]] = [None if value is None else value.upper for value in values]
    facts: list[Column] = [
        [prediction.standardised for prediction in predictions],
        [prediction.similarity for prediction in predictions],
        [prediction.applicability for prediction in predictions],
        [_made_by(prediction, card) for prediction in predictions],
        [reason_of(at, prediction, refused) for at, prediction in enumerate(predictions)],
    ]
    return found | dict(zip(FACTS, facts, strict=True))


def reason_of(at: int, prediction: Prediction, refused: Mapping[int, str]) -> str:
    """Why a row has no prediction; empty if it has one. `refused`: as for `columns_of`."""
    return refused.get(at, "") or prediction.reason


def csv_rows(
    rows: Sequence[Sequence[str]], predictions: Sequence[Prediction], card: Card, refused: Mapping[int, str]
) -> str:
    """Rows of a table and their predictions as CSV. `refused`: as for `columns_of`."""
    columns = columns_of(predictions, card, refused)
    written = [[cell_text(name, value) for value in column] for name, column in columns.items()]
    return csv_text([*row, *more] for row, *more in zip(rows, *written, strict=True))


def csv_head(header: Sequence[str], card: Card) -> str:
    """The first line above `csv_rows`."""
    return csv_text([[*header, *added_columns(card)]])


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows as CSV, with nothing in them that a spreadsheet would execute."""
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(map(cell, row) for row in rows)
    return out.getvalue()


def _classes(value: Value | None) -> str:
    """Empty where nothing is known; `none` where no class resembles what was seen."""
    if value is None or value.classes is None:
        return ""
    return " ".join(map(str, value.classes)) or "none"


def _made_by(prediction: Prediction, card: Card) -> str:
    """The models that predicted this compound, in the order of assay endpoints, and the digest; empty if none did."""
    names = "/".join(dict.fromkeys(value.model for value in prediction.assays.values()))
    return f"{names}@{card.digest[:16]}" if names else ""


def cell_text(name: str, value: str | float | None) -> str:
    """A cell of a column as CSV has it."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.3f}" if name == "kmel_similarity" else f"{value:.6g}"
