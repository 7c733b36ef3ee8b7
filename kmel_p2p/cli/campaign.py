"""`kmel-peer campaign`: the numbered runs of a federation. Underneath, a later one is an amendment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kmel_p2p.cli import amendment
from kmel_p2p.cli.language import tell, told
from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.agreement.amendment import Constitution


@click.group()
def campaign() -> None:
    """Open the next run of this federation, from the trunk as it is; agreed on like an amendment."""


@campaign.command()
@config_option
@click.option("--entries", type=click.IntRange(min=1), help="Of each site. Default: as in the campaign before.")
@click.option(
    "--set", "settings", multiple=True, metavar="SECTION.KEY=NUMBER", help="A setting of the charter to change; repeat."
)
@click.option(
    "--sit-out", "sits_out", multiple=True, metavar="NAME", help="A site that publishes nothing in it; repeat."
)
@click.option("--fresh-optimiser", is_flag=True, help="Sites begin with new optimisers.")
@click.option("--drop-residual", is_flag=True, help="What sites trained and did not publish is dropped.")
@click.option("--add", "added", multiple=True, metavar="NAME=KEY[@ADDRESS,...]", help="A new site; repeat.")
@click.option(
    "--add-endpoint",
    "new_endpoints",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="TOML with [[assay_endpoints]] to add, described as in a charter; heads are private. Repeat.",
)
@click.option(
    "--retire-endpoint",
    "old_endpoints",
    multiple=True,
    metavar="NAME",
    help="An assay endpoint to train no more; repeat.",
)
@click.option("--output", "-o", type=FILE, default=Path("campaign.toml"), show_default=True)
def draft(
    config_path: Path,
    entries: int | None,
    settings: tuple[str, ...],
    sits_out: tuple[str, ...],
    fresh_optimiser: bool,
    drop_residual: bool,
    added: tuple[str, ...],
    new_endpoints: tuple[Path, ...],
    old_endpoints: tuple[str, ...],
    output: Path,
) -> None:
    """Draft the next campaign, after what is published here now: draft it when the run is over."""
    from kmel_p2p.cli.charter_draft import site_of
    from kmel_p2p.files import write_new

    constitution, heads, _ = amendment.in_force(config_path)
    now = constitution.campaign
    rule: dict[str, Any] = {
        "number": now.number + 1,
        "entries": entries or now.entries,
        "after": heads or dict.fromkeys((site.name for site in constitution.roster.values()), 0),
        "settings": dict(_setting(text) for text in settings),
        "sits_out": sits_out,
        "optimiser": "fresh" if fresh_optimiser else "kept",
        "residual": "dropped" if drop_residual else "kept",
        "add_endpoints": [endpoint for path in new_endpoints for endpoint in _endpoints_in(path)],
        "retire_endpoints": old_endpoints,
    }
    document = constitution.draft(campaign=rule, add=[site_of(text) for text in added])
    write_new(output, document.render().encode(), 0o644)
    tell(f"Wrote {output}: campaign {now.number + 1} as amendment {document.amendment.number}, unsigned.")
    for key, site in constitution.roster.items():
        if (left := now.limit_of(key) - heads.get(site.name, 0)) > 0:
            tell(f"{site.name} has published {left} entries less than it may; what is left of them is given up.")
    if new_endpoints:
        tell("Sites that measure what is new name its columns under [data.columns] before the campaign starts.")
    tell(f"{constitution.signatures_needed} sites now run: kmel-peer campaign sign {output} --config site.toml")


campaign.add_command(amendment.sign, "sign")
campaign.add_command(amendment.propose, "propose")
campaign.add_command(amendment.enact, "start")


@campaign.command()
@config_option
@json_option
def show(config_path: Path, as_json: bool) -> None:
    """Show all campaigns so far: entries, settings, and where each begins in every site's log.

    What a campaign says that is not in force yet: kmel-peer amendment show FILE.
    """
    constitution, heads, _ = amendment.in_force(config_path)
    rows = _rows(constitution, heads)
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        opened = f"amendment {row['amendment']}" if row["amendment"] else "the charter"
        tell(f"campaign {row['number']}, opened by {opened}: {row['entries']} entries of each site")
        tell("  " + ", ".join(f"{name} {value}" for name, value in row["settings"].items()))
        for what in ("added", "retired"):
            if names := row[f"{what}_endpoints"]:
                tell(f"  assay endpoints {what}: {', '.join(names)}")
        for name, site in row["sites"].items():
            out = "; sits it out" if site["sits_out"] else ""
            made = f"entries {site['first']} to {site['last']}" if site["last"] >= site["first"] else "no entry"
            click.echo(f"  {name}: {told(made)}{told(out)}")


def _rows(constitution: Constitution, heads: dict[str, int]) -> list[dict[str, Any]]:
    """One for each campaign. A site's part in it is its entries `first` to `last`."""
    from kmel_p2p.agreement.campaign import CHANGEABLE

    rows, known = [], 0
    for each, following in zip(constitution.campaigns, (*constitution.campaigns[1:], None), strict=True):
        sites = {}
        for key, site in constitution.roster.items():
            last = heads.get(site.name, 0) if following is None else following.before(key)
            sites[site.name] = {"first": each.before(key) + 1, "last": last, "sits_out": key in each.sits_out}
        settings = {name: _value(each, name) for name in CHANGEABLE}
        rows.append(
            {
                "number": each.number,
                "amendment": each.amendment,
                "entries": each.entries,
                "settings": settings,
                "added_endpoints": [endpoint.name for endpoint in each.assay_endpoints.every[known:]] if known else [],
                "retired_endpoints": [
                    name for name, number in each.assay_endpoints.retired.items() if number == each.number
                ],
                "sites": sites,
            }
        )
        known = len(each.assay_endpoints.every)
    return rows


def _value(campaign_: object, setting: str) -> Any:
    section, _, key = setting.partition(".")
    return getattr(getattr(campaign_, section), key)


def _endpoints_in(path: Path) -> list[dict[str, Any]]:
    """What a file says under `[[assay_endpoints]]`, read like a charter's.

    Raises:
        ConfigError: it cannot be read, or says something else; names file and key.
    """
    import pydantic

    from kmel_p2p.agreement.endpoint import AssayEndpoint
    from kmel_p2p.agreement.strict import StrictModel, parse_toml
    from kmel_p2p.site.config import read_text

    class AddedEndpoints(StrictModel):
        assay_endpoints: tuple[AssayEndpoint, ...] = pydantic.Field(min_length=1)

    text = read_text(path, "write the assay endpoint into it as [[assay_endpoints]], as in a charter")
    return [endpoint.model_dump() for endpoint in parse_toml(AddedEndpoints, text, str(path)).assay_endpoints]


def _setting(text: str) -> tuple[str, int | float]:
    """Raises UsageError where a campaign cannot change that, with the reason."""
    from kmel_p2p.agreement.campaign import fixed_because

    name, _, value = text.partition("=")
    if problem := fixed_because(name):
        raise click.UsageError(problem)
    try:
        return name, int(value) if value.isdigit() else float(value)
    except ValueError:
        raise click.UsageError(f"{name}: {value!r} is not a number") from None
