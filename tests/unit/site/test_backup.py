"""Backups: taken while the store is written, put back whole or not at all, and known as such by the peer."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.main import invoke
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.backup import MANIFEST, read_manifest, restore_backup, write_backup
from kmel_p2p.site.state.instance import was_put_back
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.stored_entries import encoded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A federation of one site, and two entries of it in the store."""
    home = tmp_path / "north"
    assert invoke(["init", str(home), "--name", "north"]) == 0
    (home / "d.csv").write_text("smiles,D\nCCO,1\n")
    (home / "site.toml").write_text(
        '[site]\nname = "north"\n[data]\npath = "d.csv"\n[data.columns]\nlogd = { column = "D" }\n'
    )
    key, charter = home / "site.key", home / "charter.toml"
    drafted = ["--federation", "demo", "--site", f"north={load_key(key).key.hex()}", "--endpoint", "logd,head=shared"]
    assert invoke(["charter", "new", *drafted, "-o", str(charter)]) == 0
    assert invoke(["charter", "sign", "--yes", str(charter), "--key", str(key)]) == 0
    return home


@pytest.fixture
def site(folder: Path) -> Site:
    return load_site(load_config(folder / "site.toml"))


@pytest.fixture
def store(folder: Path, site: Site) -> Iterator[Store]:
    """Open, as a running peer has it, with the trainer's file and what is made again."""
    state = folder / "state"
    (state / "trainer").mkdir(parents=True)
    with_files = Store(state / STORE_NAME)
    for number in (1, 2):
        (state / "trainer" / f"round-{number}").write_bytes(bytes([number]) * 100)
        with_files.append_entry(site.identity.key, number, encoded(site.identity.key, number), f"round-{number}")
    (state / "model").mkdir()
    (state / "model" / "card.json").write_text("{}")
    (state / "cache").mkdir()
    (state / "cache" / "large").write_bytes(bytes(1000))
    (state / "peer.log").write_text("lines\n")
    was_put_back(with_files)
    yield with_files
    with_files.close()


def backup(site: Site, target: Path, folder: Path) -> list[str]:
    settings = {"site.toml": folder / "site.toml", "charter.toml": folder / "charter.toml"}
    return write_backup(site, target, settings, lambda count: None)


def test_what_a_running_peer_has_is_taken_and_put_back(site: Site, store: Store, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "north.tar"
    names = backup(site, target, folder)
    assert names == [
        "charter.toml", "site.toml", "state/model/card.json", "state/store.sqlite", "state/trainer/round-2"
    ]  # fmt: skip
    assert target.stat().st_mode & 0o777 == 0o600
    assert not (folder / "state" / ".backup").exists()

    restored = tmp_path / "again" / "state"
    assert restore_backup(target, restored, {"site.toml": folder / "site.toml"}) == [], "what is there stays"
    assert (restored / "trainer" / "round-2").read_bytes() == bytes([2]) * 100
    other = Store(restored / STORE_NAME)
    assert other.vector() == {site.identity.key: 2}
    assert was_put_back(other), "the peer publishes nothing before it has heard the others"
    other.close()


def test_the_trainers_file_of_the_copied_store_is_taken_even_if_a_round_ends_meanwhile(
    site: Site, store: Store, folder: Path, tmp_path: Path
) -> None:
    (folder / "state" / "trainer" / "round-2").unlink()
    with pytest.raises(ConfigError, match="the file that the store names is missing"):
        backup(site, tmp_path / "north.tar", folder)
    assert not (tmp_path / "north.tar").exists()
    assert not (folder / "state" / ".backup").exists()


@pytest.mark.parametrize("keep", [0, 100, 600, 5000, -3000])
def test_an_archive_that_was_cut_off_is_refused(
    keep: int, site: Site, store: Store, folder: Path, tmp_path: Path
) -> None:
    backup(site, tmp_path / "north.tar", folder)
    content = (tmp_path / "north.tar").read_bytes()
    whole = tarfile.open(tmp_path / "north.tar")  # noqa: SIM115
    end = whole.getmember(MANIFEST).offset
    whole.close()
    (tmp_path / "cut.tar").write_bytes(content[: keep if keep >= 0 else end])
    with pytest.raises(ConfigError, match=r"cut\.tar"):
        restore_backup(tmp_path / "cut.tar", tmp_path / "state", {})
    assert not (tmp_path / "state").exists()


def test_a_damaged_file_is_named_and_nothing_is_put_back(
    site: Site, store: Store, folder: Path, tmp_path: Path
) -> None:
    backup(site, tmp_path / "north.tar", folder)
    content = bytearray((tmp_path / "north.tar").read_bytes())
    at = content.index(bytes([2]) * 100)
    content[at] ^= 1
    (tmp_path / "north.tar").write_bytes(content)
    with pytest.raises(ConfigError, match="state/trainer/round-2 is damaged"):
        restore_backup(tmp_path / "north.tar", tmp_path / "state", {})
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "state.restoring").exists()


def archive(path: Path, files: dict[str, bytes], manifest: object, link: str = "") -> Path:
    with tarfile.open(path, "w") as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            made.addfile(entry)
        text = json.dumps(manifest).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(text)
        made.addfile(entry, io.BytesIO(text))
    return path


def test_a_backup_writes_nothing_outside_of_its_place(tmp_path: Path) -> None:
    facts = {"bytes": 1, "sha256": "ab"}
    for name in ("../evil", "/etc/evil", "state/../../evil", ""):
        source = archive(tmp_path / "a.tar", {"x": b"x"}, {"format": 1, "files": {name: facts}})
        with pytest.raises(ConfigError, match="is no backup of kmel-peer"):
            restore_backup(source, tmp_path / "state", {})
    linked = archive(tmp_path / "b.tar", {}, {"format": 1, "files": {"state/link": facts}}, link="state/link")
    with pytest.raises(ConfigError, match="state/link is not what the manifest says"):
        restore_backup(linked, tmp_path / "state", {})
    unnamed = archive(tmp_path / "c.tar", {"state/extra": b"x"}, {"format": 1, "files": {}})
    restore_backup(unnamed, tmp_path / "state", {})
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize("manifest", [[], {"format": 1}, {"format": 1, "files": {"a": 3}}, {"format": 9, "files": {}}])
def test_an_odd_manifest_is_told(manifest: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.tar"):
        read_manifest(archive(tmp_path / "a.tar", {}, manifest))


def test_a_disk_without_room_is_told_and_the_same_command_restores_once_there_is_some(
    site: Site, store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(site, tmp_path / "north.tar", folder)

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr("kmel_p2p.site.state.backup.os.replace", full)
        with pytest.raises(ConfigError, match="state: cannot be restored: No space left on device; make room"):
            restore_backup(tmp_path / "north.tar", tmp_path / "state", {})
    assert not (tmp_path / "state.restoring").exists()
    restore_backup(tmp_path / "north.tar", tmp_path / "state", {})
    assert (tmp_path / "state" / STORE_NAME).exists()


def test_a_state_that_is_there_is_not_overwritten(site: Site, store: Store, folder: Path, tmp_path: Path) -> None:
    backup(site, tmp_path / "north.tar", folder)
    with pytest.raises(ConfigError, match="is not empty; move what is there away"):
        restore_backup(tmp_path / "north.tar", folder / "state", {})
    assert store.vector()


def test_a_lost_machine_is_restored_with_two_commands(
    site: Site, store: Store, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, settings = str(tmp_path / "north.tar"), str(folder / "site.toml")
    assert invoke(["backup", target, "-c", settings]) == 0
    assert "5 files" in capsys.readouterr().out
    new = tmp_path / "new machine"
    assert invoke(["restore", target, "-c", str(new / "site.toml")]) == 0
    out = capsys.readouterr().out
    assert f"Written: {new / 'site.toml'}" in out
    assert (new / "charter.toml").read_bytes() == (folder / "charter.toml").read_bytes()
    assert (new / "state" / STORE_NAME).exists()
    assert not (new / "site.key").exists(), "the key is kept apart"
    assert invoke(["restore", target, "-c", str(new / "site.toml")]) == ExitCode.CONFIG
    assert "is not empty" in capsys.readouterr().err
