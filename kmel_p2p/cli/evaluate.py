"""`kmel-peer evaluate`: the models of this site on its own test fold, with intervals."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.options import DIRECTORY, config_option, echo_json, json_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from kmel_p2p.learn.dataset import Dataset


@click.command()
@config_option
@click.option("--out", type=DIRECTORY, help="Where to write; default: evaluation in the state directory.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of bootstrap and forest.")
@json_option
def evaluate(config_path: Path, out: Path | None, seed: int, as_json: bool) -> None:
    """Score local, federated, personalised and hybrid model beside a forest and the median.

    Writes evaluation.html and evaluation.json (aggregates, may be shared) and predictions_STAYS.csv.
    """
    from kmel_p2p.chem.manifest import write_json
    from kmel_p2p.cli.progress import progress_bar
    from kmel_p2p.files import write_whole
    from kmel_p2p.learn.evaluation import evaluate as score_models
    from kmel_p2p.learn.evaluation_page import evaluation_page
    from kmel_p2p.learn.predict import load_model
    from kmel_p2p.learn.prepare import prepare
    from kmel_p2p.site.compose import load_site, trainer_plan
    from kmel_p2p.site.config import load_config

    config = load_config(config_path)
    site = load_site(config)
    model = load_model(config.site.state_dir / "model")
    with progress_bar("structures", as_json) as progress:
        dataset, _ = prepare(trainer_plan(site, seed), lambda p: progress(p.done, p.total))
    report, outputs = score_models(model, dataset, seed)
    folder = out or config.site.state_dir / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", report)
    write_whole(folder / "evaluation.html", evaluation_page(report).encode(), mode=0o644)
    write_whole(folder / "predictions_STAYS.csv", _predictions(dataset, outputs).encode(), mode=0o600)
    if as_json:
        echo_json(report)
    else:
        _show(report, folder)


def _predictions(dataset: Dataset, outputs: Mapping[str, np.ndarray]) -> str:
    """Structure, assay endpoint, measured value and what each model says, in the reported unit."""
    import numpy as np

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["smiles", "assay_endpoint", "relation", "measured", *outputs])
    signs = {-1: "<", 0: "=", 1: ">"}
    for place, endpoint in enumerate(dataset.endpoints):
        for at, row in enumerate(dataset.test):
            label = float(dataset.labels[row, place])
            if not np.isfinite(label):
                continue
            found = [float(endpoint.transformed(column[at : at + 1, place])[0]) for column in outputs.values()]
            measured = float(endpoint.transformed(np.array([label]))[0])
            relation = signs[int(dataset.relations[row, place])]
            writer.writerow(
                [dataset.smiles[row], endpoint.name, relation, f"{measured:.6g}", *(f"{v:.6g}" for v in found)]
            )
    return out.getvalue()


def _show(report: dict[str, Any], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="test fold; lower is better")
    for name in (
        "assay endpoint",
        "tested",
        "median",
        "forest",
        "local",
        "federated",
        "personalised",
        "hybrid",
        "chosen",
    ):
        table.add_column(name, justify="left" if name == "assay endpoint" else "right")
    for e in report["endpoints"]:
        if "models" not in e:
            table.add_row(e["name"], str(e["test"]), *[""] * 6, "too few")
            continue
        names = ("baseline_median", "baseline_forest", "local", "federated", "personalised", "hybrid")
        scores = [f"{e['models'][name]['score']:.4g}" for name in names]
        change = e["gains"]["chosen"]
        low, high = change["interval_pct"]
        table.add_row(e["name"], str(e["test"]), *scores,
                      f"{e['chosen']} {change['change_pct']:+.1f} % [{low:+.1f}, {high:+.1f}]")  # fmt: skip
    console = Console()
    console.print(table)
    console.print(
        f"May be shared: {folder}/evaluation.html, evaluation.json. Stays: predictions_STAYS.csv", markup=False
    )
