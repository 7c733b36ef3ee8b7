"""The site key, a site's only secret on disk: a 32-byte Ed25519 seed in hex, readable by its owner only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import nacl.utils

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import KEY_BYTES, Identity
from kmel_p2p.files import create_whole

MAX_FILE_BYTES = 256
"""A seed as hex with white space fits; anything larger is another kind of file."""


def create_key(path: Path) -> Identity:
    """Draw a new secret from the operating system and write it with mode 0600.

    Raises:
        ConfigError: the file exists already (a key is never overwritten), or cannot be written.
    """
    seed = nacl.utils.random(KEY_BYTES)
    try:
        create_whole(path, seed.hex().encode() + b"\n", 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path}: a key exists already and is never overwritten. "
            "Move it away first if this site really should get a new identity"
        ) from None
    return Identity(seed)


def load_key(path: Path) -> Identity:
    """Read a site's secret: 32 raw bytes, or 64 hex digits.

    Raises:
        ConfigError: missing, open to others, owned by somebody else, or not a seed; the text says what to do.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no site key here; create one with: kmel-peer init") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the site key: {error.strerror}") from error
    try:
        _require_private(path, os.fstat(handle))
        content = os.read(handle, MAX_FILE_BYTES + 1)
    finally:
        os.close(handle)
    return Identity(_seed(path, content))


def _require_private(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigError(f"{path}: the site key must be a regular file")
    if facts.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"{path}: the site key belongs to user id {facts.st_uid}, but this process runs as "
            f"{os.geteuid()}; use: chown {os.geteuid()} {path}"
        )
    mode = stat.S_IMODE(facts.st_mode)
    if mode == 0o440 and facts.st_uid == 0 and _is_credential(path):
        return
    if mode & 0o077:
        raise ConfigError(f"{path}: the site key is open to others (mode {mode:04o}); use: chmod 600 {path}")


def _is_credential(path: Path) -> bool:
    """Whether systemd hands over the file to this service alone: by an access list, which shows as a group's right."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return folder != "" and path.absolute().parent == Path(folder)


def _seed(path: Path, content: bytes) -> bytes:
    if len(content) == KEY_BYTES:
        return content
    text = content.strip()
    if len(text) == 2 * KEY_BYTES:
        try:
            return bytes.fromhex(text.decode("ascii"))
        except ValueError:
            pass
    found = f"{len(content)} bytes" if len(content) <= MAX_FILE_BYTES else f"more than {MAX_FILE_BYTES} bytes"
    raise ConfigError(
        f"{path}: not a site key: expected {2 * KEY_BYTES} hex digits or {KEY_BYTES} raw bytes, found {found}"
    )
