"""Writes predictions next to the rows of the input, block by block: CSV or Parquet with more columns, or JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kmel_p2p.agreement.errors import DataError
from kmel_p2p.learn.predict.columns import added_columns, columns_of, csv_head, csv_rows, reason_of, require_room

if TYPE_CHECKING:
    import pyarrow

    from kmel_p2p.chem.read.structure_file import RowBlock, StructureFile
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.shift import Shift
    from kmel_p2p.learn.predict.values import Prediction, Value

ROWS_IN_GROUP = 1 << 16
"""Of a Parquet file: of every column, so many values lie together."""


class Output(Protocol):
    """A format."""

    def block(self, rows: RowBlock, predictions: Sequence[Prediction]) -> bytes:
        """The rows of a block with their predictions."""

    def whole(self, blocks: Iterable[bytes], shift: Callable[[], Shift | None]) -> Iterator[bytes]:
        """The file that these blocks make, piece by piece.

        Args:
            shift: called when all blocks were taken.
        """


class CsvOutput:
    """The table with columns per assay endpoint, then structure, similarity, applicability, model and reason."""

    def __init__(self, file: StructureFile, loaded: Model) -> None:
        """Raises:
        DataError: a column has the name of one to be added.
        """
        require_room(file.header, loaded.card)
        self._header, self._card = file.header, loaded.card

    def block(self, rows: RowBlock, predictions: Sequence[Prediction]) -> bytes:
        return csv_rows(rows.rows, predictions, self._card, rows.refused).encode()

    def whole(self, blocks: Iterable[bytes], shift: Callable[[], Shift | None]) -> Iterator[bytes]:
        yield csv_head(self._header, self._card).encode()
        yield from blocks


class ParquetOutput:
    """The same columns with their types; those of a Parquet input keep theirs."""

    def __init__(self, file: StructureFile, loaded: Model) -> None:
        """Raises:
        DataError: as `CsvOutput`, or the input has a column twice.
        """
        import pyarrow

        require_room(file.header, loaded.card)
        _require_distinct(file, "Parquet")
        self._card = loaded.card
        kinds = {float: pyarrow.float64(), str: pyarrow.string()}
        own = file.schema or pyarrow.schema([(name, pyarrow.string()) for name in file.header])
        added = [pyarrow.field(name, kinds[kind]) for name, kind in added_columns(loaded.card).items()]
        self._schema = pyarrow.schema([*own, *added], own.metadata)

    def block(self, rows: RowBlock, predictions: Sequence[Prediction]) -> bytes:
        import pyarrow
        import pyarrow.parquet

        columns = columns_of(predictions, self._card, rows.refused)
        given = list(map(list, zip(*rows.rows, strict=True))) if rows.stored is None else rows.stored.columns
        arrays = [
            array if isinstance(array, pyarrow.Array) else pyarrow.array(array, field.type)
            for array, field in zip([*given, *columns.values()], self._schema, strict=True)
        ]
        out = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema), out)
        return out.getvalue()

    def whole(self, blocks: Iterable[bytes], shift: Callable[[], Shift | None]) -> Iterator[bytes]:
        import pyarrow
        import pyarrow.parquet

        out = _Pieces()
        with pyarrow.parquet.ParquetWriter(out, self._schema) as writer:
            for group in self._groups(blocks):
                writer.write_table(group)
                yield out.taken()
        yield out.taken()

    def _groups(self, blocks: Iterable[bytes]) -> Iterator[pyarrow.Table]:
        import pyarrow
        import pyarrow.parquet

        tables: list[pyarrow.Table] = []
        for block in blocks:
            tables.append(pyarrow.parquet.read_table(io.BytesIO(block), schema=self._schema))
            if sum(map(len, tables)) >= ROWS_IN_GROUP:
                yield pyarrow.concat_tables(tables)
                tables = []
        if tables:
            yield pyarrow.concat_tables(tables)


class _Pieces(io.RawIOBase):
    """Takes what is written, to be handed on."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._written += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


class JsonOutput:
    """The model used, and for each row everything that is known about it."""

    def __init__(self, file: StructureFile, loaded: Model, model: str | None, level: float) -> None:
        """Raises:
        DataError: the input has a column twice.
        """
        _require_distinct(file, "JSON")
        self._header, self._loaded, self._model, self._level = file.header, loaded, model, level

    def block(self, rows: RowBlock, predictions: Sequence[Prediction]) -> bytes:
        documents = [
            {
                "input": dict(zip(self._header, row, strict=True)),
                "smiles": prediction.smiles,
                "standardised": prediction.standardised,
                "predictions": {name: _plain(value) for name, value in prediction.assays.items()},
                "similarity": prediction.similarity,
                "applicability": prediction.applicability,
                "reason": reason_of(at, prediction, rows.refused),
            }
            for at, (row, prediction) in enumerate(zip(rows.rows, predictions, strict=True))
        ]
        return _json(documents).removeprefix("[").removesuffix("\n]").encode()

    def whole(self, blocks: Iterable[bytes], shift: Callable[[], Shift | None]) -> Iterator[bytes]:
        yield _json(self._facts()).removesuffix("\n}").encode() + b',\n "rows": ['
        between = b""
        for block in blocks:
            if block:
                yield between + block.replace(b"\n", b"\n ")
                between = b","
        found = shift()
        warning = "" if found is None else str(found)
        yield b'\n ],\n "warning": ' + json.dumps(warning, ensure_ascii=False).encode() + b"\n}\n"

    def _facts(self) -> dict[str, Any]:
        loaded, model = self._loaded, self._model
        card = loaded.card
        unknown, missing = loaded.without_values(model), loaded.without_intervals(self._level)
        return {
            "digest": card.digest,
            "labels": dict(card.labels),
            "level": self._level if model is None else None,
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
        }


def _require_distinct(file: StructureFile, kind: str) -> None:
    repeated = next((name for name in file.header if file.header.count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"the input has the column {repeated!r} more than once, which {kind} cannot; rename one, "
                        "or write CSV")  # fmt: skip


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: Value) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value.value, "model": value.model}
    if value.lower is not None:
        found |= {"lower": value.lower, "upper": value.upper}
    if value.classes is not None:
        found["classes"] = list(value.classes)
    return found
