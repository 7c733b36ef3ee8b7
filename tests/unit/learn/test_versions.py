"""Versions of models: kept once, found by name, one in use, the oldest deleted, and nothing lost on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.predict import versions as room
from kmel_p2p.learn.predict.model_directory import STORED, Card, read_card, read_parameters, write_model
from kmel_p2p.learn.predict.versions import (
    FOLDER,
    IN_USE,
    NEWEST_FOLDER,
    chosen,
    find,
    in_use,
    keep_version,
    prune,
    use,
    versions,
)

POLICY = FeatureRule(bits=64)
SHAPE = Architecture(inputs=POLICY.width, hidden=(4,), endpoints=(AssayEndpoint(name="logd"),), dropout=0.0)


def write(state: Path, seed: int) -> str:
    """New models, as the trainer writes them; returns their version."""
    rng = np.random.default_rng(seed)
    sizes = trunk_layout(SHAPE).size, private_layout(SHAPE).size
    drawn = {name: tuple(rng.normal(size=size).astype(np.float32) for size in sizes) for name in STORED}
    parameters = {name: (trunk, private) for name, (trunk, private) in drawn.items()}
    write_model(state / NEWEST_FOLDER, Card(SHAPE, POLICY, "", {"logd": "hybrid"}, {}, {}), parameters)
    return read_card(state / NEWEST_FOLDER).version


def test_a_version_survives_the_models_that_follow(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    assert keep_version(tmp_path, 10.0) == first
    assert keep_version(tmp_path, 20.0) == first, "once"
    kept = tmp_path / FOLDER / first
    assert os.stat(kept / "model.safetensors").st_nlink == 2, "it takes no room"
    second = write(tmp_path, 2)
    assert read_card(kept).version == first
    assert read_parameters(kept, read_card(kept))
    assert [(one.name, one.at_s) for one in versions(tmp_path)] == [(first, 10.0), (second, None)]


def test_one_version_is_in_use_until_another_is_chosen(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    keep_version(tmp_path, 10.0)
    second = write(tmp_path, 2)
    assert in_use(tmp_path) == tmp_path / NEWEST_FOLDER
    use(tmp_path, find(tmp_path, first[:6]), 30.0)
    assert in_use(tmp_path) == tmp_path / FOLDER / first
    assert (tmp_path / FOLDER / second).exists(), "the newest would be lost to the next models"
    third = write(tmp_path, 3)
    assert chosen(tmp_path) == first
    use(tmp_path, find(tmp_path, "newest"), 40.0)
    assert in_use(tmp_path) == tmp_path / NEWEST_FOLDER
    assert [one.name for one in versions(tmp_path)] == [first, second, third]


def test_the_oldest_are_deleted_but_not_the_one_in_use(tmp_path: Path) -> None:
    names = []
    for seed in range(5):
        names.append(write(tmp_path, seed))
        keep_version(tmp_path, float(seed))
    use(tmp_path, find(tmp_path, names[0]), 9.0)
    assert [one.name for one in prune(tmp_path, 3)] == names[1:3]
    assert [one.name for one in prune(tmp_path, 1)] == names[3:4]
    assert [one.name for one in versions(tmp_path)] == [names[0], names[4]]
    assert prune(tmp_path, 1) == []


def test_a_name_must_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none yet: a site writes its models when its run ends"):
        find(tmp_path, "newest")
    name = write(tmp_path, 1)
    for wrong in ("", "zz", "../model"):
        with pytest.raises(ConfigError, match=f"names no versions of the models; there are: {name}"):
            find(tmp_path, wrong)


def test_a_version_that_is_gone_or_a_damaged_choice_is_told(tmp_path: Path) -> None:
    first = write(tmp_path, 1)
    keep_version(tmp_path, 1.0)
    write(tmp_path, 2)
    use(tmp_path, find(tmp_path, first), 2.0)
    (tmp_path / FOLDER / first / room.FACTS).unlink()
    with pytest.raises(ConfigError, match="go on with kmel-peer models use newest"):
        in_use(tmp_path)
    for text in ("{", "[]", json.dumps({"version": "../../etc"}), json.dumps({"version": 3})):
        (tmp_path / IN_USE).write_text(text)
        with pytest.raises(ConfigError, match="models use newest writes it anew"):
            in_use(tmp_path)
    use(tmp_path, find(tmp_path, "newest"), 3.0)
    assert in_use(tmp_path) == tmp_path / NEWEST_FOLDER


def test_an_interrupted_copy_is_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write(tmp_path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room, "_link", full)
        with pytest.raises(ConfigError, match="cannot be kept as a version: No space left"):
            keep_version(tmp_path, 1.0)
    assert [one.at_s for one in versions(tmp_path)] == [None]
    assert keep_version(tmp_path, 2.0) == name
    assert [one.at_s for one in versions(tmp_path)] == [2.0]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [name]
