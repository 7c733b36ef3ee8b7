"""Versions of a site's models: kept side by side, listed, and one of them in use.

    state/model/             the newest models, as the trainer wrote them
    state/models/VERSION/    a model directory each, with version.json and the dataset manifest of its time
    state/model-in-use.json  which version predicts; without the file, the newest

A version's files are hard links to what the trainer wrote, so that keeping the newest one takes no room.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.chem.dataset.manifest import MANIFEST
from kmel_p2p.chem.dataset.refresh import KEPT, read_measured
from kmel_p2p.files import BY_UMASK, sync_directory, write_whole
from kmel_p2p.learn.predict.model_directory import CARD, UNFINISHED, Card, read_card

NEWEST_FOLDER, FOLDER, IN_USE = "model", "models", "model-in-use.json"
FACTS = "version.json"
NEWEST = "newest"

_NAME = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Version:
    """One version.

    Attributes:
        name: of networks and stack (`Card.version`).
        folder: its model directory.
        card: of it.
        at_s: when it was kept, in seconds since 1970 (UTC); None for models of an earlier program.
        bytes: of its files; those that versions share count for each.
    """

    name: str
    folder: Path
    card: Card
    at_s: float | None
    bytes: int

    @property
    def manifest(self) -> dict[str, Any]:
        """What it was trained on (`chem.dataset.manifest`); empty where that was not kept."""
        with contextlib.suppress(OSError, ValueError):
            found = parse_json((self.folder / MANIFEST).read_bytes())
            if isinstance(found, dict):
                return found
        return {}


def keep_version(state_dir: Path, at_s: float, dataset_hash: str = "") -> str:
    """Keep the newest models as a version; nothing happens if they are kept already. Returns its name.

    Args:
        at_s: time in seconds since 1970 (UTC).
        dataset_hash: of what they were trained on. Manifest and measurements are kept with them only if they are of
            that dataset: another command may have read newer files meanwhile.

    Raises:
        ConfigError: there are no models, or the disk is not writable.
    """
    newest = state_dir / NEWEST_FOLDER
    name = read_card(newest).version
    folder = state_dir / FOLDER / name
    if (folder / FACTS).exists():
        return name
    aside = state_dir / FOLDER / UNFINISHED
    try:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        aside.mkdir(parents=True)
        for path in newest.iterdir():
            if path.is_file():
                _link(path, aside / path.name)
        _keep_dataset(state_dir, aside, dataset_hash)
        write_whole(aside / FACTS, json.dumps({"version": name, "at_s": at_s}).encode(), mode=BY_UMASK)
        os.replace(aside, folder)
        sync_directory(folder.parent)
    except OSError as error:
        raise ConfigError(f"{folder}: the models cannot be kept as a version: {error.strerror}") from error
    return name


def versions(state_dir: Path) -> list[Version]:
    """All versions, the newest last; damaged ones are left out.

    Raises:
        ConfigError: the newest models are damaged.
    """
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for folder in (state_dir / FOLDER).iterdir():
            if _NAME.fullmatch(folder.name) and (folder / FACTS).exists():
                with contextlib.suppress(ConfigError):
                    found[folder.name] = _version(folder)
    newest = newest_version(state_dir)
    if newest is not None:
        found.setdefault(newest.name, newest)
    name = newest.name if newest else ""
    return sorted(found.values(), key=lambda one: (one.name == name, one.at_s or 0.0, one.name))


def newest_version(state_dir: Path) -> Version | None:
    """What the trainer wrote last; None before the first time."""
    folder = state_dir / NEWEST_FOLDER
    return _version(folder) if (folder / CARD).exists() else None


def find(state_dir: Path, name: str) -> Version:
    """The version of this name, or of a beginning that only one has; `newest` names the newest.

    Raises:
        ConfigError: there is none, or more than one.
    """
    known = versions(state_dir)
    if name == NEWEST and known:
        return known[-1]
    found = [one for one in known if name and one.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.name for one in found or known) or "none yet: a site writes its models when its run ends"
    raise ConfigError(f"{name!r} names {len(found) or 'no'} versions of the models; there are: {names}")


def chosen(state_dir: Path) -> str:
    """Name of the version that an operator chose to predict with; empty for the newest.

    Raises:
        ConfigError: the file that says so is damaged.
    """
    path = state_dir / IN_USE
    try:
        name = parse_json(path.read_bytes())["version"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); kmel-peer models use newest writes it anew") from None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: {name!r:.40} names no version; kmel-peer models use newest writes it anew")
    return name


def in_use(state_dir: Path) -> Path:
    """The model directory that predicts.

    Raises:
        ConfigError: the chosen version is not there any more.
    """
    name = chosen(state_dir)
    if not name:
        return state_dir / NEWEST_FOLDER
    folder = state_dir / FOLDER / name
    if not (folder / FACTS).exists():
        raise ConfigError(
            f"{folder}: the version chosen with kmel-peer models use is not there; restore it from a backup, or go on "
            "with kmel-peer models use newest"
        )
    return folder


def use(state_dir: Path, version: Version, at_s: float) -> None:
    """Predict with this version from now on; with the newest, also with whatever is newer later.

    Raises:
        ConfigError: the disk is not writable.
    """
    newest = newest_version(state_dir)
    if newest is not None and version.name == newest.name:
        try:
            (state_dir / IN_USE).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{state_dir / IN_USE}: cannot be removed: {error.strerror}") from error
        return
    if newest is not None:
        # Otherwise the next models would take the place of these for good.
        keep_version(state_dir, at_s)
    write_whole(state_dir / IN_USE, json.dumps({"version": version.name}).encode(), mode=BY_UMASK)


def prune(state_dir: Path, keep: int) -> list[Version]:
    """Delete the oldest versions until `keep` are left; the newest and the one in use stay. Returns the deleted ones.

    Raises:
        ConfigError: they cannot be deleted.
    """
    known = versions(state_dir)
    spared = {chosen(state_dir), known[-1].name if known else ""}
    surplus = len(known) - keep
    gone = [one for one in known if one.name not in spared][: max(0, surplus)]
    for one in gone:
        try:
            (one.folder / FACTS).unlink()
            shutil.rmtree(one.folder)
        except OSError as error:
            raise ConfigError(f"{one.folder}: cannot be deleted: {error.strerror}") from error
    return gone


def _keep_dataset(state_dir: Path, aside: Path, dataset_hash: str) -> None:
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
        if parse_json((state_dir / MANIFEST).read_bytes())["dataset_hash"] == dataset_hash:
            shutil.copy2(state_dir / MANIFEST, aside / MANIFEST)
    with contextlib.suppress(ConfigError):
        if read_measured(state_dir / KEPT)[0] == dataset_hash:
            shutil.copy2(state_dir / KEPT, aside / KEPT)


def _version(folder: Path) -> Version:
    card = read_card(folder)
    at_s = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        at_s = float(parse_json((folder / FACTS).read_bytes())["at_s"])
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return Version(card.version, folder, card, at_s, size)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # A file system without hard links.
        shutil.copy2(source, target)
