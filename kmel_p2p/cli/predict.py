"""`kmel-peer predict`: values for structures from the model directory of this site, offline."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.options import DIRECTORY, FILE, config_option

if TYPE_CHECKING:
    from kmel_p2p.chem.endpoint import AssayEndpoint
    from kmel_p2p.learn.model import Card
    from kmel_p2p.learn.predict import Prediction


@click.command()
@click.argument("source", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), metavar="IN")
@click.option("--output", "-o", type=FILE, help="Where to write; default: standard output.")
@click.option("--smiles-column", default="smiles", show_default=True, help="Column of a CSV file with structures.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "smi", "sdf"]),
    help="Of IN; default: by its name. Standard input is CSV if its first line names the SMILES column.",
)
@click.option(
    "--model",
    type=click.Choice(["local", "federated", "personalised", "hybrid"]),
    help="For every assay endpoint, without intervals; default: the one its validation fold chose.",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Share of true values that the intervals are to hold.",
)
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@config_option
def predict(
    source: Path,
    output: Path | None,
    smiles_column: str,
    kind: str | None,
    model: str | None,
    level: float,
    model_dir: Path | None,
    config_path: Path,
) -> None:
    """Predict assay endpoints for the structures in IN (CSV, SDF or SMILES; - for standard input), as CSV.

    Every row and column of IN is kept, in order. A row that cannot be predicted says why in the column kmel_reason.
    """
    from kmel_p2p.cli.structure_input import read_input
    from kmel_p2p.files import write_whole
    from kmel_p2p.learn.predict import load_model

    table = read_input(source, smiles_column, kind)
    loaded = load_model(model_dir or _model_dir(config_path))
    smiles = [row[table.smiles_at] for row in table.rows]
    predictions = loaded.predict(smiles, model=model, level=level, workers=os.cpu_count() or 1)
    text = render(table.header, table.rows, predictions, loaded.card, model)
    if output is None:
        click.echo(text, nl=False)
        return
    write_whole(output, text.encode(), mode=0o644)
    refused = sum(1 for prediction in predictions if prediction.reason)
    click.echo(f"{len(table.rows) - refused} of {len(table.rows)} rows predicted, written to {output}", err=True)


def render(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    predictions: Iterable[Prediction],
    card: Card,
    model: str | None,
) -> str:
    """The table with columns per assay endpoint, then similarity, applicability, model and reason, as CSV."""
    endpoints = card.architecture.endpoints
    names = [name for endpoint in endpoints for name in _names(endpoint)]
    used = model or "/".join(dict.fromkeys(card.chosen[e.name] for e in endpoints))
    label = f"{used}@{card.digest[:16]}"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*header, *names, "kmel_similarity", "kmel_applicability", "kmel_model", "kmel_reason"])
    for row, prediction in zip(rows, predictions, strict=True):
        cells = [cell for endpoint in endpoints for cell in _cells(endpoint, prediction)]
        similarity = "" if prediction.similarity is None else f"{prediction.similarity:.3f}"
        made_by = label if prediction.assays else ""
        writer.writerow([*row, *cells, similarity, prediction.applicability, made_by, prediction.reason])
    return out.getvalue()


def _names(endpoint: AssayEndpoint) -> list[str]:
    name = f"kmel_{endpoint.name}"
    if endpoint.kind == "classification":
        return [name, f"{name}_classes"]
    return [name + (f" [{endpoint.unit}]" if endpoint.unit else ""), f"{name}_lower", f"{name}_upper"]


def _cells(endpoint: AssayEndpoint, prediction: Prediction) -> list[str]:
    """Empty where nothing is known; `none` where every class is unlike what was seen."""
    value = prediction.assays.get(endpoint.name)
    if value is None:
        return [""] * len(_names(endpoint))
    if endpoint.kind == "classification":
        classes = "" if value.classes is None else " ".join(map(str, value.classes)) or "none"
        return [f"{value.value:.6g}", classes]
    ends = ["" if end is None else f"{end:.6g}" for end in (value.lower, value.upper)]
    return [f"{value.value:.6g}", *ends]


def _model_dir(config_path: Path) -> Path:
    from kmel_p2p.site.config import load_config

    return load_config(config_path).site.state_dir / "model"
