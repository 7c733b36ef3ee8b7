"""Has the trainer measure now and then what each author's newest entries were worth, and adds it up.

The trunk half-way and the authors' parts go to the trainer in files of the state directory; what it finds goes to the
store, with the mark up to where this site has measured: a crash loses at most the stretch under way, which is measured
again. Takes at most a twentieth of the time that training takes, or a few seconds, beside what looks at harm take.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.core.rounds import Stretch, StretchWork
from kmel_p2p.core.types import Vector
from kmel_p2p.files import private_directory
from kmel_p2p.learn.tensor_file import write_parts, write_vector
from kmel_p2p.learn.worker import session
from kmel_p2p.site.tasks import end_task
from kmel_p2p.site.trainer.contribution_book import ContributionBook
from kmel_p2p.site.trainer.pace import Share

log = structlog.get_logger()

FOLDER = "contributions"
"""In the state directory: the stretch under way."""

SHARE = 0.05
"""Of the time that training takes."""

IN_ADVANCE = 20
"""Rounds whose share may be used before they were trained."""

AT_LEAST_S = 5.0
"""What measuring may take however short training is: verdicts of harm rest on it (`core.ledger.harm.judgement`)."""


class ContributionMeasuring:
    """See the module docstring.

    Args:
        folder: the site's state directory.
        book: what was found so far.
        stretch: gives work for another thread (`SiteMode.stretch_since`), or None where there is nothing to measure.
        appraise: gives the trainer a command.
        keep: stores the book.
        whole_trunk: as for `TrunkLooks`.
    """

    def __init__(
        self,
        folder: Path,
        book: ContributionBook,
        stretch: Callable[[Vector], StretchWork | None],
        appraise: Callable[[session.Appraise], None],
        keep: Callable[[bytes], None],
        whole_trunk: asyncio.Lock | None = None,
    ) -> None:
        self.book = book
        self._folder = folder / FOLDER
        self._stretch = stretch
        self._appraise = appraise
        self._keep = keep
        self._whole_trunk = whole_trunk or asyncio.Lock()
        self._pace = Share(SHARE, IN_ADVANCE, AT_LEAST_S)
        self._open: Stretch | None = None
        self._under_way = False
        self._task: asyncio.Task[None] | None = None

    def trained(self, seconds: float) -> None:
        """A round was trained in so many seconds: measure, if that is due."""
        self._pace.trained(seconds)
        if self._pace.allows():
            self._measure()

    def measure_the_rest(self) -> None:
        """The run is over: measure what came since, whatever time it takes. There is no training left to slow down."""
        self._measure()

    def appraised(self, answer: session.Appraised) -> None:
        """The trainer has measured."""
        self._pace.spent(answer.seconds)
        stretch, self._open, self._under_way = self._open, None, False
        self._clear()
        if stretch is None:
            return
        self.book.add(stretch, answer.endpoints)
        self._keep(self.book.encode())
        log.debug("contributions measured", parts=len(stretch.parts), seconds=round(answer.seconds, 3))

    def lost(self) -> None:
        """The trainer died: what it measured is gone."""
        self._open, self._under_way = None, False

    async def close(self) -> None:
        """Give up what is being prepared."""
        await end_task(self._task)
        self._clear()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        if not self._under_way:
            self._under_way = True
            self._task = asyncio.create_task(self._begin(), name="contributions")

    async def _begin(self) -> None:
        try:
            async with self._whole_trunk:
                work = self._stretch(self.book.mark)
                if work is None:
                    self._under_way = False
                    return
                stretch, command = await asyncio.to_thread(partial(_write, self._folder, work))
                del work  # with its copy of the trunk's sum
        except ConfigError as error:
            # Nothing depends on it: a full disk is told by whatever needs it.
            log.warning("contributions not measured", reason=str(error))
            self._under_way = False
            return
        self._open = stretch
        self._appraise(command)

    def _clear(self) -> None:
        for path in self._folder.glob("*.f32"):
            with contextlib.suppress(OSError):
                path.unlink()


def _write(folder: Path, work: StretchWork) -> tuple[Stretch, session.Appraise]:
    stretch = work()
    private_directory(folder)
    half_way, parts = folder / "half-way.f32", folder / "parts.f32"
    write_vector(half_way, stretch.half_way)
    write_parts(parts, [(part.positions, part.values) for part in stretch.parts])
    return stretch, session.Appraise(half_way, parts, len(stretch.parts))
