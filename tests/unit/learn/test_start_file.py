"""A trunk that starts from a file: the same bits at every site, and only from the file that the charter names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local, train_local
from kmel_p2p.learn.models import start_file
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.start_file import file_hash, started_trunk
from tests.support.learn_fixtures import SETTINGS, architecture, dataset

LAYOUT = trunk_layout(architecture())


def tensors(seed: int = 1) -> dict[str, np.ndarray]:
    """Of an earlier federation of other assay endpoints."""
    draw = np.random.default_rng(seed)
    own = {
        spec.name: draw.normal(size=spec.shape).astype(np.float32)
        for spec in LAYOUT.specs
        if not spec.name.startswith("head.")
    }
    return {**own, "head.shared.weight": np.ones((7, 12), np.float32)}


def saved(path: Path, **changed: np.ndarray) -> Path:
    save_file({**tensors(), **changed}, path)
    return path


def naming(path: Path) -> ModelRule:
    return ModelRule(hidden=(24, 12), seed=3, start=file_hash(path))


def test_it_is_the_files_trunk_with_heads_from_the_seed(tmp_path: Path) -> None:
    path = saved(tmp_path / "start.safetensors")
    trunk = started_trunk(naming(path), LAYOUT, path)
    found, drawn = LAYOUT.split(trunk), LAYOUT.split(initial_trunk(LAYOUT, 3))
    for name, values in found.items():
        expected = drawn[name] if name.startswith("head.") else tensors()[name]
        assert values == pytest.approx(expected, abs=2**-30)
    # What the ledger sums from is exactly what everybody trains from.
    assert np.array_equal(Accumulator.from_trunk(trunk).trunk(), trunk)


def test_without_a_file_nothing_changes() -> None:
    assert np.array_equal(started_trunk(ModelRule(seed=3), LAYOUT, None), initial_trunk(LAYOUT, 3))
    assert "start" not in ModelRule().model_dump()


def test_only_the_charters_file_will_do(tmp_path: Path) -> None:
    path, other = saved(tmp_path / "a"), saved(tmp_path / "b", **{"trunk.0.bias": np.ones(24, np.float32)})
    for file, message in (
        (None, r"starts from a file of sha256 .*name your copy in site\.start_file"),
        (other, r"/b: has sha256 .*the charter's trunk starts from a file of .*get that one"),
        (tmp_path / "gone", r"/gone: cannot be read: No such file.*site\.start_file names it"),
    ):
        with pytest.raises(ConfigError, match=message):
            started_trunk(naming(path), LAYOUT, file)
    with pytest.raises(ConfigError, match=r"the charter has no model\.start: remove the setting"):
        started_trunk(ModelRule(), LAYOUT, path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trunk.0.bias": np.ones(23, np.float32)}, r"trunk\.0\.bias is F32\[23\]; the charter's is F32\[24\]"),
        ({"trunk.0.bias": np.ones(24, np.float16)}, r"trunk\.0\.bias is F16"),
        ({"trunk.0.bias": np.full(24, np.nan, np.float32)}, "a value that is not finite"),
        ({"trunk.0.bias": np.full(24, 2000, np.float32)}, "beyond ±1024"),
        ({"trunk.9.bias": np.ones(24, np.float32)}, r"'trunk\.9\.bias' is none of the charter's"),
    ],
)
def test_a_file_that_does_not_fit_is_told(tmp_path: Path, changed: dict[str, np.ndarray], message: str) -> None:
    path = saved(tmp_path / "start", **changed)
    with pytest.raises(ConfigError, match=message):
        started_trunk(naming(path), LAYOUT, path)


def test_a_file_that_is_cut_off_or_lacks_a_tensor_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "start")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cannot be read as a safetensors file"):
        started_trunk(naming(path), LAYOUT, path)
    fewer = tensors()
    del fewer["trunk.1.bias"]
    save_file(fewer, path)
    with pytest.raises(ConfigError, match=r"'trunk\.1\.bias' is missing"):
        started_trunk(naming(path), LAYOUT, path)


def test_a_file_that_is_changed_between_two_looks_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = saved(tmp_path / "a"), saved(tmp_path / "b", **{"trunk.0.bias": np.ones(24, np.float32)})
    model, link = naming(path), tmp_path / "start"
    link.symlink_to(path)
    hashed = start_file.file_hash

    def then_swapped(file: Path) -> str:
        found = hashed(file)
        link.unlink()
        link.symlink_to(other)
        return found

    monkeypatch.setattr(start_file, "file_hash", then_swapped)
    with pytest.raises(ConfigError, match=r"/start: has sha256 .*get that one"):
        started_trunk(model, LAYOUT, link)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ConfigError, match=r"is no file; site\.start_file names it"):
            started_trunk(ModelRule(start="0" * 64), LAYOUT, odd)


@pytest.mark.parametrize(
    "header", [b"\xff" * 8, (2**40).to_bytes(8, "little"), (10**6).to_bytes(8, "little") + b"{" * 10**6]
)
def test_a_header_without_bounds_is_told(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "start"
    path.write_bytes(header + b"{}")
    with pytest.raises(ConfigError, match="cannot be read as a safetensors file"):
        started_trunk(naming(path), LAYOUT, path)


def test_local_networks_start_from_it_too(tmp_path: Path) -> None:
    """A site could take the file without the others: what the federation is compared with has to have it."""
    path = saved(tmp_path / "start")
    start = started_trunk(naming(path), LAYOUT, path)
    network = Network(architecture())
    start_local(network, architecture(), 3, 4, start)
    assert np.array_equal(network.trunk_values(), start)
    for number in (1, 2):
        found = train_local(architecture(), dataset(), SETTINGS, 3, number, steps=0, start=start)
        assert np.array_equal(found.trunk, start)
