"""`kmel-peer predict`: values for structures from the model directory of this site, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.options import DIRECTORY, FILE, config_option, progress_bar
from kmel_p2p.cli.structure_input import input_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmel_p2p.cli.structure_input import InputForm
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.values import Prediction


@click.command()
@click.argument("source", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), metavar="IN")
@click.option("--output", "-o", type=FILE, help="Where to write; default: standard output.")
@input_options
@click.option(
    "--model",
    type=click.Choice(["local", "federated", "personalised", "hybrid", "best_local", "stack", "foreign"]),
    help="For every assay endpoint, without intervals; default: what held-out compounds chose for this site.",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Share of true values that the intervals should contain.",
)
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@click.option("--json", "as_json", is_flag=True, help="Write JSON instead of CSV.")
@click.option(
    "--explain",
    "report",
    type=FILE,
    help="Also write why, as HTML: nearest own compounds and atom contributions, for the first 50 rows.",
)
@config_option
def predict(
    source: Path,
    output: Path | None,
    form: InputForm,
    model: str | None,
    level: float,
    model_dir: Path | None,
    as_json: bool,
    report: Path | None,
    config_path: Path,
) -> None:
    """Predict assay endpoints for the structures in IN, as CSV or JSON.

    IN is a table (CSV, Parquet, .xlsx), SDF or a list of SMILES; - is standard input.

    Every row and column of IN is kept, in order. A row that cannot be predicted says why in the column kmel_reason;
    the exit code is 4 if there are rows, and none of them could be predicted.
    """
    from kmel_p2p.chem.structures.parallel import usable_cores
    from kmel_p2p.cli.explanation_report import write_report
    from kmel_p2p.cli.prediction_output import as_csv, as_json_text, require_room
    from kmel_p2p.cli.structure_input import read_input
    from kmel_p2p.files import write_whole
    from kmel_p2p.learn.predict.predict import load_model

    table = read_input(source, form)
    loaded = load_model(model_dir or _model_dir(config_path))
    require_room(table, loaded, as_json)
    smiles = [row[table.smiles_at] for row in table.rows]
    with progress_bar("structures", False) as progress:
        predictions = loaded.predict(smiles, model=model, level=level, workers=usable_cores(), progress=progress)
    text = as_json_text(table, predictions, loaded, model, level) if as_json else as_csv(table, predictions, loaded)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text.encode(), mode=0o644)
    if report is not None:
        write_report(report, source, table, loaded, predictions, model, level)
    _tell(predictions, loaded, model, level, output)
    _require_one(source, predictions)


def _tell(
    predictions: Sequence[Prediction], loaded: Model, model: str | None, level: float, output: Path | None
) -> None:
    """Print on standard error what the reader should know besides the table."""
    done = sum(1 for prediction in predictions if not prediction.reason)
    if output is not None or done < len(predictions):
        where = "" if output is None else f", written to {output}"
        click.echo(f"{done} of {len(predictions)} rows predicted{where}", err=True)
    for name, reason in loaded.without_values(model).items():
        click.echo(f"{name} is not predicted: {reason}", err=True)
    classes = {e.name for e in loaded.card.architecture.endpoints if e.kind == "classification"}
    for name, reason in loaded.without_intervals(level).items() if model is None else ():
        click.echo(f"{name} has no {'sets of classes' if name in classes else 'intervals'}: {reason}", err=True)
    warning = loaded.shift(predictions) if model is None else None
    if warning is not None:
        click.echo(f"Warning: {warning}", err=True)
    if loaded.neighbours is None:
        click.echo("no similarities: this model directory has no training compounds to compare with", err=True)


def _require_one(source: Path, predictions: Sequence[Prediction]) -> None:
    from kmel_p2p.agreement.errors import DataError

    if predictions and all(prediction.reason for prediction in predictions):
        first = predictions[0]
        raise DataError(
            f"{source}: not one row could be predicted; the first is {first.smiles!r:.80}: {first.reason}. "
            "If IN is of another kind than it seems, say so with --format and --smiles-column"
        )


def _model_dir(config_path: Path) -> Path:
    from kmel_p2p.site.config import load_config

    return load_config(config_path).site.state_dir / "model"


@click.command()
@click.argument("output", type=DIRECTORY)
@click.option("--onnx", "as_onnx", is_flag=True, help="Also write one ONNX graph per model (extra 'onnx').")
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@config_option
def export(output: Path, as_onnx: bool, model_dir: Path | None, config_path: Path) -> None:
    """Copy the model directory to OUTPUT, without what reveals training compounds: fingerprints and learners.

    The copy predicts with the networks alone, not with this site's stack. Load it with
    kmel_p2p.load(OUTPUT).predict(["CCO"]). The parameters were trained on this site's data: give them only to those
    who may draw conclusions from it.
    """
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.learn.predict.export import export_model, export_onnx, require_onnx
    from kmel_p2p.site.config import load_config

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output}: is not empty; name a new directory")
    source = model_dir or load_config(config_path).site.state_dir / "model"
    if as_onnx:
        require_onnx(source)  # before anything is written
    card = export_model(source, output)
    click.echo(f"Wrote model {card.digest[:16]} to {output}.")
    left = [path.name for path in sorted(source.glob("*_STAYS*"))]
    if left:
        click.echo(f"Left out, as they reveal training compounds: {', '.join(left)}. The copy predicts with networks.")
    if as_onnx:
        for path in export_onnx(source, output):
            click.echo(f"Wrote {path}.")
