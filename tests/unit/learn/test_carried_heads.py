"""A site's trainer when assay endpoints come: what was learned stays, bit for bit, with what it was learned for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.carried_heads import carried, private_heads
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.train.prefix import PREFIX_NAME
from kmel_p2p.learn.train.round import Rounds
from tests.support.learn_fixtures import SETTINGS, architecture, dataset
from tests.unit.learn.test_rounds import CODEC, LAYOUT, quiet, rounds, run

NEW = AssayEndpoint(name="hERG", center=5.0)
OTHER = AssayEndpoint(name="hERG", center=6.0)
"""What an amendment would have added that gave way to the one with `NEW`."""


def wider(*added: AssayEndpoint) -> Architecture:
    shape = architecture()
    return shape.changed(endpoints=(*shape.endpoints, *added))


def measured(shape: Architecture) -> Dataset:
    """The dataset with a column for each assay endpoint that came: the last one again."""
    old = dataset()
    more = len(shape.endpoints) - len(old.endpoints)
    labels = np.hstack([old.labels, *[old.labels[:, 1:2]] * more]).astype(np.float32)
    relations = np.hstack([old.relations, *[old.relations[:, 1:2]] * more]).astype(np.int8)
    return Dataset(shape.endpoints, old.inputs, labels, relations, old.train, old.valid, old.test)


def resumed(folder: Path, shape: Architecture, name: str, heads: list[str] | None = None) -> tuple[Rounds, Network]:
    network = Network(shape)
    start_local(network, shape, 3, 4)
    made = Rounds(network, measured(shape), LAYOUT, CODEC, SETTINGS, folder)
    made.resume(name, heads)
    return made, network


def heads_by_name(shape: Architecture, private: np.ndarray) -> dict[str, np.ndarray]:
    """Weights and bias of each private head."""
    layout = private_layout(shape)
    weight, bias = (
        private[layout.slices[f"head.private.{part}"]].reshape(len(shape.private), -1) for part in ("weight", "bias")
    )
    return {
        shape.endpoints[place].name: np.concatenate([weight[at], bias[at]]) for at, place in enumerate(shape.private)
    }


def test_an_added_head_changes_no_other_value_and_is_trained_from_then_on(tmp_path: Path) -> None:
    trunk = initial_trunk(LAYOUT, 3)
    before = rounds(tmp_path)
    run(before, trunk, range(1, 4))
    shape = wider(NEW)
    assert trunk_layout(shape).hash == LAYOUT.hash
    fresh = Network(shape)
    start_local(fresh, shape, 3, 4)
    after, _ = resumed(tmp_path, shape, "round-3.safetensors")
    old, new = heads_by_name(architecture(), before.private()), heads_by_name(shape, after.private())
    for name, values in old.items():
        np.testing.assert_array_equal(new[name], values)
    np.testing.assert_array_equal(new["hERG"], heads_by_name(shape, fresh.private_values())["hERG"])
    np.testing.assert_array_equal(after.residual, before.residual)
    assert after.steps == before.steps
    # A crash before its first entry finds the file of the campaign before, and does the same.
    result = after.train(4, 5, None, trunk, quiet)
    again, _ = resumed(tmp_path, shape, "round-3.safetensors")
    assert again.train(4, 5, None, trunk, quiet).payload == result.payload
    again.commit(4)
    assert not np.array_equal(heads_by_name(shape, again.private())["hERG"], new["hERG"])
    kept, _ = resumed(tmp_path, shape, "round-4.safetensors")
    np.testing.assert_array_equal(kept.private(), again.private())


def test_heads_of_an_ensemble_and_calibration_are_carried_over() -> None:
    shape = architecture().changed(members=3, calibrate=True)
    after = wider(NEW).changed(members=3, calibrate=True)
    values = np.arange(private_layout(shape).size, dtype=np.float32)
    fresh = np.full(private_layout(after).size, -1, np.float32)
    found = carried(values, private_heads(shape), after, fresh)
    before, now = private_layout(shape), private_layout(after)
    for spec, wide in zip(before.specs, now.specs, strict=True):
        old = values[before.slices[spec.name]].reshape(spec.shape)
        new = found[now.slices[wide.name]].reshape(wide.shape)
        if spec.heads_along is None:
            np.testing.assert_array_equal(new, old)
        else:
            np.testing.assert_array_equal(new[:, :1], old)
            assert (new[:, 1:] == -1).all()
    # And back, as after an amendment that was overruled.
    np.testing.assert_array_equal(carried(found, private_heads(after), shape, np.zeros_like(values)), values)


def test_a_head_of_an_overruled_amendment_is_not_taken_for_another(tmp_path: Path) -> None:
    trunk = initial_trunk(LAYOUT, 3)
    run(rounds(tmp_path), trunk, range(1, 2))
    overruled, _ = resumed(tmp_path, wider(OTHER), "round-1.safetensors")
    run(overruled, trunk, range(2, 3))
    shape = wider(NEW)
    fresh = Network(shape)
    start_local(fresh, shape, 3, 4)
    after, _ = resumed(tmp_path, shape, "round-2.safetensors")
    found, trained = heads_by_name(shape, after.private()), heads_by_name(wider(OTHER), overruled.private())
    np.testing.assert_array_equal(found["hERG"], heads_by_name(shape, fresh.private_values())["hERG"])
    others = trained.keys() - {"hERG"}
    assert others
    for name in others:
        np.testing.assert_array_equal(found[name], trained[name])


def test_a_file_that_does_not_name_its_heads_has_those_of_the_charter(tmp_path: Path) -> None:
    trunk = initial_trunk(LAYOUT, 3)
    before = rounds(tmp_path)
    run(before, trunk, range(1, 2))
    path = tmp_path / "round-1.safetensors"
    with safe_open(path, framework="np") as handle:
        facts = json.loads(handle.metadata()["facts"])
    del facts["private_heads"]
    save_file(load_file(path), path, {"facts": json.dumps(facts)})
    shape = wider(NEW)
    after, _ = resumed(tmp_path, shape, path.name, private_heads(architecture()))
    new = heads_by_name(shape, after.private())
    for name, values in heads_by_name(architecture(), before.private()).items():
        np.testing.assert_array_equal(new[name], values)


def test_the_best_prefix_of_other_assay_endpoints_is_forgotten(tmp_path: Path) -> None:
    trunk = initial_trunk(LAYOUT, 3)
    run(rounds(tmp_path), trunk, range(1, 3))
    assert (tmp_path / PREFIX_NAME).exists()
    after, _ = resumed(tmp_path, wider(NEW), "round-2.safetensors")
    assert after.prefix.parameters is None
    assert not (tmp_path / PREFIX_NAME).exists()
