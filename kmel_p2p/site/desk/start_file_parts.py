"""The desk gives other sites the file that the charter's trunk starts from, part by part.

Only that file can be asked for, only as long as it is the one that the charter names, and only a few times an hour by
one site: the charter names no secret, but the link is this site's.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.site.site import Site

REQUEST = "start_file"
"""What the desk is asked for a part."""

PART_BYTES = 192 * 1024
"""Of the file in one answer, which has to fit a desk's (`net.desk.MAX_DESK_ANSWER_BYTES`)."""

TIMES_AN_HOUR = 4
"""That one site is given as many bytes as the file has: its connection may break."""

HOUR_S = 3600.0

READ_AT_ONCE = 8
"""Questions that wait while the file is read or hashed; more are refused. A disk that hangs would else keep every
question that the desk answers at once (`net.desk.OPEN_MAX`), those about amendments among them."""

_Stamp = tuple[int, ...]


@dataclass(slots=True)
class _Given:
    """What one site was given in the hour that began at `since`."""

    since: float
    bytes: int = 0


class StartFileParts:
    """See the module docstring.

    Args:
        site: as amended so far.
        clock: monotonic seconds.
    """

    def __init__(self, site: Callable[[], Site], clock: Callable[[], float] = time.monotonic) -> None:
        self._site = site
        self._clock = clock
        self._given: dict[SiteKey, _Given] = {}
        self._hashed: tuple[Path, _Stamp] | None = None
        self._right = False
        """Whether the file that was hashed last, as it was then, is the one that the charter names."""
        self._reading = asyncio.Lock()
        self._waiting = 0

    async def answer(self, site: SiteKey, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """One part: `{"size": of the file, "part": its bytes from "at" on}`.

        Raises:
            LocalError: to be read by the site that asks.
        """
        model, at = self._site().charter.model, arguments.get("at")
        if type(at) is not int or at < 0:
            raise LocalError('a part of the start file is asked for by "sha256" and "at"')
        if not model.start or arguments.get("sha256") != model.start:
            raise LocalError("the charter names no such start file here")
        path = self._site().start_file
        if path is None:
            raise LocalError("this site has no copy of the start file")
        if self._waiting >= READ_AT_ONCE:
            raise LocalError("this site's copy of the start file is being read for others; ask again in some seconds")
        self._waiting += 1
        try:
            async with self._reading:
                size, part = await asyncio.to_thread(self._read, path, at)
        except OSError:
            raise LocalError("this site's copy of the start file cannot be read") from None
        finally:
            self._waiting -= 1
        self._charge(site, len(part), size)
        return {"size": size, "part": part}

    def _charge(self, site: SiteKey, part: int, size: int) -> None:
        now = self._clock()
        given = self._given.get(site)
        if given is None or now - given.since >= HOUR_S:
            # One row a site of the roster: nobody else gets here.
            given = self._given[site] = _Given(now)
        if given.bytes + part > TIMES_AN_HOUR * size:
            raise LocalError(f"you were given the start file {TIMES_AN_HOUR} times within the hour; ask another site")
        given.bytes += part

    def _read(self, path: Path, at: int) -> tuple[int, bytes]:
        """Size, and the part from `at` on. What has changed since its hash was taken is hashed again: the path may
        have come to name something else, which is nobody's to have.
        """
        # A pipe put in its place must not hold a thread for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            # With the time of the inode: whoever copies a file over this one can keep its size and date.
            stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if self._hashed != (path, stamp):
                self._right = stat.S_ISREG(found.st_mode) and file_digest(file, "sha256").hexdigest() == self._wanted()
                self._hashed = (path, stamp)
            if not self._right:
                raise LocalError("this site's copy of the start file is another file now")
            if at >= found.st_size:
                raise LocalError(f"the start file has {found.st_size} bytes; a part was asked for from {at} on")
            file.seek(at)
            return found.st_size, file.read(PART_BYTES)

    def _wanted(self) -> str:
        return self._site().charter.model.start
