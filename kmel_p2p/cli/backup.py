"""`kmel-peer backup` and `restore`: the state of a site in one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.language import tell
from kmel_p2p.cli.options import FILE, config_option, echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.site.config import SiteConfig

SETTINGS = "site.toml"
CHARTER = "charter.toml"


@click.command()
@click.argument("output", type=FILE)
@config_option
@json_option
def backup(output: Path, config_path: Path, as_json: bool) -> None:
    """Write the state of this site to OUTPUT, also while its peer runs.

    It has the store, the trainer's state, the models and their versions, orders, records of what left, and the
    settings; not the key, not the data files, no cache. Keep it as you keep the data: models and registers say much
    about them. Keep site.key apart, once, offline.
    """
    from kmel_p2p.cli.progress import progress_of_long_work
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.state.backup import write_backup

    config = load_config(config_path)
    total = sum(path.stat().st_size for path in config.site.state_dir.rglob("*") if path.is_file())
    with progress_of_long_work("bytes", total) as progress:
        files = write_backup(load_site(config), output, _settings(config_path, config), progress.add)
    size = output.stat().st_size
    if as_json:
        echo_json({"file": str(output), "bytes": size, "files": files})
    else:
        tell(f"{len(files)} files, {size / 1e6:.1f} MB, written to {output}")


@click.command()
@click.argument("source", type=FILE)
@config_option
@json_option
def restore(source: Path, config_path: Path, as_json: bool) -> None:
    """Put the state of this site back from a backup. Its state directory must be empty or missing.

    Settings are written where they are missing. The peer then knows that its store is from a backup: it takes its own
    newer entries from the other sites before it publishes anything.
    """
    from kmel_p2p.files import private_directory
    from kmel_p2p.site.config import load_config, parse_config
    from kmel_p2p.site.state.backup import read_member, restore_backup
    from kmel_p2p.site.state.lockfile import SiteLock

    if config_path.exists():
        config = load_config(config_path)
    else:
        config = parse_config(read_member(source, SETTINGS).decode(), config_path)
    private_directory(config.site.state_dir)
    with SiteLock(config.site.state_dir):
        written = restore_backup(source, config.site.state_dir, _settings(config_path, config))
    if as_json:
        echo_json({"state_dir": config.site.state_dir, "settings_written": written})
        return
    for path in written:
        tell(f"Written: {path}")
    tell(f"State restored to {config.site.state_dir}. Start the peer while all sites are up: kmel-peer run")


def _settings(config_path: Path, config: SiteConfig) -> dict[str, Path]:
    """Name in the archive -> file."""
    found = {SETTINGS: config_path, CHARTER: config.site.charter}
    found |= {f"amendments/{place}.toml": path for place, path in enumerate(config.site.amendments, start=1)}
    return found
