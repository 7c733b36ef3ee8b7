"""`kmel-peer egress`: the record of what left this site, read offline."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import click

from kmel_p2p.cli.options import config_option, echo_json, json_option


@click.group()
def egress() -> None:
    """Read and verify the record of what left this site."""


@egress.command()
@config_option
@click.option("--last", type=click.IntRange(min=1), help="Only the newest N records.")
@click.option("--to", "destination", help="Only records for this site.")
@json_option
def show(config_path: Path, last: int | None, destination: str | None, as_json: bool) -> None:
    """Print the records, oldest first."""
    from collections import deque

    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.observe.egress import EGRESS_NAME, read

    path = load_config(config_path).site.state_dir / EGRESS_NAME
    records = (record for record in read(path) if destination in (None, record["to"]))
    for record in deque(records, maxlen=last) if last else records:
        if as_json:
            click.echo(json.dumps(record, ensure_ascii=False))
        else:
            when = datetime.datetime.fromtimestamp(record["time"], datetime.UTC).isoformat(" ", "milliseconds")
            click.echo(
                f"{record['n']:>7}  {when[:-6]}Z  {record['to'] or '-':<16} {record['kind']:<12}"
                f" {record['bytes']:>10} B in {record['messages']:>5}  {record['what']}"
            )


@egress.command()
@config_option
@json_option
def verify(config_path: Path, as_json: bool) -> None:
    """Check the chain from its first record on, and its end against the head kept in the store."""
    from kmel_p2p.cli.exits import DoesNotHoldError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.observe.egress import EGRESS_NAME, verify
    from kmel_p2p.site.observe.egress_head import kept_head

    state_dir = load_config(config_path).site.state_dir
    path = state_dir / EGRESS_NAME
    verdict = verify(path, kept_head(state_dir))
    totals = [
        {"to": to, "kind": kind, "messages": total.messages, "bytes": total.bytes}
        for (to, kind), total in sorted(verdict.totals.items())
    ]
    if as_json:
        echo_json(
            {
                "records": verdict.head.number,
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
            click.echo(
                f"the last line is unfinished ({verdict.torn_bytes} bytes): the daemon is writing it, or crashed"
            )
    if verdict.problem:
        raise DoesNotHoldError(f"{path}: {verdict.problem}")
    if not as_json:
        click.echo(f"{verdict.head.number} records, chain unbroken, head {verdict.head.hash[:16]}")
