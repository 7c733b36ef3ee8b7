"""`kmel-peer doctor`: whether this site is well, one line for each thing, with what to do where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.language import padded, say, told
from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.site.doctor.findings import Finding

MARKS = {"good": ("ok", "green"), "note": ("--", "white"), "warning": ("!", "yellow"), "problem": ("XX", "red")}
CHECK_WIDTH = 18
COUNTED = {
    "problem": ("no problems", "1 problem", "{count} problems"),
    "warning": ("no warnings", "1 warning", "{count} warnings"),
}


@click.command()
@config_option
@json_option
@click.option("--bundle", type=FILE, help="Also write a .tar.gz for whoever helps; its contents are listed first.")
@click.option("--yes", is_flag=True, help="Write the bundle without asking.")
def doctor(config_path: Path, as_json: bool, bundle: Path | None, yes: bool) -> int:
    """Examine this site: key, settings, charter, data, disk, memory, clock, features, trainer, ports, other sites.

    The other sites are asked over their ports, whether the peer runs here or not. Exit codes: 0 nothing is wrong,
    3 key, settings or charter, 4 data, 10 network, 11 machine; the first of these that applies.
    """
    from kmel_p2p.site.doctor.examination import Examination

    found: list[Finding] = []
    for finding in Examination(config_path).findings():
        found.append(finding)
        if not as_json:
            _show(finding)
    code = exit_code(found)
    if as_json:
        echo_json({"findings": [finding.plain() for finding in found], "exit_code": int(code)})
    else:
        counts = {what: sum(finding.level == what for finding in found) for what in ("problem", "warning")}
        click.echo(", ".join(say(COUNTED[what][min(count, 2)]).format(count=count) for what, count in counts.items()))
    if bundle is not None:
        _bundle(bundle, config_path, found, yes, quiet=as_json)
    return code


def exit_code(found: list[Finding]) -> ExitCode:
    """The code for what was found."""
    areas = {finding.area.value for finding in found if finding.level == "problem"}
    codes = {
        "files": ExitCode.CONFIG,
        "data": ExitCode.DATA,
        "network": ExitCode.NETWORK,
        "machine": ExitCode.MACHINE,
    }
    return next((code for area, code in codes.items() if area in areas), ExitCode.OK)


def _show(finding: Finding) -> None:
    mark, colour = MARKS[finding.level]
    check, text, todo = finding.in_words(say)
    # What is wrong with settings may take several lines.
    first, *more = map(told, text.split("\n"))
    click.echo(f"{click.style(f'{mark:2}', fg=colour)} {padded(check, CHECK_WIDTH)} {first}")
    for line in more:
        click.echo(f"   {'':{CHECK_WIDTH}} {line}")
    if todo:
        click.echo(f"   {'':{CHECK_WIDTH}} -> {told(todo)}")


def _bundle(path: Path, config_path: Path, found: list[Finding], yes: bool, quiet: bool) -> None:
    from kmel_p2p.cli.new_site import agreed
    from kmel_p2p.site.doctor.bundle import bundle_contents, write_bundle

    contents = bundle_contents(config_path, found, _status(config_path))
    if not quiet:
        click.echo("\n" + say("{path} would hold:").format(path=path))
        for name, content in contents.items():
            click.echo(f"  {name:24} {len(content):>9,} bytes")
        click.echo(
            say("It holds no key, invitation, measurement, structure, model or entry. Read the log before you send it.")
        )
    if yes or agreed(say("Write it?")):
        write_bundle(path, contents)
        click.echo(say("Wrote {path}.").format(path=path), err=quiet)


def _status(config_path: Path) -> dict[str, Any] | None:
    from kmel_p2p.agreement.errors import KmelError
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.control.client import ControlClient

    try:
        with ControlClient(load_config(config_path).site.state_dir) as client:
            return client.status().as_dict()
    except KmelError:
        return None
