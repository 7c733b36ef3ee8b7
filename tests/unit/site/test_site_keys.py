"""The site key on disk."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.keys import create_key, load_key


def test_a_new_key_is_private_and_loads_back(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    made = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).key == made.key
    assert made.key.hex() not in path.read_text()


def test_two_keys_differ(tmp_path: Path) -> None:
    assert create_key(tmp_path / "a").key != create_key(tmp_path / "b").key


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    made = create_key(path)
    with pytest.raises(ConfigError, match="never overwritten"):
        create_key(path)
    assert load_key(path).key == made.key


def test_raw_bytes_are_a_key_too(tmp_path: Path) -> None:
    path = tmp_path / "raw"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    hexed = tmp_path / "hex"
    hexed.write_text(bytes(range(32)).hex() + "\n")
    hexed.chmod(0o600)
    assert load_key(path).key == load_key(hexed).key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_key_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        load_key(path)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kmel-peer init"):
        load_key(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"g" * 64, b"ab" * 40, os.urandom(5000)])
def test_anything_else_is_no_key_and_is_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "site.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a site key") as caught:
        load_key(path)
    if content:
        assert content[:8].decode("latin1") not in str(caught.value)


def test_a_directory_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="regular file"):
        load_key(tmp_path)


FULL_DISK = """
import resource, sys
from pathlib import Path
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.files import write_new
from kmel_p2p.site.keys import create_key
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
folder = Path(sys.argv[1])
for make in (lambda: create_key(folder / "site.key"), lambda: write_new(folder / "site.toml", bytes(500))):
    try:
        make()
    except ConfigError as error:
        print(error)
"""


def test_a_full_disk_leaves_no_half_key_and_no_half_settings(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("cannot be written: File too large") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links_gets_whole_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*given: object, **named: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuses)
    key = create_key(tmp_path / "site.key").key
    assert load_key(tmp_path / "site.key").key == key
    with pytest.raises(ConfigError, match="never overwritten"):
        create_key(tmp_path / "site.key")
    assert [path.name for path in tmp_path.iterdir()] == ["site.key"]


def test_a_credential_of_systemd_is_this_services_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its access list for the service's user shows as a right of the group."""
    made = create_key(tmp_path / "site.key")
    (tmp_path / "site.key").chmod(0o440)
    with pytest.raises(ConfigError, match="open to others"):
        load_key(tmp_path / "site.key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="open to others"):
        load_key(tmp_path / "site.key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(os, "fstat", _as_of_root(os.fstat))
    assert load_key(tmp_path / "site.key").key == made.key
    (tmp_path / "site.key").chmod(0o444)
    with pytest.raises(ConfigError, match="open to others"):
        load_key(tmp_path / "site.key")


def _as_of_root(fstat: Callable[[int], os.stat_result]) -> Callable[[int], os.stat_result]:
    """The tests may run as anybody."""
    return lambda handle: os.stat_result((*fstat(handle)[:4], 0, *fstat(handle)[5:10]))
