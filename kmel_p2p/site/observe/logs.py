"""The log of a daemon: one structured record per line on standard error and in a rotated file."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Any, Literal

import structlog

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.shown import shown

LOG_NAME = "peer.log"
FILE_BYTES = 16 * 1024 * 1024
FILES_KEPT = 3

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure_logging(
    level: Literal["debug", "info", "warning", "error"],
    style: Literal["json", "console"],
    file: Path | None = None,
    *,
    site: str = "",
) -> None:
    """Route structlog, `logging` and Python warnings of this process to the log.

    Args:
        level: lowest severity logged.
        style: of lines on standard error; the file always gets JSON.
        file: keeps the log as well; rotated at 16 MiB, with three old files kept.
        site: added to every record.

    Raises:
        ConfigError: the file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_formatter(style))
    if file is not None:
        try:
            kept = logging.handlers.RotatingFileHandler(
                file, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"{file}: cannot open the log: {error.strerror}") from error
        kept.setFormatter(_formatter("json"))
        handlers.append(kept)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level.upper())
    # Off first: if a library turned this on and its hook was replaced since, turning it on again would do nothing.
    logging.captureWarnings(False)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    if site:
        structlog.contextvars.bind_contextvars(site=site)


def _written_out(_logger: Any, _method: str, record: Any) -> Any:
    """Control characters of what others say must not reach the terminal. JSON escapes them by itself."""
    return {key: shown(value) if isinstance(value, str) else value for key, value in record.items()}


def _formatter(style: Literal["json", "console"]) -> logging.Formatter:
    render: list[Any]
    if style == "json":
        render = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    else:
        render = [_written_out, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
