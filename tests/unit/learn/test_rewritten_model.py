"""A model that is written again: the former one stays whole until the new one is, whatever happens."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.predict.model_directory import STORED, UNFINISHED, Card, read_card, read_parameters, rewritten
from kmel_p2p.learn.predict.model_directory import write_model as write
from kmel_p2p.learn.predict.neighbours import Neighbours
from tests.support.stacked_site import ENDPOINTS

POLICY = FeatureRule(bits=64)
SHAPE = Architecture(inputs=POLICY.width, hidden=(4,), endpoints=ENDPOINTS)
FILES = {"card.json", "model.safetensors", "neighbours_STAYS.safetensors"}


def write_all(folder: Path, value: float) -> Card:
    """As the trainer does: neighbours, then parameters and card."""
    sizes = [layout(SHAPE).size for layout in (trunk_layout, private_layout)]
    parameters = {name: (np.full(sizes[0], value, np.float32), np.zeros(sizes[1], np.float32)) for name in STORED}
    chosen = {endpoint.name: "local" for endpoint in ENDPOINTS}
    with rewritten(folder) as aside:
        Neighbours.of_bits(np.ones((3, POLICY.width), np.bool_)).write(aside)
        return write(aside, Card(SHAPE, POLICY, "", chosen, {}, {}), parameters)


def value_in(folder: Path) -> float:
    return float(read_parameters(folder, read_card(folder))["local"][0][0])


def test_a_model_takes_the_place_of_the_former_one_and_other_files_stay(tmp_path: Path) -> None:
    write_all(tmp_path, 1.0)
    (tmp_path / "notes.txt").write_text("ours")
    (tmp_path / UNFINISHED).mkdir()
    (tmp_path / UNFINISHED / "left by a crash").write_text("")
    write_all(tmp_path, 2.0)
    assert value_in(tmp_path) == 2.0
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"notes.txt"}


@pytest.mark.parametrize("name", ["fsync", "open", "replace", "mkdir"])
def test_a_full_disk_never_loses_the_former_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Fails at the n-th call, for every n until the writing succeeds."""
    former = tmp_path / "former"
    write_all(former, 1.0)
    real, failed = getattr(os, name), 0
    for after in range(100):
        folder, calls = tmp_path / str(after), 0
        shutil.copytree(former, folder)

        def call(*arguments: Any, after: int = after, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, call)
        try:
            write_all(folder, 2.0)
        except ConfigError:
            failed += 1
        else:
            break
        finally:
            monkeypatch.setattr(os, name, real)
        if name != "replace":  # a rename takes no room: where one fails all the same, no card is left
            assert value_in(folder) in (1.0, 2.0)
            assert {path.name for path in folder.iterdir()} - {UNFINISHED} == FILES
    assert failed >= 1
    assert value_in(folder) == 2.0


def test_an_interruption_leaves_the_former_model(tmp_path: Path) -> None:
    write_all(tmp_path, 1.0)

    def interrupted() -> None:
        with rewritten(tmp_path) as aside:
            Neighbours.of_bits(np.zeros((1, POLICY.width), np.bool_)).write(aside)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert value_in(tmp_path) == 1.0
    assert {path.name for path in tmp_path.iterdir()} == FILES
