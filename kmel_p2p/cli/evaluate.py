"""`kmel-peer evaluate`: the models of this site on its own test fold, with intervals."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.agreement.shown import cell
from kmel_p2p.cli.language import say, told
from kmel_p2p.cli.options import DIRECTORY, config_option, echo_json, json_option, model_folder, progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.train.dataset import Dataset


COLOUR = {"use it": "bold green", "no evidence either way": "bold yellow", "use your local model": "bold red"}
"""Of the advice (`learn.evaluate.advice`), on a terminal that has colours."""


@click.command()
@config_option
@click.option("--out", type=DIRECTORY, help="Where to write; default: evaluation in the state directory.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of bootstrap and forest.")
@json_option
def evaluate(config_path: Path, out: Path | None, seed: int, as_json: bool) -> None:
    """Say whether the federation is worth using, and score all models beside a forest and the median.

    Writes evaluation.html and evaluation.json (aggregates, may be shared) and predictions_STAYS.csv.
    """
    from kmel_p2p.chem.dataset.manifest import write_json
    from kmel_p2p.files import BY_UMASK, write_whole
    from kmel_p2p.learn.evaluate.evaluation import evaluate as score_models
    from kmel_p2p.learn.evaluate.evaluation import known_to
    from kmel_p2p.learn.evaluate.evaluation_page import evaluation_page
    from kmel_p2p.learn.predict.predict import load_model
    from kmel_p2p.learn.worker.prepare import prepare
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_amended_site, trainer_plan

    config = load_config(config_path)
    site = load_amended_site(config)
    model = load_model(model_folder(None, config_path))
    _require_own(model, site.charter.id.hex())
    with progress_bar("structures", as_json) as progress:
        every, _ = prepare(trainer_plan(site, seed), lambda p: progress(p.done, p.total))
    dataset = known_to(model, every)
    report, outputs = score_models(model, dataset, seed, site.assay_endpoints.retired)
    report["all_sites"] = _all_sites(config_path)
    report["came_later"] = [endpoint.name for endpoint in every.endpoints[len(dataset.endpoints) :]]
    folder = out or config.site.state_dir / "evaluation"
    write_json(folder / "evaluation.json", report, BY_UMASK)
    write_whole(folder / "evaluation.html", evaluation_page(report).encode(), mode=0o644)
    write_whole(
        folder / "predictions_STAYS.csv", _predictions(dataset, outputs, model.card.untrained).encode(), mode=0o600
    )
    if as_json:
        echo_json(report)
    else:
        _show(report, folder)


def _all_sites(config_path: Path) -> dict[str, Any] | None:
    """What all sites state of their payoff, without names: the page may be shared. None: nobody states any."""
    from kmel_p2p.cli.board import stored_board
    from kmel_p2p.site.observe.federation_payoff import federation_payoff, payoff_in_words

    site, notices = stored_board(config_path)
    found = federation_payoff(notices, site.constitution, site.assay_endpoints)
    if found is None:
        return None
    sites = Counter(found.sites.values())
    return {"text": f"Over all sites, {payoff_in_words(found)}.", "sites": dict(sites), "half_pct": found.half_pct}


def _require_own(model: Model, charter_id: str) -> None:
    """Another charter holds out other compounds, so that its model may have been trained on this test fold."""
    from kmel_p2p.agreement.errors import ConfigError

    made_under = model.card.labels.get("charter_id", charter_id)
    if made_under != charter_id:
        raise ConfigError(
            f"the model in the state directory was made under charter {made_under[:16]}. The site's present charter "
            f"{charter_id[:16]} holds out other compounds: evaluate the model with its own charter, or finish a run "
            "under this one"
        )


def _predictions(dataset: Dataset, outputs: Mapping[str, np.ndarray], untrained: Sequence[str]) -> str:
    """Structure, assay endpoint, measured value and each model's prediction (for classes the probability of 1)."""
    import numpy as np

    from kmel_p2p.learn.evaluate.scores import reported

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["smiles", "assay_endpoint", "relation", "measured", *outputs])
    signs = {-1: "<", 0: "=", 1: ">"}
    for place, endpoint in enumerate(dataset.endpoints):
        for at, row in enumerate(dataset.test) if endpoint.name not in untrained else ():
            label = float(dataset.labels[row, place])
            if not np.isfinite(label):
                continue
            found = [float(reported(endpoint, column[at : at + 1, place])[0]) for column in outputs.values()]
            measured = float(endpoint.transformed(np.array([label]))[0])
            relation = signs[int(dataset.relations[row, place])]
            figures = [f"{value:.6g}" for value in (measured, *found)]
            # The relation "=" alone is no formula.
            writer.writerow([cell(dataset.smiles[row]), cell(endpoint.name), relation, *figures])
    return out.getvalue()


def _show(report: dict[str, Any], folder: Path) -> None:
    """Advice in words, then scores and changes as two narrow tables: a terminal of 80 columns holds them."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from kmel_p2p.cli.screen import Screen
    from kmel_p2p.learn.evaluate.advice import in_words
    from kmel_p2p.learn.evaluate.evaluation_page import METRICS

    shown = {
        "baseline_median": "median", "baseline_forest": "forest", "local": "local", "federated": "fed.",
        "personalised": "pers.", "hybrid": "hybrid", "best_local": "best local", "chosen": "predicts",
    }  # fmt: skip
    # The site predicts with one of the two; eight columns would leave too little for names.
    del shown["hybrid" if report["stacked"] else "best_local"]
    columns, keys = tuple(shown.values()), tuple(shown)
    scores = Table(title="test fold; lower is better", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    gains = Table(
        title="what this site predicts with, against local", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for table, names in (
        (scores, ("assay endpoint", "tested", *columns)),
        (gains, ("assay endpoint", "score", "chosen", "change", "95 %", "at 90 %")),
    ):
        for name in names:
            left = name in ("assay endpoint", "score", "chosen", "at 90 %")
            table.add_column(name, justify="left" if left else "right", overflow="fold")
    for e in report["endpoints"]:
        if "models" not in e:
            why = "retired" if "retired" in e else "no data" if "untrained" in e else "too few"
            scores.add_row(e["name"], str(e["test"]), *["" for _ in columns[:-1]], say(why))
            continue
        scores.add_row(e["name"], str(e["test"]), *(f"{e['models'][key]['score']:.3f}" for key in keys))
        change = e["gains"]["chosen"]
        low, high = change["interval_pct"]
        score = f"{e['metric']} {e['unit']}".strip()
        gains.add_row(
            e["name"], score, e["chosen"], f"{change['change_pct']:+.1f} %", f"[{low:+.1f}, {high:+.1f}]", _held(e)
        )
    console = Screen()
    for e in report["endpoints"]:
        if "verdict" in e:
            verdict = e["verdict"]
            console.print(
                f"[bold]{escape(e['name'])}[/]: [{COLOUR[verdict['advice']]}]{say(verdict['advice'])}[/]",
                highlight=False,
                markup=True,
            )
            console.print(Padding(Text(in_words(verdict, METRICS[e["metric"]], told)), (0, 0, 0, 2)), highlight=False)
    if report["all_sites"] is not None:
        console.print(report["all_sites"]["text"], markup=False, highlight=False)
    if report["warning"]:
        warning = told(f"Warning: {report['warning']}")
        console.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(scores)
    console.print(gains)
    for e in report["endpoints"]:
        if "retired" in e:
            text = f"{e['name']} was retired in campaign {e['retired']}: it is trained no more"
            console.print(told(text), markup=False, highlight=False, soft_wrap=True)
    for name in report["came_later"]:
        text = f"{name} came after these models were made: the next ones predict it"
        console.print(told(text), markup=False, highlight=False, soft_wrap=True)
    for name, reason in report["without_intervals"].items():
        console.print(told(f"{name} has no intervals: {reason}"), markup=False, highlight=False, soft_wrap=True)
    console.print(
        told(f"May be shared: {folder}/evaluation.html, evaluation.json. Stays: predictions_STAYS.csv"),
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _held(endpoint: Mapping[str, Any]) -> str:
    """The share of test values that lie inside the 90 % intervals or sets of classes."""
    inside = next((point["inside"] for point in endpoint["coverage"] if point["level"] == 0.9), None)
    return "" if inside is None else told(f"hold {100 * inside:.0f} %")
