"""What happens to the disk of a site that is down: it is lost, or replaced by an old copy, noticed or not."""

from __future__ import annotations

import random
import shutil
from contextlib import closing
from pathlib import Path

from kmel_p2p.site.state import instance
from kmel_p2p.site.state.store import STORE_NAME, Store

CACHE = "cache"
"""Stays: to describe the molecules again takes long and shows nothing."""

KINDS = ("wiped", "old", "image")
"""All of it lost; an older copy put back; an older copy put back as an image of the disk, which nobody notices."""


class Damage:
    """Backups of state directories, and what they are used for. Every call is about a site that does not run.

    Args:
        folder: an empty one, for the backups.
        share: probability that a killed site's disk is damaged.
    """

    def __init__(self, folder: Path, share: float, rng: random.Random) -> None:
        self._folder = folder
        self._share = share
        self._rng = rng

    def draw(self, name: str, state: Path) -> str:
        """Damage a state directory of which there is a backup, or make one. Returns what was done, in one word."""
        if not self._share or not state.exists():
            return ""
        if not (self._folder / name).exists() or self._rng.random() >= self._share:
            self.back_up(name, state)
            return ""
        kind = self._rng.choice(KINDS)
        self.do(kind, name, state)
        return kind

    def back_up(self, name: str, state: Path) -> None:
        """Make a backup in place of the one before."""
        backup = self._folder / name
        shutil.rmtree(backup, ignore_errors=True)
        shutil.copytree(state, backup, ignore=shutil.ignore_patterns("control.*", "lock", CACHE))

    def do(self, kind: str, name: str, state: Path) -> None:
        """Damage a state directory in one of the ways in `KINDS`."""
        for path in state.iterdir():
            if path.name != CACHE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind != "wiped":
            shutil.copytree(self._folder / name, state, dirs_exist_ok=True)
        if kind == "image":
            with closing(Store(state / STORE_NAME)) as store:
                mark = instance.mark_of(store.path, state / instance.INSTANCE_NAME)
                store.put_blob(instance.INSTANCE_BLOB, mark)
