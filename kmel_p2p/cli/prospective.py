"""`kmel-peer prospective`: predictions of this site, compared with what it has measured since."""

from __future__ import annotations

import csv
import datetime
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.agreement.shown import cell
from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import DIRECTORY, FILE, config_option, echo_json, json_option
from kmel_p2p.learn.register import FOLDER, REPORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmel_p2p.learn.register.matched import Matched


@click.command()
@config_option
@click.option("--out", type=DIRECTORY, help="Where to write; default: prospective in the state directory.")
@click.option("--export", "exported", type=FILE, help="Also write each pair of values as CSV, without structures.")
@click.option(
    "--forget-before",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Delete predictions made before this day (UTC) from the register, and do nothing else.",
)
@json_option
def prospective(
    config_path: Path, out: Path | None, exported: Path | None, forget_before: datetime.datetime | None, as_json: bool
) -> None:
    """Say whether predictions were right on what was measured after them: by month, against best local.

    [predictions] record = true in the settings makes kmel-peer predict record what it answers.

    Writes prospective.html and prospective.json (aggregates, may be shared). Exit code 8: the models have drifted; the
    report says how.
    """
    from kmel_p2p.chem.dataset.manifest import write_json
    from kmel_p2p.cli.data import read_measurements
    from kmel_p2p.cli.exits import DoesNotHoldError
    from kmel_p2p.cli.registering import files_now, open_register
    from kmel_p2p.files import BY_UMASK, write_whole
    from kmel_p2p.learn.register.prospective import prospective as report_on
    from kmel_p2p.learn.register.prospective_page import prospective_page
    from kmel_p2p.learn.register.recording import measured_by
    from kmel_p2p.site.config import load_config

    config = load_config(config_path)
    _require_register(config_path, config)
    with open_register(config) as register:
        if forget_before is not None:
            _forget(register, forget_before, as_json)
            return
        files = files_now(config)
        charter, own, test = read_measurements(config, quiet=as_json, retired=True)
        measurements = [own, *([test] if test else [])]
        register.see(measured_by(measurements), files)
        found, matched = report_on(register.ahead(), measurements, own.endpoints)
        versions = {name: {"predictions": count, "since": _day(at)} for name, (count, at) in register.counts().items()}
    report = {"site": config.site.name, "federation": charter.federation, "versions": versions, **found}
    folder = out or config.site.state_dir / FOLDER
    write_json(folder / REPORT, report, BY_UMASK)
    write_whole(folder / "prospective.html", prospective_page(report).encode(), mode=0o644)
    if exported is not None:
        write_whole(exported, _table(matched).encode())
    if as_json:
        echo_json(report)
    else:
        _show(report, folder)
    if report["drift"]:
        raise DoesNotHoldError("\n".join(report["drift"]))


def _require_register(path: Path, config: Any) -> None:
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.learn.register.register import FILE

    if not (config.site.state_dir / FILE).exists():
        raise ConfigError(
            f"{path}: no prediction was recorded yet. Set record = true in [predictions]; from then on kmel-peer "
            "predict records what it answers, and this command compares it with what is measured later"
        )


def _forget(register: Any, before: datetime.datetime, as_json: bool) -> None:
    count = register.forget(int(before.replace(tzinfo=datetime.UTC).timestamp()))
    if as_json:
        echo_json({"forgotten": count})
    else:
        tell(f"{count} predictions deleted from the register.")


def _day(at_s: int) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d")


def _table(matched: Mapping[str, Matched]) -> str:
    """Month, model version, predicted and measured in the transformed unit; no structure and no name of a compound."""
    from kmel_p2p.learn.evaluate.scores import reported

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["assay_endpoint", "month", "version", "predicted", "measured", "best_local", "inside", "similarity"]
    )
    for name, part in matched.items():
        columns = [reported(part.endpoint, column) for column in (part.outputs, part.best_local)]
        measured = part.labels if part.endpoint.kind == "classification" else part.endpoint.transformed(part.labels)
        for at, (row, month) in enumerate(zip(part.rows, part.months, strict=True)):
            figures = (columns[0][at], measured[at], columns[1][at], part.inside[at])
            texts = ["" if figure != figure else f"{figure:.6g}" for figure in figures]
            similar = "" if row.similarity is None else f"{row.similarity:.3f}"
            writer.writerow([cell(name), month, row.version, *texts, similar])
    return out.getvalue()


def _show(report: Mapping[str, Any], folder: Path) -> None:
    """A line of words for each assay endpoint, then a table by month: a terminal of 80 columns holds it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from kmel_p2p.cli.screen import Screen
    from kmel_p2p.learn.register.prospective_page import METRICS, in_words

    console = Screen()
    for e in report["endpoints"]:
        console.print(f"{e['name']}: {in_words(e)}", markup=False, highlight=False, soft_wrap=True)
        shown = [month for month in e["months"] if "score" in month]
        if not shown:
            continue
        title = f"{e['name']}, {METRICS[e['metric']]} {e['unit']}, by month of prediction".replace(" ,", ",")
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for name in ("month", "values", "predicts", "best local", "median", "bias", "inside", "outside"):
            table.add_column(name, justify="left" if name == "month" else "right")
        for month in shown:
            table.add_row(
                month["month"],
                str(month["values"]),
                *(_number(month.get(key)) for key in ("score", "best_local", "median")),
                f"{month['bias']:+.2f}",
                _percent(month.get("inside")),
                _percent(month.get("outside")),
            )
        console.print(table)
    console.print(f"May be shared: {folder}/prospective.html, {REPORT}", markup=False, highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
