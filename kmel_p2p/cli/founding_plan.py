"""What `kmel-peer invite` is told of a federation to be founded, at first and when it goes on after an interruption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kmel_p2p.agreement.endpoint import AssayEndpoint
    from kmel_p2p.site.desk.invitations import FoundingPlan

PARAMETERS = {"sites": "count"}
"""Part of a plan -> the parameter of this command, where the two differ."""


def given_of(context: click.Context, names: Iterable[str]) -> list[str]:
    """Those that were given on the command line, not by default."""
    source = click.core.ParameterSource.COMMANDLINE
    return [name for name in names if context.get_parameter_source(PARAMETERS.get(name, name)) is source]


def require_open(charter: Path, kept: FoundingPlan | None, plan: FoundingPlan) -> None:
    """Raises UsageError where the charter is drafted already and something else is asked for now."""
    if kept is None or not charter.exists():
        return
    changed = [name for name, value in dict(plan).items() if value != dict(kept)[name] and name != "federation"]
    if changed:
        options = ", ".join(f"--{name.removesuffix('s') if name == 'endpoints' else name}" for name in changed)
        raise click.UsageError(
            f"{charter} is drafted already, so {options} would change nothing: edit it there before anybody signs, "
            "and run kmel-peer invite without these options"
        )


def plan_of(
    federation: str | None,
    count: int | None,
    endpoints: tuple[str, ...],
    drafted: Mapping[str, Any],
) -> FoundingPlan:
    """The plan of a new federation.

    Raises:
        UsageError: something is missing.
        ConfigError: a value is not possible.
    """
    from kmel_p2p.agreement.strict import build
    from kmel_p2p.site.desk.invitations import FoundingPlan

    wanted = {"--federation": federation, "--sites": count, "--endpoint": endpoints}
    missing = [option for option, given in wanted.items() if not given]
    if missing:
        raise click.UsageError(
            f"to found a federation, give {' and '.join(missing)}, for instance: kmel-peer invite --federation "
            "logd-2026 --sites 3 --endpoint logd,head=shared"
        )
    values = {"federation": federation, "sites": count, "endpoints": endpoints, **drafted}
    return build(FoundingPlan, values, "command line")


def rules_of(texts: tuple[str, ...]) -> list[AssayEndpoint]:
    """The assay endpoints of a plan. Raises ConfigError where one is not possible."""
    from kmel_p2p.agreement.endpoint import AssayEndpoint
    from kmel_p2p.agreement.strict import build
    from kmel_p2p.cli.charter_draft import endpoint_of

    return [build(AssayEndpoint, endpoint_of(text), f"--endpoint {text}") for text in texts]
