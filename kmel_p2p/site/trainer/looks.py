"""Has the trainer look now and then at what the other authors' parts of the trunk do to this site's own loss.

The trunk, and the trunk without each part, go to the trainer in files of the state directory; what it finds goes to the
protocol, which votes. Looks take at most a twentieth of the time that training takes, with some in advance: harm that
is there from the start is clearest at the start. A few seconds they may take in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.harm.turning import TURNED
from kmel_p2p.core.rounds import EndpointLook, Look, Looked, TrunkPart, Trunks
from kmel_p2p.files import private_directory
from kmel_p2p.learn.tensor_file import write_vector
from kmel_p2p.learn.worker import session
from kmel_p2p.site.tasks import end_task
from kmel_p2p.site.trainer.pace import Share

log = structlog.get_logger()

FOLDER = "looks"
"""In the state directory: the trunks of the look under way."""

SHARE = 0.05
"""Of the time that training takes."""

IN_ADVANCE = 60
"""Rounds whose share may be used before they were trained."""

AT_LEAST_S = 10.0
"""What looks may take however short training is: enough for the dozen that harm is proved or disproved by, where a look
takes half a second."""

FIRST = 2
"""Own entries before the first look."""

FREE_SHARE = 0.1
"""Of the free disk that the files of one look may take at most."""


class Followed(Protocol):
    """What entries did to this site's loss, followed along the trunk's way."""

    def raised_loss(self, author: SiteKey) -> bool:
        """Whether all entries of an author together made it larger."""

    def spoilt(self, author: SiteKey) -> bool:
        """Whether they never helped, and made it larger by a good part of it and beyond chance."""

    def declining_since(self, author: SiteKey, oldest: int) -> int | None:
        """From which entry on they made it larger again; `oldest`: from which on they are looked at."""


class TrunkLooks:
    """See the module docstring.

    Args:
        folder: the site's state directory.
        trunks: gives work for another thread (`SiteMode.trunks_without`), or None where there is nothing to see.
        examine: gives the trainer a command.
        command: feeds a command to the protocol.
        followed: what authors' entries did along the trunk's way (`ContributionBook`).
        whole_trunk: held while trunks are made, so that work on copies of the whole trunk takes turns.
    """

    def __init__(
        self,
        folder: Path,
        trunks: Callable[[int], Trunks | None],
        examine: Callable[[session.Examine], None],
        command: Callable[[Any], None],
        followed: Followed,
        whole_trunk: asyncio.Lock | None = None,
    ) -> None:
        self._followed = followed
        self._whole: dict[SiteKey, TrunkPart] = {}
        self._folder = folder / FOLDER
        self._trunks = trunks
        self._examine = examine
        self._command = command
        self._whole_trunk = whole_trunk or asyncio.Lock()
        self._pace = Share(SHARE, IN_ADVANCE, AT_LEAST_S)
        self._turn = 0
        self._written_s = 0.0
        self._under_way = False
        self._task: asyncio.Task[None] | None = None

    @property
    def spent_s(self) -> float:
        """What looks took so far."""
        return self._pace.spent_s

    def trained(self, seconds: float, number: int) -> None:
        """A round was trained in so many seconds: look, if that is due. `number`: of its entry."""
        self._pace.trained(seconds)
        if number < FIRST or self._under_way or not self._pace.allows():
            return
        self._under_way = True
        self._task = asyncio.create_task(self._begin(), name="look")

    def examined(self, answer: session.Examined) -> None:
        """The trainer has looked."""
        self._under_way = False
        self._pace.spent(answer.seconds, self._written_s)
        self._clear()
        looks = tuple(map(self._look, answer.effects))
        log.debug("looked at authors", looks=len(looks), seconds=round(answer.seconds, 3))
        self._command(Looked(looks))

    def lost(self) -> None:
        """The trainer died: what it looked at is gone."""
        self._under_way = False

    async def close(self) -> None:
        """Give up a look that is being prepared."""
        await end_task(self._task)
        self._clear()

    # ---- inner --------------------------------------------------------------------------------------------------

    def _look(self, effect: session.PartEffect) -> Look:
        part, author = effect.part, SiteKey(effect.part.author)
        followed, whole = self._followed, self._whole.get(author)
        since = followed.declining_since(author, whole.first) if whole is not None else None
        turned = whole is not None and whole.cosine < TURNED
        # What was compacted cannot be taken out any more, and of what was lifted an amendment has decided.
        spoilt = whole is not None and whole.first == 1 and followed.spoilt(author)
        return Look(author, part.first, part.number, _endpoints(effect), followed.raised_loss(author), spoilt,
                    since if turned else None)  # fmt: skip

    async def _begin(self) -> None:
        try:
            async with self._whole_trunk:
                work = self._trunks(self._turn)
                if work is None:
                    self._under_way = False
                    return
                self._turn += 1
                examine, self._whole, self._written_s = await asyncio.to_thread(partial(_write, self._folder, work))
                del work  # with its copy of the trunk's sum
        except (ConfigError, OSError) as error:
            # Nothing depends on a look: a full disk is told by whatever needs it.
            log.warning("no look at authors", reason=str(error))
            self._under_way = False
            self._clear()
            return
        # Taking authors out of the trunk and writing that costs this machine, whichever process does it.
        self._pace.counted(self._written_s)
        self._examine(examine)

    def _clear(self) -> None:
        for path in self._folder.glob("*.f32"):
            with contextlib.suppress(OSError):
                path.unlink()


def _write(folder: Path, work: Trunks) -> tuple[session.Examine, dict[SiteKey, TrunkPart], float]:
    """Write the files of a look; stops where they would fill the disk.

    Returns:
        what the trainer is asked, the longest part of each author, and the seconds that it took.
    """
    began = time.monotonic()
    private_directory(folder)
    whole = folder / "trunk.f32"
    parts: list[session.PartFile] = []
    longest: dict[SiteKey, TrunkPart] = {}
    room = FREE_SHARE * shutil.disk_usage(folder).free
    for place, (part, trunk) in enumerate(work()):
        room -= trunk.nbytes
        if room < 0:
            if not parts:
                raise ConfigError(f"{folder}: the disk has too little room left for the files of a look")
            if part is not None:
                longest.pop(part.author, None)  # its whole one is still to come
            break
        path = whole if part is None else folder / f"without-{place}.f32"
        write_vector(path, trunk)
        if part is not None:
            parts.append(session.PartFile(bytes(part.author), part.first, part.number, path))
            longest[part.author] = part  # the whole one comes last
        del trunk  # before the next one is made
    return session.Examine(whole, tuple(parts)), longest, time.monotonic() - began


def _endpoints(effect: session.PartEffect) -> dict[int, EndpointLook]:
    found = effect.endpoints.items()
    return {place: EndpointLook(e.compounds, e.loss, e.without, e.error) for place, e in found}
