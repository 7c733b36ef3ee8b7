"""Takes over what a changed `site.toml` says about log and data without a restart."""

from __future__ import annotations

from pathlib import Path

import structlog

from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.config import SiteConfig, load_config
from kmel_p2p.site.loaded_site import check_columns
from kmel_p2p.site.observe.logs import LOG_NAME, configure_logging

TAKEN_OVER = ("log", "data")
"""Sections; the others need a restart."""


def reloaded(config: SiteConfig, path: Path, endpoints: AssayEndpoints) -> SiteConfig:
    """The settings with log and data read again; says in the log which other changes need a restart.

    Args:
        config: as they were.
        path: the file.
        endpoints: those in force.

    Raises:
        ConfigError: the file is wrong, which the log says, too.
    """
    log = structlog.get_logger()
    try:
        fresh = load_config(path)
        check_columns(fresh.data, endpoints)
    except ConfigError as error:
        log.error("reload refused", reason=str(error))
        raise
    old, new = config.model_dump(), fresh.model_dump()
    waiting = [name for name in new if name not in TAKEN_OVER and new[name] != old[name]]
    configure_logging(fresh.log.level, fresh.log.format, config.site.state_dir / LOG_NAME, site=config.site.name)
    log.info("settings reloaded", level=fresh.log.level, need_restart=waiting)
    return config.model_copy(update={name: getattr(fresh, name) for name in TAKEN_OVER})
