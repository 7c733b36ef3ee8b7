"""Alarms for what the newest prospective report found: models that no longer do what they promised."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path

from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.learn.register import FOLDER, REPORT
from kmel_p2p.site.observe.status import Alarm

MAX_BYTES = 1 << 22
MAX_ALARMS = 16


@functools.lru_cache(maxsize=1)
def _told(path: Path, changed_ns: int, size: int) -> tuple[str, ...]:
    """Signs of drift in a report; read once for each change of the file, because status is built every few seconds."""
    try:
        texts = parse_json(path.read_bytes())["drift"] if size <= MAX_BYTES else []
        return tuple(str(text) for text in texts)[:MAX_ALARMS]
    except (OSError, ValueError, KeyError, TypeError):
        # Somebody else's file under its name: no reason for a peer to say anything.
        return ()


def drift_alarms(state_dir: Path) -> Iterator[Alarm]:
    """One for each sign of drift in the report that `kmel-peer prospective` wrote last; none without a report.

    The age is the report's. Whoever has repaired the cause runs the command again.
    """
    path = state_dir / FOLDER / REPORT
    try:
        found = path.stat()
    except OSError:
        return
    for text in _told(path, found.st_mtime_ns, found.st_size):
        yield Alarm(f"drift of {text.partition(':')[0]}", text, max(0.0, time.time() - found.st_mtime))
