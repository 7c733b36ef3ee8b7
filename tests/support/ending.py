"""Work on which a process ends. Imports nothing of the product, so that child processes begin quickly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def doubled(items: Sequence[int]) -> list[int | None]:
    """Twice each item; negative ones end the process."""
    if any(item < 0 for item in items):
        os.abort()
    return [2 * item for item in items]


def crash_once(items: Sequence[Path]) -> list[bool]:
    """Whether each file is there; a process that finds one missing makes it and ends, as if memory had been short."""
    for path in items:
        if not path.exists():
            path.touch()
            os.abort()
    return [path.exists() for path in items]


def end_at_once() -> None:
    """End this process, as a child process does that cannot even begin."""
    os._exit(1)
