"""Files of ours are whole or not there, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.files import BY_UMASK, write_new, write_whole


def test_parts_become_one_file_that_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "state"
    write_whole(path, b"one ", memoryview(b"two"), bytearray(b" three"))
    assert path.read_bytes() == b"one two three"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["state"]


def test_a_file_for_others_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "card.json", b"{}", mode=BY_UMASK)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "card.json").stat().st_mode) == 0o640


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "round-1.safetensors"
    write_whole(path, b"old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(ConfigError, match=r"round-1\.safetensors: cannot be written: No space left on device"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    write_new(tmp_path / "site.toml", b"mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_new(tmp_path / "site.toml", b"theirs")
    assert (tmp_path / "site.toml").read_bytes() == b"mine"
