"""`kmel-peer predict`: values for structures from the model directory of this site, offline."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.options import DIRECTORY, FILE, config_option

if TYPE_CHECKING:
    from kmel_p2p.learn.model import Card
    from kmel_p2p.learn.predict import Prediction


@click.command()
@click.argument("source", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), metavar="IN.csv")
@click.option("--output", "-o", type=FILE, help="Where to write; default: standard output.")
@click.option("--smiles-column", default="smiles", show_default=True, help="Column of IN.csv that holds structures.")
@click.option("--model", type=click.Choice(["local", "federated", "personalised", "hybrid"]),
              help="For every assay endpoint; default: the one its validation fold chose.")  # fmt: skip
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@config_option
def predict(
    source: Path, output: Path | None, smiles_column: str, model: str | None, model_dir: Path | None, config_path: Path
) -> None:
    """Add predicted values to IN.csv (- for standard input), keeping every row and column in order.

    A row that cannot be predicted says why in the column kmel_reason.
    """
    from kmel_p2p.learn.predict import load_model
    from kmel_p2p.site.files import write_whole

    header, rows, at = read_table(source, smiles_column)
    loaded = load_model(model_dir or _model_dir(config_path))
    predictions = loaded.predict([row[at] for row in rows], model=model, workers=os.cpu_count() or 1)
    text = render(header, rows, predictions, loaded.card, model)
    if output is None:
        click.echo(text, nl=False)
        return
    write_whole(output, text.encode(), 0o644)
    refused = sum(1 for prediction in predictions if prediction.reason)
    click.echo(f"{len(rows) - refused} of {len(rows)} rows predicted, written to {output}", err=True)


def read_table(source: Path, smiles_column: str) -> tuple[list[str], list[list[str]], int]:
    """(header, rows of equal length, position of the SMILES column).

    Raises:
        DataError: missing, empty, not CSV, or without that column; names file and remedy.
    """
    from kmel_p2p.core.errors import DataError

    try:
        text = sys.stdin.read() if str(source) == "-" else source.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{source}: no such file") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"{source}: not CSV: {error}") from None
    if not rows:
        raise DataError(f"{source}: is empty; expected a header line with the column {smiles_column!r}")
    header = rows[0]
    if smiles_column not in header:
        raise DataError(
            f"{source}: has no column {smiles_column!r}; it has: {', '.join(header)}. Use --smiles-column to name it"
        )
    width = len(header)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > width:
            raise DataError(f"{source}: row {number} has {len(row)} fields, the header has {width}")
    return header, [row + [""] * (width - len(row)) for row in rows[1:] if row], header.index(smiles_column)


def render(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    predictions: Iterable[Prediction],
    card: Card,
    model: str | None,
) -> str:
    """The table with a column per assay endpoint, then model and reason, as CSV."""
    endpoints = card.architecture.endpoints
    names = [f"kmel_{e.name}" + (f" [{e.unit}]" if e.unit else "") for e in endpoints]
    used = model or "/".join(dict.fromkeys(card.chosen[e.name] for e in endpoints))
    label = f"{used}@{card.digest[:16]}"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, *names, "kmel_model", "kmel_reason"])
    for row, prediction in zip(rows, predictions, strict=True):
        values = [f"{prediction.values[e.name]:.6g}" if prediction.values else "" for e in endpoints]
        writer.writerow([*row, *values, label if prediction.values else "", prediction.reason])
    return out.getvalue()


def _model_dir(config_path: Path) -> Path:
    from kmel_p2p.site.config import load_config

    return load_config(config_path).site.state_dir / "model"
