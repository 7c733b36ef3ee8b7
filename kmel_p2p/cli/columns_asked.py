"""Which columns of a table hold the charter's assay endpoints: taken from the command line, else asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.language import say, tell

if TYPE_CHECKING:
    from kmel_p2p.agreement.endpoint import AssayEndpoint

NONE = "-"
"""Answers a question for a column: not measured here."""

Columns = dict[str, tuple[str, str]]
"""Assay endpoint -> column and unit."""


def given_columns(texts: Sequence[str], endpoints: Sequence[AssayEndpoint]) -> Columns:
    """What `--column ENDPOINT=COLUMN[:UNIT]` says.

    Raises:
        UsageError: not of that form, or the charter has no such assay endpoint.
    """
    known = {endpoint.name: endpoint for endpoint in endpoints}
    found: Columns = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        column, _, unit = rest.partition(":")
        if not equals or not column:
            raise click.UsageError(f"--column {text}: expected ENDPOINT=COLUMN or ENDPOINT=COLUMN:UNIT")
        if name not in known:
            raise click.UsageError(
                f"--column {text}: there is no assay endpoint {name!r}; there are: {', '.join(known)}"
            )
        if fault := unit_fault(column, unit, known[name]):
            raise click.UsageError(f"--column {text}: {fault}")
        found[name] = column, unit or known[name].unit
    return found


def unit_fault(column: str, unit: str, endpoint: AssayEndpoint) -> str:
    """Why values of a column in this unit cannot become those of an assay endpoint; empty: they can."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.chem.dataset.units import converter

    if endpoint.kind == "classification" or not unit:
        return ""
    try:
        converter(unit, endpoint.unit, f"column {column!r} ({endpoint.name})")
    except ConfigError as error:
        return str(error)
    return ""


def asked_columns(
    path: Path, endpoints: Sequence[AssayEndpoint], ask: Callable[[str, str], str]
) -> tuple[str, Columns]:
    """The column with structures, and those of the assay endpoints, by asking about each.

    Args:
        path: a CSV file, a workbook or a Parquet file.
        ask: given a question and the answer that is suggested.

    Raises:
        DataError: the file cannot be read.
        UsageError: nothing in it is an assay endpoint of the charter.
    """
    header = header_of(path)
    click.echo(say("{path} has the columns: {columns}").format(path=path, columns=", ".join(header)))
    structures = _one_of(header, lambda: ask(say("Column with the structures (SMILES)"), _structures(header)))
    found: Columns = {}
    for endpoint in endpoints:
        asked = say("Column with {endpoint} ({none}: not measured here)")
        if endpoint.unit:
            asked = say("Column with {endpoint} in {unit} ({none}: not measured here)")
        question = asked.format(endpoint=endpoint.name, unit=endpoint.unit, none=NONE)
        column = _one_of([*header, NONE], partial(ask, question, _likely(header, endpoint.name)))
        if column != NONE:
            found[endpoint.name] = column, _asked_unit(column, endpoint, ask) if endpoint.unit else ""
    if not found:
        raise click.UsageError(f"{path} measures no assay endpoint of the charter, so there is nothing to train on")
    return structures, found


def header_of(path: Path) -> list[str]:
    """Names of a table's columns."""
    from kmel_p2p.agreement.columns import TableForm
    from kmel_p2p.chem.read.table_file import table_rows

    return [name for name in table_rows(path, TableForm())[0] if name]


def require_columns(path: Path, columns: Sequence[str]) -> None:
    """Raises UsageError where a table lacks a column that the command line names."""
    header = header_of(path)
    if missing := [name for name in columns if name not in header]:
        raise click.UsageError(
            f"{path} has no column {', '.join(map(repr, missing))}; it has: {', '.join(header)}. Correct --column or "
            "--smiles-column"
        )


def placeholder_columns(endpoints: Sequence[AssayEndpoint]) -> Columns:
    """A column named as each assay endpoint, for people to correct."""
    return {endpoint.name: (endpoint.name, endpoint.unit) for endpoint in endpoints}


def unmapped(columns: Mapping[str, object], endpoints: Sequence[AssayEndpoint]) -> str:
    """What is wrong with a site's mapping under a charter, in words; empty when it fits."""
    known = [endpoint.name for endpoint in endpoints]
    odd = [name for name in columns if name not in known]
    if not odd:
        return ""
    return f"[data.columns] names {', '.join(map(repr, odd))}; the charter has: {', '.join(known)}"


def _one_of(choices: Sequence[str], ask: Callable[[], str]) -> str:
    while (answer := ask().strip()) not in choices:
        told = say("There is no column {named!r}; there are: {columns}")
        click.echo(told.format(named=answer, columns=", ".join(choices)))
    return answer


def _asked_unit(column: str, endpoint: AssayEndpoint, ask: Callable[[str, str], str]) -> str:
    question = say("Unit of {column}").format(column=column)
    while fault := unit_fault(column, unit := ask(question, endpoint.unit).strip(), endpoint):
        tell(fault)
    return unit


def _structures(header: Sequence[str]) -> str:
    return next((name for name in header if "smiles" in name.lower()), header[0])


def _likely(header: Sequence[str], endpoint: str) -> str:
    from kmel_p2p.chem.dataset.catalogue import look_up, plain

    same = [name for name in header if plain(name) == plain(endpoint)]
    meant = [name for name in header if (entry := look_up(name)) is not None and entry.endpoint.name == endpoint]
    return (same or meant or [NONE])[0]
