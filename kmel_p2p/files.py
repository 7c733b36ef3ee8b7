"""Files that are either whole or not there: written beside their place, made durable, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from kmel_p2p.agreement.errors import ConfigError

Part: TypeAlias = bytes | bytearray | memoryview

BY_UMASK = 0o666
"""Mode of files that others may be meant to read; without it a file is its owner's alone."""


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lacks_room(error: BaseException) -> bool:
    """Whether a file could not be written because its disk, or the quota there, is full."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def write_whole(path: Path, *content: Part, mode: int = 0o600) -> None:
    """Replace `path` by `content`, part after part, in one step: a crash leaves the old file or the new one.

    The folder is made if it is missing.

    Raises:
        ConfigError: the file cannot be written; names it and the reason. Nothing is left behind.
    """
    with whole_file(path, mode) as file:
        for part in content:
            file.write(part)


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """The same for content that is made while it is written: what the `with` block wrote, if it ends well.

    Raises:
        ConfigError: as `write_whole`.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if not isinstance(error, OSError):
            raise
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}; make room or permissions, then try again"
        ) from error


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that must not exist yet: it is there whole, or not at all.

    Raises:
        ConfigError: it exists, or cannot be written. Nothing is left behind.
    """
    try:
        create_whole(path, content, mode)
    except FileExistsError:
        raise ConfigError(
            f"{path}: exists already and is not overwritten; move it away or choose another name"
        ) from None


def create_whole(path: Path, content: bytes, mode: int) -> None:
    """The same, for callers that word themselves what is there already.

    Raises:
        FileExistsError: there is such a file, or a link of that name.
        ConfigError: it cannot be written. Nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _give_name(beside, path)
        sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}; make room or permissions, then try again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _give_name(beside: Path, path: Path) -> None:
    """Give a whole file its name, unless the name is taken: a link replaces nothing, as a rename would."""
    try:
        os.link(beside, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # No links on this file system: here alone, another program could take the name between the two steps.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        os.replace(beside, path)


def private_directory(path: Path) -> Path:
    """Create a directory that only its owner can enter; an existing one is closed to others.

    Raises:
        ConfigError: cannot be created, or is no directory of ours; names it and the remedy.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except FileExistsError:
        raise ConfigError(f"{path}: is a file, but a directory is needed here") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot create or close this directory to others: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: this process may not write here; check owner and mount options")
    return path
