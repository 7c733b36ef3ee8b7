"""What keeps the event loop of a real daemon, callback by callback: `python -m tests.testbed.loop_blocks [OPTIONS]`.

Two daemons with their trainers run until each has published some entries. Processor time of the loop's thread says what
a callback costs on any machine, also a busy one; a write that waits for the disk takes none, so files that the loop's
thread makes durable are noted with where that happened. `watched/sitecustomize.py` puts this into a daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

WORTH_NOTING_S = 0.02
"""Processor time of one callback."""

ROOT = Path(__file__).resolve().parents[2]
PREPARED_WITHIN_S = 600.0


class LoopBlocks:
    """Longest processor time by callback, and files made durable, in the thread that the loop runs in."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._longest: dict[str, tuple[float, float, int]] = {}
        """Callback -> longest processor time and longest time by the clock, seconds; how often it was worth noting."""
        self._durable: dict[str, int] = {}
        self._thread = 0

    def install(self) -> None:
        """Watch this process from now on; what was found is written at its end."""
        run, fsync = asyncio.Handle._run, os.fsync

        def watched(handle: asyncio.Handle) -> None:
            self._thread = threading.get_ident()
            cpu, clock = time.thread_time(), time.monotonic()
            try:
                run(handle)
            finally:
                self._ran(handle, time.thread_time() - cpu, time.monotonic() - clock)

        def noted(descriptor: int) -> None:
            if threading.get_ident() == self._thread:
                at = next((f for f in reversed(traceback.extract_stack()[:-1]) if "files.py" not in f.filename), None)
                where = "?" if at is None else f"{Path(at.filename).name}:{at.lineno} {at.name}"
                self._durable[where] = self._durable.get(where, 0) + 1
            fsync(descriptor)

        asyncio.Handle._run = watched  # type: ignore[method-assign, assignment]
        os.fsync = noted  # type: ignore[assignment]
        atexit.register(self.write)

    def write(self) -> None:
        """Write what was found so far."""
        rows = [{"callback": name, "cpu_ms": 1e3 * c, "ms": 1e3 * w, "times": n} for name, (c, w, n) in self._sorted()]
        self._path.write_text(json.dumps({"callbacks": rows, "durable": self._durable}, indent=1), encoding="utf-8")

    def _sorted(self) -> list[tuple[str, tuple[float, float, int]]]:
        return sorted(self._longest.items(), key=lambda item: -item[1][0])

    def _ran(self, handle: asyncio.Handle, cpu_s: float, took_s: float) -> None:
        if cpu_s >= WORTH_NOTING_S:
            name = _name_of(handle)
            cpu, took, times = self._longest.get(name, (0.0, 0.0, 0))
            self._longest[name] = max(cpu, cpu_s), max(took, took_s), times + 1


def watch(path: str) -> None:
    """Watch this process, and write to `path` at its end."""
    LoopBlocks(path).install()


def _name_of(handle: asyncio.Handle) -> str:
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return f"task {getattr(task.get_coro(), '__qualname__', task.get_name())}"
    return str(getattr(callback, "__qualname__", callback))


def main() -> None:
    from benchmarks.parts.daemons import TEN_MILLION, found_federation, until

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="a trunk of ten million values")
    parser.add_argument("--entries", type=int, default=4, help="of each site (default 4)")
    options = parser.parse_args()
    hidden = TEN_MILLION if options.large else (64, 32)
    with tempfile.TemporaryDirectory(prefix="kmel-loop-") as folder:
        found = found_federation(Path(folder), 2, hidden=hidden, steps=2, entries=options.entries, tiny=True)
        for site in found:
            path = f"PYTHONPATH={Path(__file__).parent / 'watched'}:{ROOT}"
            site.prefix = ("env", path, f"LOOP_BLOCKS={Path(folder) / site.name}.json")
        with found:
            found.start()
            until(
                "both have published",
                lambda: all((s := site.status()) and s.averaging.published >= options.entries for site in found),
                PREPARED_WITHIN_S,
                found,
            )
        for site in found:
            found_there = (Path(folder) / f"{site.name}.json").read_text(encoding="utf-8")
            sys.stdout.write(f"{site.name} {found_there}\n")


if __name__ == "__main__":
    main()
