"""The files that rounds leave in the trainer's folder: one per round, of which the newest stored one stays."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import structlog

PATTERN = "round-*.safetensors*"
NUMBER = re.compile(r"^round-(\d+)\.safetensors$")

log = structlog.get_logger()


def name_of(number: int) -> str:
    """Of the file of round `number`."""
    return f"round-{number}.safetensors"


def newest_like(folder: Path, wanted: str) -> str:
    """That file; where a backup left another one beside the store, the newest there is."""
    if (folder / wanted).exists():
        return wanted
    found = {int(match[1]): path.name for path in folder.glob(PATTERN) if (match := NUMBER.search(path.name))}
    if found:
        log.warning("the trainer's state of the newest entry is missing", wanted=wanted, found=found[max(found)])
    return found[max(found)] if found else wanted


def remove_all_but(folder: Path, name: str | None) -> None:
    """Remove the files of all other rounds, and what was left unfinished."""
    for path in folder.glob(PATTERN):
        if path.name != name:
            with contextlib.suppress(OSError):
                path.unlink()
