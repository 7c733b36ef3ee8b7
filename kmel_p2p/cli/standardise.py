"""`kmel-peer standardise`: what a federation would make of structures; needs no charter and no settings."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.agreement.shown import cell
from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import FILE, progress_bar
from kmel_p2p.cli.structure_input import input_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmel_p2p.agreement.features import FeatureRule
    from kmel_p2p.chem.read.structure_file import InputForm, RowBlock, StructureFile

COLUMNS = ("kmel_standardised", "kmel_identity", "kmel_changes", "kmel_reason")
BLOCK = 4096
"""Rows held at once, beside those that other processes work on."""

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
    from kmel_p2p.cli.structure_input import open_input

    policy = FeatureRule.model_validate({"stereo": stereo, "tautomers": tautomers, "mixtures": mixtures})
    file = open_input(source, form)
    taken = [name for name in COLUMNS if name in file.header]
    if taken and not as_json:
        raise DataError(f"the input has the column {taken[0]!r} already; rename or remove it")
    changes: Counter[str] = Counter()
    refused = 0
    with _output(output) as write, progress_bar("structures", False) as progress:
        written = (_Json if as_json else _Csv)(file.header, write)
        for block, rows in _standardised(file, policy, progress):
            for cells, row in zip(block.rows, rows, strict=True):
                written.add(cells, row)
                changes.update(list(dict.fromkeys(change["kind"] for change in row["changes"])))
                refused += bool(row["reason"])
        written.end(changes, refused)
    tell(f"{file.count - refused} of {file.count} structures standardised, {refused} refused", err=True)
    for change, count in changes.most_common():
        tell(f"{count} rows: {change}", err=True)


def _standardised(
    file: StructureFile, policy: FeatureRule, progress: Callable[[int, int], None]
) -> Iterator[tuple[RowBlock, list[dict[str, Any]]]]:
    """Block by block, so that memory does not grow with the file."""
    from kmel_p2p.chem.structures.parallel import map_blocks, usable_cores

    taken: deque[RowBlock] = deque()
    total = 0

    def structures() -> Iterator[list[str]]:
        for block in file.blocks(0, file.count, BLOCK):
            taken.append(block)
            yield [row[file.smiles_at] for row in block.rows]

    def done(count: int) -> None:
        nonlocal total
        total += count
        progress(total, file.count)

    work, many = functools.partial(standardise_chunk, policy=policy), file.count > CHUNK
    found = map_blocks(work, structures(), chunk=CHUNK, workers=usable_cores(), lost=_lost, isolated=many, done=done)
    for parts in found:
        block, rows = taken.popleft(), [row for part in parts for row in part]
        for at, reason in block.refused.items():
            rows[at]["reason"] = reason
        yield block, rows


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[Callable[[str], None]]:
    """Writes text to standard output, or to a file that is there whole or not at all."""
    from kmel_p2p.files import whole_file

    if path is None:
        yield lambda text: click.echo(text, nl=False)
        return
    with whole_file(path, mode=0o644) as handle:

        def write(text: str) -> None:
            handle.write(text.encode())

        yield write


def standardise_chunk(smiles: Sequence[str], policy: FeatureRule) -> list[dict[str, Any]]:
    """One row per SMILES, in order. Runs in a child process."""
    from kmel_p2p.chem.structures.parent import StructureError
    from kmel_p2p.chem.structures.standardise import standardise as standardise_one

    rows = []
    for text in smiles:
        row = _row(text, "")
        try:
            structure, _ = standardise_one(text, policy)
        except StructureError as error:
            row["reason"] = str(error)
        else:
            row["standardised"], row["identity"] = structure.smiles, structure.identity
            row["changes"] = [change._asdict() for change in structure.changes]
        rows.append(row)
    return rows


def _row(smiles: str, reason: str) -> dict[str, Any]:
    return {"smiles": smiles, "standardised": "", "identity": "", "changes": [], "reason": reason}


def _lost(smiles: str) -> list[dict[str, Any]]:
    from kmel_p2p.chem.structures.described import LOST

    return [_row(smiles, LOST)]


class _Csv:
    """The table of the input with four columns more."""

    def __init__(self, header: Sequence[str], write: Callable[[str], None]) -> None:
        self._write = write
        self._line([*header, *COLUMNS])

    def _line(self, cells: Sequence[str]) -> None:
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n").writerow(map(cell, cells))
        self._write(out.getvalue())

    def add(self, cells: Sequence[str], row: Mapping[str, Any]) -> None:
        """A row of the input, and what became of its structure."""
        changes = "; ".join(": ".join(filter(None, change.values())) for change in row["changes"])
        self._line([*cells, row["standardised"], row["identity"], changes, row["reason"]])

    def end(self, changes: Counter[str], refused: int) -> None:
        """Nothing stands below the rows."""


class _Json:
    """`rows`, then `counts` of changes and how many were `refused`."""

    def __init__(self, header: Sequence[str], write: Callable[[str], None]) -> None:
        self._header, self._write, self._before = header, write, "\n"
        write('{\n "rows": [')

    def add(self, cells: Sequence[str], row: Mapping[str, Any]) -> None:
        """A row of the input, and what became of its structure."""
        text = json.dumps({"input": dict(zip(self._header, cells, strict=True)), **row}, ensure_ascii=False)
        self._write(f"{self._before}  {text}")
        self._before = ",\n"

    def end(self, changes: Counter[str], refused: int) -> None:
        """What the rows come to."""
        counts = json.dumps(dict(changes.most_common()), ensure_ascii=False)
        self._write(f'\n ],\n "counts": {counts},\n "refused": {refused}\n}}\n')
