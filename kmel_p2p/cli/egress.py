"""`kmel-peer egress`: the record of what left this site, read offline."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kmel_p2p.cli.language import say, tell, told
from kmel_p2p.cli.options import DIRECTORY, FILE, config_option, echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.site.observe.egress_segments import EgressVerdict

F = TypeVar("F", bound=Callable[..., Any])


def _archive_option(command: F) -> F:
    return click.option(
        "--archive",
        "archives",
        multiple=True,
        type=DIRECTORY,
        help="A folder that closed segments (egress-*.jsonl) were moved to; may be given several times.",
    )(command)


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, bool] | None:
    """A date or time of ISO 8601, UTC unless it says otherwise: seconds since 1970, and whether it is a whole day."""
    if value is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        return moment.timestamp(), len(value) <= len("2026-11-29")
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!r} is not a date like 2026-11-29 or 2026-11-29T08:00") from None


@click.group()
def egress() -> None:
    """Read and verify the record of what left this site."""


@egress.command()
@config_option
@click.option("--last", type=click.IntRange(min=1), help="Only the newest N records.")
@click.option("--to", "destination", help="Only records for this site.")
@_archive_option
@json_option
def show(
    config_path: Path, last: int | None, destination: str | None, archives: tuple[Path, ...], as_json: bool
) -> None:
    """Print the records, oldest first."""
    from collections import deque

    from kmel_p2p.site.observe.egress_segments import read
    from kmel_p2p.site.observe.egress_summary import time_text

    path = _log_of(config_path)
    records = (record for record in read(path, archives) if destination in (None, record["to"]))
    for record in deque(records, maxlen=last) if last else records:
        if as_json:
            click.echo(json.dumps(record, ensure_ascii=False))
        else:
            click.echo(
                f"{record['n']:>7}  {time_text(record['time'])}  {record['to'] or '-':<16} {record['kind']:<12}"
                f" {record['bytes']:>10} B in {record['messages']:>5}  {record['what']}"
            )


@egress.command()
@config_option
@_archive_option
@json_option
def verify(config_path: Path, archives: tuple[Path, ...], as_json: bool) -> None:
    """Check the chain over all segments, and its end against the head kept in the store."""
    from kmel_p2p.site.observe.egress_summary import contents
    from kmel_p2p.site.observe.status import bytes_text

    verdict = _verdict(config_path, archives)
    totals = [
        {"to": to, "kind": kind, "messages": total.messages, "bytes": total.bytes}
        for (to, kind), total in sorted(verdict.totals.items())
    ]
    if as_json:
        echo_json(
            {
                "records": verdict.head.number,
                "first": verdict.first,
                "segments": verdict.segments,
                "head": verdict.head.hash,
                "problem": verdict.problem,
                "unfinished_bytes": verdict.torn_bytes,
                "totals": totals,
            }
        )
    else:
        for row in totals:
            click.echo(f"{row['to']:<16} {row['kind']:<12} {row['messages']:>8} messages {row['bytes']:>12} B")
        if verdict.torn_bytes:
            tell(f"the last line is unfinished ({verdict.torn_bytes} bytes): the daemon is writing it, or crashed")
    _require_whole(config_path, verdict)
    if not as_json:
        if verdict.first > 1:
            tell(f"records 1 to {verdict.first - 1} were deleted as egress.keep_days says; the log records it")
        count, head = verdict.head.number - verdict.first + 1, verdict.head.hash[:16]
        if verdict.segments > 1:
            tell(f"{count} records, chain unbroken over {verdict.segments} segments, head {head}")
        else:
            tell(f"{count} records, chain unbroken, head {head}")
        for to, left in contents(verdict.totals).items():
            most = sorted(((total.bytes, name) for name, total in left.items()), reverse=True)
            what = ", ".join(f"{told(name)} {bytes_text(size)}" for size, name in most)
            click.echo(say("to {site}: {contents}").format(site=to, contents=what))


@egress.command()
@config_option
@click.option("--since", callback=_moment, required=True, help="Date or time (ISO 8601, UTC unless it names a zone).")
@click.option("--until", callback=_moment, help="The same for the end; a date includes that day. Default: now.")
@click.option("--out", "output", type=FILE, help="Write the records to this new file, not to standard output.")
@_archive_option
@json_option
def export(
    config_path: Path,
    since: tuple[float, bool],
    until: tuple[float, bool] | None,
    output: Path | None,
    archives: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Copy the records of some days, as JSON lines, and say in plain words what left.

    The lines are those of the log, byte by byte. A record of small messages stands for up to ten minutes before its
    time. The summary goes to standard output with --out, otherwise to standard error (with --json as JSON). The whole
    chain is checked first: where it is broken, the command says so and ends with code 8.
    """
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.site.observe.egress import DAY_S
    from kmel_p2p.site.observe.egress_segments import read_lines
    from kmel_p2p.site.observe.egress_summary import EgressSummary

    end = math.inf if until is None else until[0] + (DAY_S if until[1] else 0.0)
    if end <= since[0]:
        raise click.UsageError("--until is not after --since")
    verdict = _verdict(config_path, archives)
    summary = EgressSummary()
    every = read_lines(_log_of(config_path), archives)
    lines = ((line, record) for line, record in every if since[0] <= record["time"] < end)
    if output is None:
        for line, record in lines:
            click.echo(line, nl=False)
            summary.add(record)
    else:
        try:
            with output.open("xb") as file:
                for line, record in lines:
                    file.write(line)
                    summary.add(record)
        except FileExistsError:
            raise ConfigError(f"{output}: exists already and is not overwritten; choose another name") from None
        except OSError as error:
            output.unlink(missing_ok=True)
            raise ConfigError(f"{output}: cannot be written: {error.strerror}") from error
    text = (
        json.dumps({**summary.plain(), "problem": verdict.problem}, indent=2, ensure_ascii=False)
        if as_json
        else "\n".join(summary.words())
    )
    click.echo(text, err=output is None)
    _require_whole(config_path, verdict)


def _log_of(config_path: Path) -> Path:
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.observe.egress_segments import EGRESS_NAME

    return load_config(config_path).site.state_dir / EGRESS_NAME


def _verdict(config_path: Path, archives: tuple[Path, ...]) -> EgressVerdict:
    from kmel_p2p.site.observe.egress_head import kept_head
    from kmel_p2p.site.observe.egress_segments import verify

    path = _log_of(config_path)
    return verify(path, kept_head(path.parent), archives)


def _require_whole(config_path: Path, verdict: EgressVerdict) -> None:
    from kmel_p2p.cli.exits import DoesNotHoldError

    if verdict.problem:
        raise DoesNotHoldError(f"{_log_of(config_path)}: {verdict.problem}")
