"""What MELLODDY-TUNER's T0 says about assays: thresholds that make classes of their numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kmel_p2p.agreement.columns import Source
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.read.cells import CellError, is_missing, read_class, read_number
from kmel_p2p.chem.read.records import Mapped, table_rows

THRESHOLDS = tuple(f"expert_threshold_{number}" for number in range(1, 6))


def with_expert_thresholds(source: Source, mapped: Sequence[Mapped]) -> tuple[Mapped, ...]:
    """The mapping, completed from T0: a class without a threshold of its own takes T0's.

    `Column.expert_threshold` says which of the five; `direction` says which side is class 1 (`low`: below; `high` or
    empty: above, as TUNER takes it). Assays that T0 calls binary hold classes already.

    Raises:
        ConfigError: T0 has no such threshold, or what it holds is no number or direction; names file, assay and column.
    """
    if source.assays is None:
        return tuple(mapped)
    header, rows = table_rows(source.assays, source)
    if "input_assay_id" not in header:
        raise ConfigError(f"{source.assays}: no column 'input_assay_id'; is it MELLODDY-TUNER's T0?")
    assays = {}
    for _, cells in rows:
        row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        assays[row["input_assay_id"]] = row
    return tuple(
        _completed(rule, assays.get(rule.column.column), str(source.assays), source.decimal) for rule in mapped
    )


def _completed(rule: Mapped, assay: dict[str, str] | None, file: str, decimal: str) -> Mapped:
    column = rule.column
    if rule.endpoint.kind != "classification" or column.threshold is not None or assay is None:
        return rule
    where = f"{file}: assay {column.column!r}"
    try:
        if not is_missing(binary := assay.get("is_binary", "")) and read_class(binary).value:
            return rule
    except CellError as error:
        raise ConfigError(f"{where}: is_binary is {binary!r}: {error}") from None
    name = THRESHOLDS[column.expert_threshold - 1]
    text = assay.get(name, "")
    if is_missing(text):
        raise ConfigError(
            f"{where}: {name} is empty; set data.columns.{rule.endpoint.name}.threshold, or expert_threshold to one "
            "that T0 gives"
        )
    direction = assay.get("direction", "").lower()
    if direction not in ("", "high", "low"):
        raise ConfigError(f"{where}: direction is {direction!r}; it must be high, low or empty")
    try:
        threshold = read_number(text, decimal).value
    except CellError as error:
        raise ConfigError(f"{where}: {name} is {text!r}: {error}") from None
    classes = column.model_copy(update={"threshold": threshold, "positive": "below" if direction == "low" else "above"})
    return dataclasses.replace(rule, column=classes)
