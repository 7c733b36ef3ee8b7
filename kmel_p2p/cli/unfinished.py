"""Blocks of an output that is not finished yet: OUT.unfinished/, from which an interrupted run goes on.

    run.json        what the blocks were made from
    00000000.part   bytes of the first block
    00000000.json   what is known about it; a block counts when this file is there
    at-work         there while a process is at it; afterwards a sign that it was killed, or crashed

Every file is written in one step. The folder goes when the output is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import private_directory, write_whole

FACTS_FILE = "run.json"

AT_WORK = "at-work"

_OURS = re.compile(r"(run\.json|at-work|(?P<block>\d{8,})\.(part|json))(\.new)?")
"""Names of the files in the folder; `.new` was being written."""


class UnfinishedOutput:
    """The folder of one output; one process at a time.

    Attributes:
        folder: where the blocks are.
        blocks: what is known about each block that is done, in order.
        crashed: whether the process that was at it last ended without a word.
    """

    def __init__(self, output: Path, made_from: Mapping[str, str], resume: bool) -> None:
        """
        Args:
            output: the file that the blocks will make.
            made_from: what must not change between two runs, with its name for people as the key.
            resume: go on from blocks that are there.

        Raises:
            ConfigError: another process is at it; the folder holds other files, or cannot be written; blocks are there
                and `resume` is not set, or they were made from something else.
        """
        self.folder = output.with_name(f"{output.name}.unfinished")
        self.blocks: list[dict[str, Any]] = []
        self.crashed = False
        if foreign := next((name for name in self._names() if not _OURS.fullmatch(name)), None):
            raise ConfigError(f"{self.folder}: is needed for unfinished work, and holds {foreign!r}; move it away")
        private_directory(self.folder)
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._begin(dict(made_from), resume)
        except BaseException:
            os.close(self._lock)
            raise

    def _begin(self, made_from: dict[str, str], resume: bool) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{self.folder}: another process is writing this output; wait for it") from None
        done = self._known()
        if done and not resume:
            raise ConfigError(
                f"{self.folder}: holds {len(done)} blocks of a run that did not end; --resume goes on from there; "
                "remove the directory to start anew"
            )
        before = self._made_from()
        if done and before != made_from:
            other = " and ".join(key for key, value in made_from.items() if before.get(key) != value)
            raise ConfigError(
                f"{self.folder}: its blocks were made with another {other}; use the same as before, or remove the "
                "directory to start anew"
            )
        self.blocks = done
        for name in self._names():
            # Blocks after one that is damaged, perhaps of another run: nobody may take them for this one's.
            if (found := _OURS.fullmatch(name)) and found["block"] and int(found["block"]) >= len(done):
                (self.folder / name).unlink()
        self.crashed = (self.folder / AT_WORK).exists()
        write_whole(self.folder / AT_WORK, b"")
        if not done:
            write_whole(self.folder / FACTS_FILE, json.dumps(made_from, indent=1).encode())

    def _names(self) -> list[str]:
        return sorted(os.listdir(self.folder)) if self.folder.is_dir() else []

    def _made_from(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            found = parse_json((self.folder / FACTS_FILE).read_bytes())
            if isinstance(found, dict):
                return found
        return {}

    def _known(self) -> list[dict[str, Any]]:
        """Facts of the blocks that are whole, up to the first that is not."""
        found: list[dict[str, Any]] = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            while True:
                part, facts = self._paths(len(found))
                known = parse_json(facts.read_bytes())
                if known["bytes"] != part.stat().st_size:
                    break
                found.append(known["facts"])
        return found

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"{number:08}.part", self.folder / f"{number:08}.json"

    def keep(self, content: bytes, facts: dict[str, Any]) -> None:
        """The next block is done.

        Raises:
            ConfigError: it cannot be written.
        """
        part, known = self._paths(len(self.blocks))
        write_whole(part, content)
        write_whole(known, json.dumps({"bytes": len(content), "facts": facts}).encode())
        self.blocks.append(facts)

    def parts(self) -> Iterator[bytes]:
        """The blocks, in order."""
        for number in range(len(self.blocks)):
            yield self._paths(number)[0].read_bytes()

    def close(self, keep: bool) -> None:
        """Let others at it.

        Args:
            keep: leave the blocks for a later run.
        """
        if not keep:
            with contextlib.suppress(OSError):
                for name in self._names():
                    (self.folder / name).unlink()
                self.folder.rmdir()
        else:
            with contextlib.suppress(OSError):
                (self.folder / AT_WORK).unlink()
        os.close(self._lock)
