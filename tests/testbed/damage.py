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
        """Damage a state directory, or not: then a backup may be made of it. Returns what was done."""
        if not self._share or not state.exists():
            return ""
        backup = self._folder / name
        if self._rng.random() >= self._share:
            if not backup.exists() or self._rng.random() < self._share:
                shutil.rmtree(backup, ignore_errors=True)
                shutil.copytree(state, backup, ignore=shutil.ignore_patterns("control.*", "lock", CACHE))
            return ""
        kind = self._rng.choice(KINDS if backup.exists() else KINDS[:1])
        for path in state.iterdir():
            if path.name != CACHE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind != "wiped":
            shutil.copytree(backup, state, dirs_exist_ok=True)
        if kind == "image":
            with closing(Store(state / STORE_NAME)) as store:
                mark = instance.mark_of(store.path, state / instance.INSTANCE_NAME)
                store.put_blob(instance.INSTANCE_BLOB, mark)
        return kind
