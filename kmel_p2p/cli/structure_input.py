"""The structures that commands are given: options that say how they are written, and where they are read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kmel_p2p.chem.read.structure_file import InputForm, StructureFile

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of equal length under a header.

    Attributes:
        smiles_at: column of structures.
        refused: row -> why its structure could not be read, where the cell itself does not show it.
    """

    header: list[str]
    rows: list[list[str]]
    smiles_at: int
    refused: dict[int, str] = field(default_factory=dict)


def input_options(command: Command) -> Command:
    """Options of a command that reads structures; the command gets them as one argument, `form`."""
    separators = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}

    @click.option("--smiles-column", default="smiles", show_default=True, help="Column of a table with structures.")
    @click.option(
        "--format",
        "kind",
        type=click.Choice(["csv", "smi", "sdf"]),
        help="Of IN, csv being any table; default: by its name. Standard input is a table if its header names the "
        "SMILES column.",
    )
    @click.option("--separator", type=click.Choice(list(separators)), help="Of a CSV file; default: by its header.")
    @click.option("--encoding", default="utf-8", show_default=True, help="Of a text file: cp949, cp1252, utf-16, ...")
    @click.option(
        "--header-line",
        type=click.IntRange(1, 10_000),
        default=1,
        show_default=True,
        help="Line or row of a table with the names of its columns, where titles stand above it.",
    )
    @click.option("--sheet", default="", help="Of an Excel workbook with several.")
    @functools.wraps(command)
    def wrapped(
        *arguments: Any,
        smiles_column: str,
        kind: str | None,
        separator: str | None,
        encoding: str,
        header_line: int,
        sheet: str,
        **options: Any,
    ) -> Any:
        from kmel_p2p.chem.read.structure_file import InputForm

        chosen = separators[separator] if separator else None
        form = InputForm(smiles_column, kind, chosen, encoding, header_line, sheet)
        return command(*arguments, form=form, **options)

    return wrapped  # type: ignore[return-value]


def open_input(source: Path, form: InputForm) -> StructureFile:
    """Look at `source` (`-` for standard input).

    Raises:
        DataError, ConfigError: as `StructureFile`.
    """
    from kmel_p2p.chem.read.structure_file import StructureFile
    from kmel_p2p.chem.read.table_file import InputFile, standard_input

    if str(source) != "-":
        return StructureFile(InputFile(source), form)
    return StructureFile(click.get_current_context().with_resource(standard_input()), form)


def read_input(source: Path, form: InputForm) -> Table:
    """All of `source` at once.

    Raises:
        DataError, ConfigError: as `StructureFile`.
    """
    file = open_input(source, form)
    blocks = list(file.blocks(0, file.count, max(1, file.count)))
    rows = [row for block in blocks for row in block.rows]
    refused = {at: reason for block in blocks for at, reason in block.refused.items()}
    return Table(file.header, rows, file.smiles_at, refused)
