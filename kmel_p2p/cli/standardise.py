"""`kmel-peer standardise`: what a federation would make of structures; needs no charter and no settings."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.agreement.shown import cell
from kmel_p2p.cli.options import FILE, progress_bar
from kmel_p2p.cli.structure_input import input_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmel_p2p.agreement.features import FeatureRule
    from kmel_p2p.chem.read.structure_file import InputForm
    from kmel_p2p.cli.structure_input import Table

COLUMNS = ("kmel_standardised", "kmel_identity", "kmel_changes", "kmel_reason")
CHUNK = 256


@click.command()
@click.argument("source", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), metavar="IN")
@click.option("--output", "-o", type=FILE, help="Where to write; default: standard output.")
@input_options
@click.option(
    "--stereo", type=click.Choice(["drop", "keep"]), default="drop", show_default=True, help="As in the charter."
)
@click.option(
    "--tautomers",
    type=click.Choice(["keep", "canonical"]),
    default="keep",
    show_default=True,
    help="As in the charter.",
)
@click.option(
    "--mixtures",
    type=click.Choice(["refuse", "largest"]),
    default="refuse",
    show_default=True,
    help="Of several parts that are no counter-ions: refuse the record, or keep the largest. As in the charter.",
)
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of CSV.")
def standardise(
    source: Path,
    output: Path | None,
    form: InputForm,
    stereo: str,
    tautomers: str,
    mixtures: str,
    as_json: bool,
) -> None:
    """Standardise the structures in IN, as CSV or JSON.

    IN is a table (CSV, Parquet, .xlsx), SDF or a list of SMILES; - is standard input.

    Every row and column of IN is kept, in order. A row without a standardised structure says why in kmel_reason.
    """
    from kmel_p2p.agreement.errors import DataError
    from kmel_p2p.agreement.features import FeatureRule
    from kmel_p2p.chem.structures.parallel import map_chunks, usable_cores
    from kmel_p2p.cli.structure_input import read_input
    from kmel_p2p.files import write_whole

    policy = FeatureRule.model_validate({"stereo": stereo, "tautomers": tautomers, "mixtures": mixtures})
    table = read_input(source, form)
    taken = [name for name in COLUMNS if name in table.header]
    if taken and not as_json:
        raise DataError(f"the input has the column {taken[0]!r} already; rename or remove it")
    smiles = [row[table.smiles_at] for row in table.rows]
    found: dict[int, list[dict[str, Any]]] = {}
    done = 0
    with progress_bar("structures", False) as progress:
        work = functools.partial(standardise_chunk, policy=policy)
        for index, part in map_chunks(work, smiles, chunk=CHUNK, workers=usable_cores()):
            found[index] = part
            done += len(part)
            progress(done, len(smiles))
    rows = [row for index in sorted(found) for row in found[index]]
    for at, reason in table.refused.items():
        rows[at]["reason"] = reason
    text = _json(table, rows) if as_json else _csv(table, rows)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text.encode(), mode=0o644)
    refused = sum(1 for row in rows if row["reason"])
    click.echo(f"{len(rows) - refused} of {len(rows)} structures standardised, {refused} refused", err=True)
    for change, count in _counts(rows).most_common():
        click.echo(f"{count} rows: {change}", err=True)


def standardise_chunk(smiles: Sequence[str], policy: FeatureRule) -> list[dict[str, Any]]:
    """One row per SMILES, in order. Runs in a child process."""
    from kmel_p2p.chem.structures.parent import StructureError
    from kmel_p2p.chem.structures.standardise import standardise as standardise_one

    rows = []
    for text in smiles:
        row: dict[str, Any] = {"smiles": text, "standardised": "", "identity": "", "changes": [], "reason": ""}
        try:
            structure, _ = standardise_one(text, policy)
        except StructureError as error:
            row["reason"] = str(error)
        else:
            row["standardised"], row["identity"] = structure.smiles, structure.identity
            row["changes"] = [change._asdict() for change in structure.changes]
        rows.append(row)
    return rows


def _counts(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    """Rows by kind of change."""
    return Counter(kind for row in rows for kind in dict.fromkeys(change["kind"] for change in row["changes"]))


def _csv(table: Table, rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(cell, [*table.header, *COLUMNS]))
    for cells, row in zip(table.rows, rows, strict=True):
        changes = "; ".join(": ".join(filter(None, change.values())) for change in row["changes"])
        writer.writerow(map(cell, [*cells, row["standardised"], row["identity"], changes, row["reason"]]))
    return out.getvalue()


def _json(table: Table, rows: Sequence[dict[str, Any]]) -> str:
    document = {
        "counts": dict(_counts(rows).most_common()),
        "refused": sum(1 for row in rows if row["reason"]),
        "rows": [
            {"input": dict(zip(table.header, cells, strict=True)), **row}
            for cells, row in zip(table.rows, rows, strict=True)
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
