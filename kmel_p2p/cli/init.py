"""`kmel-peer init`: a key and settings to start from."""

from __future__ import annotations

from pathlib import Path

import click

from kmel_p2p.cli.options import DIRECTORY


@click.command()
@click.argument("directory", type=DIRECTORY, default=Path(), required=False)
@click.option("--name", required=True, help="Name of this site in the charter: lower case, digits, - and _.")
def init(directory: Path, name: str) -> None:
    """Write site.key (mode 0600) and site.toml into DIRECTORY. Nothing is ever overwritten."""
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.files import write_new
    from kmel_p2p.site.config import parse_config
    from kmel_p2p.site.keys import create_key
    from kmel_p2p.site.template import site_template

    settings = directory / "site.toml"
    text = site_template(name)
    parse_config(text, settings)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot create this directory: {error.strerror}") from error
    for path in (settings, directory / "site.key"):
        if path.exists():
            raise ConfigError(f"{path}: exists already and is not overwritten; choose another directory")
    identity = create_key(directory / "site.key")
    write_new(settings, text.encode(), 0o644)
    click.echo(f"Wrote {directory / 'site.key'} (keep it secret, and keep a copy) and {settings}.")
    click.echo("Give this line to whoever drafts the charter:")
    click.echo(f"  --site {name}={identity.key.hex()}")
