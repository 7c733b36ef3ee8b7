"""Raw records: what every input format is read into before values are judged."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kmel_p2p.agreement.columns import Column, Source, TableForm
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.read.cells import RELATION_SIGNS, CellError, is_missing, is_missing_class, read_relation
from kmel_p2p.chem.read.table_file import later_header

UNMAPPED = "unmapped: no assay endpoint is mapped to it"
"""Why a row is not used that belongs to no mapped assay endpoint."""


@dataclass(frozen=True, slots=True)
class RawCell:
    """One measurement as written.

    Attributes:
        place: of the assay endpoint in the charter's order.
        column: where it was found.
        text: relation and number, or class.
        unit: of the number.
        fault: why it cannot be used, where the reader knows already.
    """

    place: int
    column: str
    text: str
    unit: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One row of the input.

    Attributes:
        line: where it starts in the file (the header of a table is line 1; Parquet counts the same way).
        smiles: structure as found.
        smiles_column: where it was found.
        project: content of the embargo's project column.
        date: content of the date column.
        fault: why nothing of the row can be used; then `cells` holds the measurements lost with it, as far as known.
        fault_column: the column at fault.
        fault_value: what was found there.
    """

    line: int
    smiles: str = ""
    smiles_column: str = ""
    cells: tuple[RawCell, ...] = ()
    project: str = ""
    fault: str = ""
    fault_column: str = ""
    fault_value: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Mapped:
    """An assay endpoint and where its values are."""

    place: int
    endpoint: AssayEndpoint
    column: Column
    missing: frozenset[str] = frozenset()
    """Words of the table, in lower case, that mean "not measured", beside the usual ones."""

    def says_missing(self, cell: str) -> bool:
        """Whether a cell of its column says that nothing was measured."""
        return (is_missing_class if self.endpoint.kind == "classification" else is_missing)(cell, self.missing)


def related_cell(
    rule: Mapped, value_column: str, value: str, relation_column: str, relation: str, unit: str
) -> RawCell:
    """A measurement whose relation has a column of its own; the fault names whichever of the two cannot be used.

    Args:
        value: not missing.
        relation: as written.
    """
    try:
        return joined_cell(rule, value_column, read_relation(relation), value, unit)
    except CellError as error:
        return RawCell(rule.place, relation_column, relation, unit, str(error))


def joined_cell(rule: Mapped, column: str, relation: str, value: str, unit: str, fault: str = "") -> RawCell:
    """A value, not missing, with the relation that `read_relation` found beside it."""
    if relation and value[0] in RELATION_SIGNS:
        fault = "a relation in both the value and the relation column"
    return RawCell(rule.place, column, relation + value, unit, fault)


def map_columns(source: Source, endpoints: Sequence[AssayEndpoint]) -> tuple[Mapped, ...]:
    """The mapping with places.

    Raises:
        ConfigError: a name is none of theirs, or nothing is mapped.
    """
    if not source.columns:
        names = ", ".join(endpoint.name for endpoint in endpoints)
        raise ConfigError(
            f"data.columns names retired assay endpoints alone: add a column for another one (of {names}), or start "
            "with --no-training"
        )
    missing = frozenset(word.strip().lower() for word in source.missing)
    places = {endpoint.name: place for place, endpoint in enumerate(endpoints)}
    mapped = []
    for name, column in source.columns.items():
        if name not in places:
            near = difflib.get_close_matches(name, places, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(places)}"
            raise ConfigError(f"data.columns.{name}: there is no such assay endpoint; {hint}")
        mapped.append(Mapped(places[name], endpoints[places[name]], column, missing))
    return tuple(mapped)


def find_column(header: Sequence[str], name: str, key: str, path: Path, form: TableForm | None = None) -> int:
    """Place of a column.

    Args:
        key: the setting that names it.
        form: how the file is written, to look for the header further down.

    Raises:
        ConfigError: it is missing or occurs twice.
    """
    if header.count(name) == 1:
        return header.index(name)
    if name in header:
        raise ConfigError(f"{path}: column {name!r} ({key}) occurs {header.count(name)} times")
    if form is not None and (line := later_header(path, form, name)):
        raise ConfigError(f"{path}: no column {name!r} ({key}) in line {form.header_line}; line {line} has one: set "
                          f"data.header_line = {line} if the lines above are titles")  # fmt: skip
    raise ConfigError(f"{path}: no column {name!r} ({key}); {_remedy(header, name)}")


def _remedy(header: Sequence[str], name: str) -> str:
    for separator, written in ((";", ";"), ("\t", "\\t"), ("|", "|"), (",", ",")):
        if len(header) == 1 and separator in header[0]:
            return (
                f'the first line looks separated by {separator!r}: set data.separator = "{written}", and '
                'data.decimal = "," if numbers are written like 3,2'
            )
    lower = {other.lower(): other for other in header}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    listed = f"the file has: {', '.join(header)[:500]}"
    return f"did you mean {lower[near[0]]!r}? {listed}" if near else listed


def same_text(text: str) -> str:
    """A name for comparison: case does not matter, and blanks and underscores count as equal, as tables use both."""
    return text.strip().replace("_", " ").lower()


def find_marks(header: Sequence[str], source: Source) -> tuple[int | None, int | None]:
    """Places of the columns that name project and date of a row, where the settings name them.

    Raises:
        ConfigError: one of them is missing or occurs twice.
    """
    names = ((source.embargo.project_column, "data.embargo.project_column"), (source.time.column, "data.time.column"))
    project, date = (find_column(header, name, key, source.path) if name else None for name, key in names)
    return project, date
