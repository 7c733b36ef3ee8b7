"""How far long work is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

from kmel_p2p.cli.options import progress_bar

EVERY_S = 60.0
"""Seconds between two lines of a log."""


class LongWork:
    """Counts what is done.

    Args:
        total: how many there are.
        show: told (done, total).
    """

    def __init__(self, total: int, show: Callable[[int, int], None]) -> None:
        self._total, self._show = total, show
        self._settled = self._loose = 0

    def add(self, count: int) -> None:
        """So many more are done, as far as is known; `reach` has the last word."""
        self._loose += count
        self._show(min(self._settled + self._loose, self._total), self._total)

    def reach(self, count: int) -> None:
        """A part of `count` is done. What `add` told of it may have been less, and of the next parts stays."""
        self._settled += count
        self._loose = max(0, self._loose - count)
        self._show(min(self._settled + self._loose, self._total), self._total)


class LinesOfLog:
    """A line with rate and time left, at most one every `EVERY_S` seconds and none before that."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._clock = what, clock
        self._started = self._last = clock()

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if now - self._last < EVERY_S or not done:
            return
        self._last = now
        rate = done / (now - self._started)
        left = (total - done) / rate
        click.echo(f"{done:,} of {total:,} {self._what}, {rate:.0f} per second, {_duration(left)} left", err=True)


def _duration(seconds: float) -> str:
    """Rounded to what matters: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def progress_of_long_work(what: str, total: int) -> Iterator[LongWork]:
    """Shows on standard error how far work on `total` things is."""
    if sys.stderr.isatty():
        with progress_bar(what, False) as bar:
            yield LongWork(total, bar)
    else:
        yield LongWork(total, LinesOfLog(what))
