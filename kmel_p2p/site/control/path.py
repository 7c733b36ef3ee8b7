"""Where the control socket of a state directory is.

A unix socket path has to fit 107 bytes. A state directory that is too deep gets its socket in a private
run-time directory instead; a file in the state directory says where.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.files import write_whole

SOCKET_NAME = "control.sock"
NOTE_NAME = "control.path"
MAX_SOCKET_PATH = 100
"""`sun_path` holds 107 bytes and a zero on Linux, 103 elsewhere."""


def choose(state_dir: Path, runtime_dir: str | None = None) -> Path:
    """Pick the socket path of a daemon that is starting, and note it.

    Args:
        state_dir: absolute state directory.
        runtime_dir: where to put the socket when the state directory is too deep; None: XDG_RUNTIME_DIR,
            else the directory for temporary files.

    Raises:
        ConfigError: no place is short and private enough.
    """
    path = state_dir.absolute() / SOCKET_NAME
    if _too_long(path):
        path = _private_place(state_dir, runtime_dir) / SOCKET_NAME
        if _too_long(path):
            raise ConfigError(
                f"{state_dir}: too deep for a control socket (its path has at most {MAX_SOCKET_PATH} bytes), "
                f"and {path} is too long too; choose a shorter state_dir, or set XDG_RUNTIME_DIR to a short "
                "private directory"
            )
    write_whole(state_dir / NOTE_NAME, os.fsencode(path))
    return path


def find(state_dir: Path) -> Path | None:
    """The socket path noted by the daemon of this state directory."""
    try:
        return Path(os.fsdecode((state_dir / NOTE_NAME).read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{state_dir / NOTE_NAME}: cannot be read: {error.strerror}") from error


def _too_long(path: Path) -> bool:
    return len(os.fsencode(path)) > MAX_SOCKET_PATH


def _private_place(state_dir: Path, runtime_dir: str | None) -> Path:
    base = runtime_dir or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    mark = digest(os.fsencode(state_dir.resolve()))[:8].hex()
    place = Path(base) / f"kmel-{os.geteuid()}-{mark}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        facts = place.lstat()
    except OSError as error:
        raise ConfigError(f"{place}: cannot create a directory for the control socket: {error.strerror}") from error
    # A name in a shared directory may have been taken by somebody else first.
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise ConfigError(f"{place}: not a private directory of this user; remove it, or set XDG_RUNTIME_DIR")
    return place
