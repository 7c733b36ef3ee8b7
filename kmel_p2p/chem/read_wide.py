"""Wide tables and SDF files: one record per compound, one column or property per assay endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rdkit import Chem, rdBase

from kmel_p2p.chem.records import Mapped, RawCell, RawRecord, find_column, find_marks, table_rows
from kmel_p2p.chem.source import SdfSource, WideSource
from kmel_p2p.core.errors import ConfigError, DataError

STRUCTURE_PROPERTY = "structure"
"""What the structure of an SDF record is called in `rejects.csv`."""


def read_wide(source: WideSource, mapped: Sequence[Mapped]) -> Iterator[RawRecord]:
    """Records of a CSV or Parquet table.

    Raises:
        ConfigError: a column is missing. DataError: the file cannot be read.
    """
    header, rows = table_rows(source.path)
    smiles_at = find_column(header, source.smiles_column, "data.smiles_column", source.path)
    places = [
        (column, find_column(header, column.column.column, f"data.columns.{column.endpoint.name}.column", source.path))
        for column in mapped
    ]
    project_at, date_at = find_marks(header, source)
    for line, cells in rows:
        if len(cells) != len(header):
            yield RawRecord(line, fault=f"{len(cells)} cells where the header has {len(header)}")
            continue
        found = tuple(RawCell(m.place, m.column.column, cells[at], m.column.unit) for m, at in places)
        project, date = (cells[at] if at is not None else "" for at in (project_at, date_at))
        yield RawRecord(line, cells[smiles_at].strip(), source.smiles_column, found, project, date=date)


def read_sdf(source: SdfSource, mapped: Sequence[Mapped]) -> Iterator[RawRecord]:
    """Records of an SDF file; a property that no record has is an error, one that some lack is not measured there.

    Raises:
        ConfigError, DataError: as `read_wide`.
    """
    missing = {column.column.column: f"data.columns.{column.endpoint.name}.column" for column in mapped}
    if source.embargo.project_column:
        missing[source.embargo.project_column] = "data.embargo.project_column"
    if source.time.column:
        missing[source.time.column] = "data.time.column"
    seen: set[str] = set()
    for line, smiles, properties, reason in sdf_records(source.path):
        seen.update(properties)
        if reason:
            yield RawRecord(line, fault=reason, fault_column=STRUCTURE_PROPERTY)
            continue
        cells = tuple(
            RawCell(m.place, m.column.column, properties.get(m.column.column, ""), m.column.unit) for m in mapped
        )
        project, date = (properties.get(name, "") for name in (source.embargo.project_column, source.time.column))
        yield RawRecord(line, smiles, STRUCTURE_PROPERTY, cells, project, date=date)
    for name, key in missing.items():
        if name not in seen:
            raise ConfigError(
                f"{source.path}: no record has a property {name!r} ({key}); there are: {', '.join(sorted(seen))[:500]}"
            )


def sdf_records(path: Path) -> Iterator[tuple[int, str, Mapping[str, str], str]]:
    """(line where the record starts, SMILES, properties, why there is no structure) of every SDF record.

    Raises:
        DataError: the file is missing or no text.
    """
    for line, block in _blocks(path):
        supplier = Chem.SDMolSupplier()
        with rdBase.BlockLogs():
            supplier.SetData(block)
            molecule = next(iter(supplier), None)
        if molecule is None:
            yield line, "", {}, "the structure of this record cannot be read"
        else:
            yield line, Chem.MolToSmiles(molecule), molecule.GetPropsAsDict(autoConvertStrings=False), ""


def _blocks(path: Path) -> Iterator[tuple[int, str]]:
    lines: list[str] = []
    start = 1
    try:
        with path.open(encoding="utf-8-sig") as handle:
            for number, text in enumerate(handle, start=1):
                lines.append(text)
                if text.rstrip() == "$$$$":
                    yield start, "".join(lines)
                    lines, start = [], number + 1
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (data.path)") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); export it as UTF-8 SDF") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if any(text.strip() for text in lines):
        yield start, "".join(lines)
