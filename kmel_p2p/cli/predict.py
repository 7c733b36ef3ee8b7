"""`kmel-peer predict`: values for structures from the model directory of this site, offline."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import DIRECTORY, FILE, config_option, model_folder
from kmel_p2p.cli.progress import progress_of_long_work
from kmel_p2p.cli.structure_input import input_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmel_p2p.chem.read.structure_file import InputForm, RowBlock, StructureFile
    from kmel_p2p.cli.prediction_output import Output
    from kmel_p2p.cli.registering import Registering
    from kmel_p2p.learn.predict.predict import Model
    from kmel_p2p.learn.predict.ray_cluster import RayCluster
    from kmel_p2p.learn.predict.shift import Batch
    from kmel_p2p.learn.predict.values import Prediction


def shard_of(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """(K, N) of `K/N`."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value or "")
    if value is None:
        return None
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"{value!r} is no K/N with K from 1 to N, such as 3/100", context, option)
    return int(found[1]), int(found[2])


@dataclass
class Tally:
    """What is told at the end, over all blocks.

    Attributes:
        similarities: of the compounds, for `Model.shift`.
        rows, predicted: how many.
        first: structure and reason of the first row, if it was not predicted.
    """

    similarities: Batch
    rows: int = 0
    predicted: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, facts: dict[str, Any]) -> None:
        """A block, as `facts_of` told it."""
        self.similarities.add_plain(facts["similarities"])
        if not self.rows:
            self.first = facts["first"]
        self.rows += facts["rows"]
        self.predicted += facts["predicted"]


def facts_of(loaded: Model, rows: RowBlock, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What `Tally` needs to know of a block, ready for JSON."""
    from kmel_p2p.learn.predict.columns import reason_of

    first = reason_of(0, predictions[0], rows.refused)
    return {
        "rows": len(predictions),
        "predicted": sum(1 for prediction in predictions if not prediction.reason),
        "first": [predictions[0].smiles[:80], first] if first else [],
        "similarities": loaded.batch([predictions]).plain(),
    }


@click.command()
@click.argument("source", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), metavar="IN")
@click.option("--output", "-o", type=FILE, help="Where to write, as Parquet if it ends so; default: standard output.")
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
@click.option("--shard", metavar="K/N", callback=shard_of, help="Only the Kth of N parts of the rows, for job arrays.")
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="Describe and predict on a Ray cluster (extra 'ray'): its address, or local for this machine's cores.",
)
@click.option("--resume", is_flag=True, help="Go on where a run with the same IN and -o was interrupted.")
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@click.option("--model-version", "version", metavar="VERSION", help="Of this site's models; see kmel-peer models list.")
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
    shard: tuple[int, int] | None,
    address: str | None,
    resume: bool,
    model_dir: Path | None,
    version: str | None,
    as_json: bool,
    report: Path | None,
    config_path: Path,
) -> None:
    """Predict assay endpoints for the structures in IN, as CSV, Parquet or JSON.

    IN is a table (CSV, Parquet, .xlsx), SDF or a list of SMILES; - is standard input.

    Every row and column of IN is kept, in order. A row that cannot be predicted says why in the column kmel_reason;
    the exit code is 4 if there are rows, and none of them could be predicted.

    OUT appears when it is whole. Until then its blocks are in OUT.unfinished, where --resume finds them. The outputs
    of all shards, one after the other, are the rows of IN in order.
    """
    from kmel_p2p.cli.explanation_report import write_report
    from kmel_p2p.cli.registering import registering
    from kmel_p2p.cli.structure_input import open_input
    from kmel_p2p.learn.predict.predict import load_model
    from kmel_p2p.learn.predict.ray_cluster import connected
    from kmel_p2p.site.config import load_config

    if resume and output is None:
        raise click.UsageError("--resume goes on with a file: name it with -o")
    if output is not None and output.exists() and not output.is_file():
        raise click.UsageError(f"{output} is no file that could be replaced; leave out -o for standard output")
    folder = model_folder(model_dir, config_path, version)
    file = open_input(source, form)
    loaded = load_model(folder)
    made = _output(file, loaded, output, model, level, as_json)
    part, parts = shard or (1, 1)
    start, stop = file.count * (part - 1) // parts, file.count * part // parts
    tally = Tally(loaded.batch())
    # The register is about what this site acts upon: its own models, as they answer without being asked for one.
    own = model is None and model_dir is None and version is None
    with (
        registering(load_config(config_path), loaded) if own else nullcontext() as register,
        connected(address, folder, loaded, partial(click.echo, err=True))
        if address is not None
        else nullcontext() as cluster,
    ):

        def work(start: int, crashed: bool = False) -> Iterator[tuple[bytes, dict[str, Any]]]:
            return _blocks(file, loaded, made, start, stop, model, level, register, crashed, cluster)

        if output is None:
            for piece in made.whole(_told(work(start), tally), tally.similarities.shift):
                click.echo(piece, nl=False)
        else:
            asked = {"shard": f"{part}/{parts}", "model": model, "level": level, "json": as_json, "form": repr(form)}
            made_from = {"input": file.digest(), "model": _digest(folder), "set of options": json.dumps(asked)}
            _write(output, made, work, start, made_from, resume, tally)
    if report is not None:
        write_report(report, source, file, (start, stop), loaded, tally.similarities.shift(), model, level)
    _tell(tally, loaded, model, level, output)
    if model_dir is None:
        _tell_retired(loaded, config_path)
    _require_one(source, tally)


def _output(
    file: StructureFile, loaded: Model, output: Path | None, model: str | None, level: float, as_json: bool
) -> Output:
    from kmel_p2p.chem.read.table_file import is_parquet
    from kmel_p2p.cli.prediction_output import CsvOutput, JsonOutput, ParquetOutput

    if output is not None and is_parquet(output):
        if as_json:
            raise click.UsageError(f"{output} is a Parquet file; leave out --json, or name a file .json")
        return ParquetOutput(file, loaded)
    return JsonOutput(file, loaded, model, level) if as_json else CsvOutput(file, loaded)


def _blocks(
    file: StructureFile,
    loaded: Model,
    made: Output,
    start: int,
    stop: int,
    model: str | None,
    level: float,
    register: Registering | None,
    crashed: bool,
    cluster: RayCluster | None,
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """(content, facts) of each block of rows from `start` to `stop`, recorded if asked for; shows how far it is.

    Where there is a `cluster`, it predicts. A few rows are done in this process, which is quicker, unless it `crashed`
    before.
    """
    from kmel_p2p.chem.structures.described import CHUNK
    from kmel_p2p.chem.structures.parallel import usable_cores
    from kmel_p2p.learn.predict.predict import BLOCK

    waiting: list[RowBlock] = []

    def smiles() -> Iterator[list[str]]:
        for rows in file.blocks(start, stop, BLOCK):
            waiting.append(rows)
            yield [row[file.smiles_at] for row in rows.rows]

    with progress_of_long_work("structures", stop - start) as progress:
        if cluster is not None:
            found = cluster.predict_blocks(smiles(), model=model, level=level, done=progress.add)
        else:
            found = loaded.predict_blocks(
                smiles(),
                model=model,
                level=level,
                workers=usable_cores(),
                isolated=crashed or stop - start > CHUNK,
                done=progress.add,
            )
        for predictions in found:
            rows = waiting.pop(0)
            if register is not None:
                register.take(predictions, level)
            yield made.block(rows, predictions), facts_of(loaded, rows, predictions)
            progress.reach(len(predictions))


def _told(blocks: Iterable[tuple[bytes, dict[str, Any]]], tally: Tally) -> Iterator[bytes]:
    for content, facts in blocks:
        tally.add(facts)
        yield content


def _write(
    output: Path,
    made: Output,
    work: Callable[[int, bool], Iterator[tuple[bytes, dict[str, Any]]]],
    start: int,
    made_from: dict[str, str],
    resume: bool,
    tally: Tally,
) -> None:
    """Do the blocks that are not done yet, and put all together."""
    from kmel_p2p.cli.unfinished import UnfinishedOutput
    from kmel_p2p.files import BY_UMASK, whole_file

    unfinished = UnfinishedOutput(output, made_from, resume)
    try:
        for facts in unfinished.blocks:
            tally.add(facts)
        if tally.rows:
            tell(f"{tally.rows} rows were done before", err=True)
        for content, facts in work(start + tally.rows, unfinished.crashed):
            unfinished.keep(content, facts)
            tally.add(facts)
        with whole_file(output, mode=BY_UMASK) as out:
            for piece in made.whole(unfinished.parts(), tally.similarities.shift):
                out.write(piece)
    except BaseException:
        if unfinished.blocks:
            tell(f"{unfinished.folder} keeps {tally.rows} rows that are done; --resume goes on", err=True)
        unfinished.close(keep=bool(unfinished.blocks))
        raise
    unfinished.close(keep=False)


def _digest(folder: Path) -> str:
    """Of all files that predictions depend on."""
    from kmel_p2p.version import VERSION

    state = hashlib.blake2b(digest_size=32)
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as handle:
            own = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=32))
        state.update(f"{path.name} {own.hexdigest()}\n".encode())
    state.update(VERSION.encode())
    return state.hexdigest()


def _tell(tally: Tally, loaded: Model, model: str | None, level: float, output: Path | None) -> None:
    """Print on standard error what the reader should know besides the table."""
    if output is not None or tally.predicted < tally.rows:
        where = "" if output is None else f", written to {output}"
        tell(f"{tally.predicted} of {tally.rows} rows predicted{where}", err=True)
    for name, reason in loaded.without_values(model).items():
        tell(f"{name} is not predicted: {reason}", err=True)
    classes = {e.name for e in loaded.card.architecture.endpoints if e.kind == "classification"}
    for name, reason in loaded.without_intervals(level).items() if model is None else ():
        if name in classes:
            tell(f"{name} has no sets of classes: {reason}", err=True)
        else:
            tell(f"{name} has no intervals: {reason}", err=True)
    warning = tally.similarities.shift() if model is None else None
    if warning is not None:
        tell(f"Warning: {warning}", err=True)
    if loaded.neighbours is None:
        tell("no similarities: this model directory has no training compounds to compare with", err=True)


def _tell_retired(loaded: Model, config_path: Path) -> None:
    """Which assay endpoints these models still predict although the consortium trains them no more."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.state.database import STORE_NAME, holds_amendments

    config = load_config(config_path)
    if not config.site.amendments and not holds_amendments(config.site.state_dir / STORE_NAME):
        return
    from kmel_p2p.cli.charter import load_charter
    from kmel_p2p.site.loaded_site import assay_endpoints_of

    try:
        retired = assay_endpoints_of(config, load_charter(config.site.charter).charter).retired
    except ConfigError:
        return  # models alone predict, too
    silent = loaded.without_values()
    for endpoint in loaded.card.architecture.endpoints:
        if endpoint.name in retired and endpoint.name not in silent:
            text = f"{endpoint.name} was retired in campaign {retired[endpoint.name]}: these models are from before"
            click.echo(text, err=True)


def _require_one(source: Path, tally: Tally) -> None:
    from kmel_p2p.agreement.errors import DataError

    if tally.rows and not tally.predicted:
        smiles, reason = tally.first
        raise DataError(
            f"{source}: not one row could be predicted; the first is {smiles!r}: {reason}. "
            "If IN is of another kind than it seems, say so with --format and --smiles-column"
        )


@click.command()
@click.argument("output", type=DIRECTORY)
@click.option("--onnx", "as_onnx", is_flag=True, help="Also write one ONNX graph per model (extra 'onnx').")
@click.option(
    "--hub",
    is_flag=True,
    help="Also write what a model hub shows: a card, config.json and an example, with ONNX where the trunk has it.",
)
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@config_option
def export(output: Path, as_onnx: bool, hub: bool, model_dir: Path | None, config_path: Path) -> None:
    """Copy the model directory to OUTPUT, without what reveals training compounds: fingerprints and learners.

    The copy predicts with the networks alone, not with this site's stack. Load it with
    kmel_p2p.load(OUTPUT).predict(["CCO"]). With --hub, it also has the layout of Hugging Face's hub, and example.py
    predicts without this program; nothing is uploaded. The parameters were trained on this site's data: give them only
    to those who may draw conclusions from it.
    """
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.learn.predict.export import export_model, export_onnx, require_onnx
    from kmel_p2p.learn.predict.hub import has_graphs, write_hub_files
    from kmel_p2p.learn.predict.model_directory import read_card

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output}: is not empty; name a new directory")
    source = model_folder(model_dir, config_path)
    as_onnx = as_onnx or (hub and has_graphs(read_card(source)))
    if as_onnx:
        require_onnx(source)  # before anything is written
    card = export_model(source, output)
    tell(f"Wrote model {card.digest[:16]} to {output}.")
    left = [path.name for path in sorted(source.glob("*_STAYS*"))]
    if left:
        tell(f"Left out, as they reveal training compounds: {', '.join(left)}. The copy predicts with networks.")
    if as_onnx:
        for path in export_onnx(source, output):
            tell(f"Wrote {path}.")
    if hub:
        for path in write_hub_files(output, card):
            tell(f"Wrote {path}.")
        tell("The card says license: other. State yours, and that all sites agree, before you publish any of it.")
