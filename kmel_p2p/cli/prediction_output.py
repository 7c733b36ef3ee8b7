"""Writes predictions next to the rows of the input: as CSV with more columns, or as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.shown import cell

if TYPE_CHECKING:
    from kmel_p2p.agreement.endpoint import AssayEndpoint
    from kmel_p2p.cli.structure_input import Table
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.values import Prediction, Value


def require_room(table: Table, loaded: Model, as_json: bool) -> None:
    """Check that the predictions would overwrite nothing of the input.

    Raises:
        DataError: names the column in the way.
    """
    for name in added_columns(loaded) if not as_json else ():
        if name in table.header:
            raise DataError(
                f"the input has the column {name!r} already, perhaps from an earlier prediction; rename or remove it"
            )
    repeated = [name for name in table.header if table.header.count(name) > 1] if as_json else []
    if repeated:
        raise DataError(f"the input has the column {repeated[0]!r} more than once; rename one, or write CSV")


def added_columns(loaded: Model) -> list[str]:
    """Names of the columns that predictions add to a CSV table."""
    names = [name for endpoint in loaded.card.architecture.endpoints for name in _names(endpoint)]
    return [*names, "kmel_standardised", "kmel_similarity", "kmel_applicability", "kmel_model", "kmel_reason"]


def as_csv(table: Table, predictions: Sequence[Prediction], loaded: Model) -> str:
    """The table with columns per assay endpoint, then structure, similarity, applicability, model and reason."""
    endpoints = loaded.card.architecture.endpoints
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(cell, [*table.header, *added_columns(loaded)]))
    for at, (row, prediction) in enumerate(zip(table.rows, predictions, strict=True)):
        cells = [cell for endpoint in endpoints for cell in _cells(endpoint, prediction.assays.get(endpoint.name))]
        similarity = "" if prediction.similarity is None else f"{prediction.similarity:.3f}"
        facts = (
            prediction.standardised,
            similarity,
            prediction.applicability,
            _made_by(prediction, loaded),
            _reason(table, at, prediction),
        )
        writer.writerow(map(cell, [*row, *cells, *facts]))
    return out.getvalue()


def as_json_text(
    table: Table, predictions: Sequence[Prediction], loaded: Model, model: str | None, level: float
) -> str:
    """The model used, and for each row everything that is known about it."""
    card = loaded.card
    unknown, missing = loaded.without_values(model), loaded.without_intervals(level)
    warning = loaded.shift(predictions) if model is None else None
    document = {
        "digest": card.digest,
        "labels": dict(card.labels),
        "level": level if model is None else None,
        "warning": str(warning) if warning is not None else "",
        "assay_endpoints": [
            {
                "name": e.name,
                "kind": e.kind,
                "unit": e.unit,
                "model": model or loaded.chosen[e.name],
                "no_values": unknown.get(e.name, ""),
                "no_intervals": "asked for one model" if model is not None else missing.get(e.name, ""),
            }
            for e in card.architecture.endpoints
        ],
        "rows": [
            {
                "input": dict(zip(table.header, row, strict=True)),
                "smiles": prediction.smiles,
                "standardised": prediction.standardised,
                "predictions": {name: _plain(value) for name, value in prediction.assays.items()},
                "similarity": prediction.similarity,
                "applicability": prediction.applicability,
                "reason": _reason(table, at, prediction),
            }
            for at, (row, prediction) in enumerate(zip(table.rows, predictions, strict=True))
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Value) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value.value, "model": value.model}
    if value.lower is not None:
        found |= {"lower": value.lower, "upper": value.upper}
    if value.classes is not None:
        found["classes"] = list(value.classes)
    return found


def _made_by(prediction: Prediction, loaded: Model) -> str:
    """The models that predicted this compound, in the order of assay endpoints, and the digest; empty if none did."""
    names = "/".join(dict.fromkeys(value.model for value in prediction.assays.values()))
    return f"{names}@{loaded.card.digest[:16]}" if names else ""


def _reason(table: Table, at: int, prediction: Prediction) -> str:
    return table.refused.get(at, "") or prediction.reason


def _names(endpoint: AssayEndpoint) -> list[str]:
    name = f"kmel_{endpoint.name}"
    if endpoint.kind == "classification":
        return [name, f"{name}_classes"]
    return [name + (f" [{endpoint.unit}]" if endpoint.unit else ""), f"{name}_lower", f"{name}_upper"]


def _cells(endpoint: AssayEndpoint, value: Value | None) -> list[str]:
    """Empty where nothing is known; `none` where no class resembles what was seen."""
    if value is None:
        return [""] * len(_names(endpoint))
    if endpoint.kind == "classification":
        classes = "" if value.classes is None else " ".join(map(str, value.classes)) or "none"
        return [f"{value.value:.6g}", classes]
    ends = ["" if end is None else f"{end:.6g}" for end in (value.lower, value.upper)]
    return [f"{value.value:.6g}", *ends]
