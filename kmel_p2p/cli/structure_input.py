"""The structures that commands are given: options that say how they are written, and where they are read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kmel_p2p.chem.read.structure_file import InputForm, StructureFile

Command = TypeVar("Command", bound=Callable[..., Any])


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
