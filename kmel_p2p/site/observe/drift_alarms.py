"""Alarms for what the newest prospective report found: models that no longer do what they promised."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.learn.register import FOLDER, REPORT
from kmel_p2p.site.observe.status import Alarm

MAX_BYTES = 1 << 22
MAX_ALARMS = 16


def drift_alarms(state_dir: Path) -> Iterator[Alarm]:
    """One for each sign of drift in the report that `kmel-peer prospective` wrote last; none without a report.

    The age is the report's. Whoever has repaired the cause runs the command again.
    """
    path = state_dir / FOLDER / REPORT
    try:
        found = path.stat()
        texts = parse_json(path.read_bytes())["drift"] if found.st_size <= MAX_BYTES else []
        texts = [str(text) for text in texts]
    except (OSError, ValueError, KeyError, TypeError):
        # Not there yet, or somebody else's file under its name: no reason for a peer to say anything.
        return
    for text in texts[:MAX_ALARMS]:
        yield Alarm(f"drift of {text.partition(':')[0]}", text, max(0.0, time.time() - found.st_mtime))
