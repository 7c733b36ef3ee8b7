"""A backup of a state directory in one file, taken while the peer runs or not, and put back only where it is whole.

The file is a tar archive: `manifest.json` last, which names every file with its size and SHA-256. SQLite files are
copied by SQLite, so that a running peer's are whole; the trainer's file is the one that the copied store names.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.files import private_directory, whole_file
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.instance import INSTANCE_NAME
from kmel_p2p.site.state.own_state import TRAINER_DIRECTORY
from kmel_p2p.site.state.store import STORE_NAME, Store
from kmel_p2p.version import VERSION

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 24
FORMAT = 1
STATE = "state"
"""Folder of the archive with what lies in the state directory."""

ASIDE = ".backup"
ATTEMPTS = 5
"""A round that ends while the backup is taken replaces the trainer's file."""

LEFT_OUT = ("cache", "data-check", "evaluation", "lock", "peer.log", "control.", INSTANCE_NAME, ASIDE)
"""Beginnings of names that a peer makes again or that are of one life only. Without the note of its last start, the
peer knows that its store was put back."""


def write_backup(site: Site, target: Path, settings: Mapping[str, Path], progress: Callable[[int], None]) -> list[str]:
    """Write a backup; returns the names of the files in it.

    Args:
        target: replaced if it exists, once the new one is whole.
        settings: further files by their names in the archive, such as site.toml and charter.toml.
        progress: told of bytes as they are written.

    Raises:
        ConfigError: a file cannot be read, or the target cannot be written.
    """
    state_dir = site.config.site.state_dir
    aside = state_dir / ASIDE
    shutil.rmtree(aside, ignore_errors=True)
    private_directory(aside)
    try:
        with whole_file(target) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            writer = _Writer(archive, progress)
            for name, path in settings.items():
                writer.add(name, path)
            trainer = _copy_store(site, state_dir, aside)
            if trainer is not None:
                writer.add(f"{STATE}/{TRAINER_DIRECTORY}/{trainer.name}", trainer)
            for path in _kept(state_dir):
                name = f"{STATE}/{path.relative_to(state_dir).as_posix()}"
                if path.suffix == ".sqlite":
                    copy = aside / path.name
                    if path.name != STORE_NAME:
                        _copy_sqlite(path, copy)
                    writer.add(name, copy)
                else:
                    writer.add(name, path, gone=True)
            writer.close()
        return sorted(writer.files)
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        raise ConfigError(f"{target}: the backup cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_manifest(source: Path) -> dict[str, Any]:
    """What a backup says about itself: `files`, `site`, `charter_id`, `version` and more.

    Raises:
        ConfigError: it is no backup, or not a whole one.
    """
    with _opened(source) as archive:
        for member in archive:
            if member.name == MANIFEST and member.isreg():
                if member.size > MAX_MANIFEST_BYTES:
                    break
                return _manifest(source, _content(archive, member).read())
    raise ConfigError(f"{source}: has no {MANIFEST} at its end: it is no backup of kmel-peer, or was cut off")


def read_member(source: Path, name: str) -> bytes:
    """One small file of a backup.

    Raises:
        ConfigError: it is no backup, or has no such file of at most `MAX_MANIFEST_BYTES`.
    """
    with _opened(source) as archive:
        for member in archive:
            if member.name == name and member.isreg() and member.size <= MAX_MANIFEST_BYTES:
                content: bytes = _content(archive, member).read()
                return content
    raise ConfigError(f"{source}: has no {name}: it is no backup of kmel-peer")


def restore_backup(source: Path, state_dir: Path, settings: Mapping[str, Path]) -> list[Path]:
    """Put a backup back; returns the settings files that were written (those that exist stay as they are).

    Everything is checked before anything takes its place.

    Args:
        state_dir: must be empty or missing.
        settings: where to write further files, by their names in the archive.

    Raises:
        ConfigError: the backup is not whole, or `state_dir` holds a state already.
    """
    if state_dir.exists() and any(path.name != "lock" for path in state_dir.iterdir()):
        raise ConfigError(f"{state_dir}: is not empty; move what is there away, so that nothing of it is lost")
    manifest = read_manifest(source)
    aside = state_dir.with_name(f"{state_dir.name}.restoring")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with _opened(source) as archive:
            _unpack(source, archive, manifest, aside)
        written = [path for name, path in settings.items() if _put(aside / name, path)]
        shutil.rmtree(state_dir, ignore_errors=True)
        state_dir.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / STATE, state_dir)
        return written
    except OSError as error:
        why = error.strerror or error
        raise ConfigError(
            f"{state_dir}: cannot be restored: {why}; make room or permissions, then try again"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


# ---- writing ----------------------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, archive: tarfile.TarFile, progress: Callable[[int], None]) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        self._archive, self._progress = archive, progress

    def add(self, name: str, path: Path, *, gone: bool = False) -> None:
        """One file; with `gone`, one that was deleted meanwhile is left out."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            if gone:
                return
            raise
        with file:
            # A log that grows meanwhile is taken as long as it is now.
            size = os.fstat(file.fileno()).st_size
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = size, 0o600
            hashed = _Hashed(file)
            self._archive.addfile(entry, hashed)
        self.files[name] = {"bytes": size, "sha256": hashed.sha256.hexdigest()}
        self._progress(size)

    def close(self) -> None:
        """The manifest, last: an archive that was cut off has none."""
        text = json.dumps({"format": FORMAT, "version": VERSION, "files": self.files}, indent=1).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mode = len(text), 0o600
        self._archive.addfile(entry, io.BytesIO(text))


class _Hashed(io.RawIOBase):
    """Reads a file and hashes what was read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self.sha256.update(found)
        return found


def _copy_store(site: Site, state_dir: Path, aside: Path) -> Path | None:
    """Copy the store, and beside it the trainer's file that it names; None where it names none."""
    source, copy = state_dir / STORE_NAME, aside / STORE_NAME
    if not source.exists():
        return None
    for _ in range(ATTEMPTS):
        copy.unlink(missing_ok=True)
        _copy_sqlite(source, copy)
        with contextlib.closing(Store(copy)) as store:
            name = mode_of(site.charter).own_state_file(site, store)
        if name is None:
            return None
        trainer = aside / TRAINER_DIRECTORY / name
        trainer.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(state_dir / TRAINER_DIRECTORY / name, trainer)
            return trainer
    raise ConfigError(
        f"{state_dir / TRAINER_DIRECTORY}: the file that the store names is missing: rounds end faster than it can be "
        "copied, or it was deleted; stop the peer and try again"
    )


def _copy_sqlite(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as one,
        contextlib.closing(sqlite3.connect(target)) as other,
    ):
        one.backup(other)


def _kept(state_dir: Path) -> Iterator[Path]:
    """Files of the state directory to keep, in a fixed order, without the trainer's."""
    for path in sorted(state_dir.rglob("*")):
        parts = path.relative_to(state_dir).parts
        if parts[0] == TRAINER_DIRECTORY or parts[0].startswith(LEFT_OUT) or path.suffix in (".new", ".lock"):
            continue
        if path.name.endswith(("-wal", "-shm", "-journal")) or ".unfinished" in parts:
            continue
        if path.is_file() and not path.is_symlink():
            yield path


# ---- reading ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:") as archive:
            yield archive
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise ConfigError(f"{source}: is no backup of kmel-peer, or is damaged: {error}") from error


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    found = archive.extractfile(member)
    assert found is not None, "a regular file"
    return found


def _manifest(source: Path, text: bytes) -> dict[str, Any]:
    try:
        found = parse_json(text)
        if found["format"] != FORMAT:
            raise ConfigError(f"{source}: is of another version of kmel-peer ({found.get('version')}); use that one")
        names = {str(name): (int(one["bytes"]), str(one["sha256"])) for name, one in found["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source}: its {MANIFEST} is damaged: {error!r}") from None
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise ConfigError(f"{source}: is no backup of kmel-peer: it names {name!r:.80}")
    return dict(found)


def _unpack(source: Path, archive: tarfile.TarFile, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write what the manifest names, and nothing else, and check it."""
    private_directory(folder / STATE)
    wanted = dict(manifest["files"])
    for member in archive:
        facts = wanted.pop(member.name, None)
        if facts is None:
            continue
        if not member.isreg() or member.size != facts["bytes"]:
            raise ConfigError(f"{source}: {member.name} is not what the manifest says; take another backup")
        path = folder / member.name
        private_directory(path.parent)
        state = hashlib.sha256()
        with _content(archive, member) as content, path.open("xb") as out:
            path.chmod(0o600)
            while block := content.read(1 << 20):
                state.update(block)
                out.write(block)
        if state.hexdigest() != facts["sha256"]:
            raise ConfigError(f"{source}: {member.name} is damaged; take another backup")
    if wanted:
        raise ConfigError(f"{source}: {min(wanted)} is missing; take another backup")


def _put(source: Path, target: Path) -> bool:
    """Copy a settings file to its place unless one is there; whether it was copied."""
    if target.exists() or not source.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return True
