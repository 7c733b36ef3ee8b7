"""A state directory that was put back from a copy is noticed; one that was only restarted is not."""

from __future__ import annotations

import shutil
from pathlib import Path

from kmel_p2p.site.state.instance import was_put_back
from kmel_p2p.site.state.store import STORE_NAME, Store


def started(folder: Path) -> bool:
    store = Store(folder / STORE_NAME)
    try:
        return was_put_back(store)
    finally:
        store.close()


def test_a_restart_is_no_copy(tmp_path: Path) -> None:
    assert [started(tmp_path) for _ in range(3)] == [False] * 3


def test_a_directory_put_back_with_its_times_is_noticed_once(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    started(tmp_path / "state")
    shutil.copytree(tmp_path / "state", tmp_path / "backup")
    started(tmp_path / "state")
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "backup", tmp_path / "state")
    assert started(tmp_path / "state")
    assert not started(tmp_path / "state")


def test_a_store_of_an_earlier_start_is_noticed_beside_a_newer_file(tmp_path: Path) -> None:
    started(tmp_path)
    shutil.copy2(tmp_path / STORE_NAME, tmp_path / "old")
    started(tmp_path)
    shutil.copy2(tmp_path / "old", tmp_path / STORE_NAME)
    assert started(tmp_path)


def test_a_store_that_lost_the_file_beside_it_is_taken_for_a_copy(tmp_path: Path) -> None:
    started(tmp_path)
    (tmp_path / "instance").unlink()
    assert started(tmp_path)
