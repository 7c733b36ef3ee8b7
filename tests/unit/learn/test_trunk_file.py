"""The shared trunk as a directory: the same bytes everywhere, written once and whole, read by kmel_p2p.load."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import kmel_p2p
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout, unlearned
from kmel_p2p.learn.predict.model_directory import CARD, read_card
from kmel_p2p.learn.predict.trunk_file import TrunkCard, digest_of, read_trunk, write_trunk
from tests.support.learn_fixtures import ENDPOINTS

POLICY = FeatureRule(bits=64)
SHAPE = Architecture(inputs=POLICY.width, hidden=(24, 12), endpoints=ENDPOINTS, dropout=0.1, calibrate=True)


def card(**changes: Any) -> TrunkCard:
    made = TrunkCard(
        federation="demo",
        charter_id="ab" * 32,
        amendments=1,
        amendment_hash="cd" * 32,
        vector={"01" * 32: 5},
        authors=[{"name": "north", "key": "01" * 32, "entries": 5}],
        ledger_digest="ef" * 32,
        architecture=SHAPE,
        features=POLICY,
        reference_hash="",
    )
    return dataclasses.replace(made, **changes)


def trunk(seed: int = 1) -> np.ndarray:
    return initial_trunk(trunk_layout(SHAPE), seed)


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and inode of every file."""
    return {path.name: (path.read_bytes(), path.stat().st_ino) for path in folder.iterdir()}


def test_two_sites_write_the_same_bytes_and_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert write_trunk(tmp_path / name, card(), trunk())
    bytes_of = [{n: body for n, (body, _) in content(tmp_path / name).items()} for name in ("a", "b")]
    assert bytes_of[0] == bytes_of[1]
    facts = json.loads((tmp_path / "a" / CARD).read_text())
    assert digest_of(load_file(tmp_path / "a" / facts["file"])) == facts["digest"]
    assert facts["authors"] == [{"name": "north", "key": "01" * 32, "entries": 5}]
    found, values = read_trunk(tmp_path / "a")
    assert found == card(digest=facts["digest"], authors=found.authors)
    np.testing.assert_array_equal(values, trunk())


def test_a_head_as_the_charter_began_it_was_trained_by_nobody(tmp_path: Path) -> None:
    layout = trunk_layout(SHAPE)
    shared = [SHAPE.endpoints[place].name for place in SHAPE.shared]
    assert unlearned(SHAPE, trunk(), trunk()) == shared
    moved = trunk()
    moved[layout.places_of_head(0)[-1]] += 0.01
    assert unlearned(SHAPE, moved, trunk()) == shared[1:]
    write_trunk(tmp_path, card(unlearned=shared), trunk())
    (row,) = kmel_p2p.load(tmp_path).predictions(["CCO"])
    assert row.assays == {}


def test_what_is_there_is_not_written_again_and_what_is_damaged_is(tmp_path: Path) -> None:
    assert write_trunk(tmp_path, card(), trunk())
    before = content(tmp_path)
    assert not write_trunk(tmp_path, card(), trunk())
    assert content(tmp_path) == before
    (path,) = tmp_path.glob("*.safetensors")
    body = path.read_bytes()
    path.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    assert write_trunk(tmp_path, card(), trunk())
    assert path.read_bytes() == body
    assert write_trunk(tmp_path, card(vector={"01" * 32: 6}), trunk(2))
    assert len(content(tmp_path)) == 2
    np.testing.assert_array_equal(read_trunk(tmp_path)[1], trunk(2))


@pytest.mark.parametrize("calls", range(4))
def test_a_crash_at_any_rename_or_sync_leaves_the_old_trunk_or_the_new_one(
    tmp_path: Path, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trunk(tmp_path, card(), trunk(1))
    left = [calls]

    class Crash(BaseException):
        pass

    def crashing(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if not left[0]:
                raise Crash
            left[0] -= 1
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crashing(os.replace))
        patch.setattr(os, "fsync", crashing(os.fsync))
        with pytest.raises(Crash):
            write_trunk(tmp_path, card(ledger_digest="00" * 32), trunk(2))
    found, values = read_trunk(tmp_path)
    seed = 1 if found.ledger_digest == card().ledger_digest else 2
    np.testing.assert_array_equal(values, trunk(seed))
    assert write_trunk(tmp_path, card(ledger_digest="00" * 32), trunk(2))
    np.testing.assert_array_equal(read_trunk(tmp_path)[1], trunk(2))


def test_it_predicts_the_assay_endpoints_with_shared_heads(tmp_path: Path) -> None:
    write_trunk(tmp_path, card(), trunk())
    model = kmel_p2p.load(tmp_path)
    assert list(model.predictors) == ["federated"]
    good, bad = model.predictions(["CCO", "not a structure"])
    assert set(good.values) == {"logd", "herg"}
    assert good.assays["logd"].lower is None
    assert bad.values == {}
    with pytest.raises(ConfigError, match="there is no model 'local'; there are: federated"):
        model.predictions(["CCO"], model="local")
    with pytest.raises(ConfigError, match="shared trunk alone"):
        read_card(tmp_path)


def test_without_a_shared_head_it_says_what_to_load_instead(tmp_path: Path) -> None:
    private = Architecture(inputs=POLICY.width, hidden=(24, 12), endpoints=(ENDPOINTS[1],), dropout=0.0)
    write_trunk(tmp_path, card(architecture=private), initial_trunk(trunk_layout(private), 1))
    with pytest.raises(ConfigError, match="state/model"):
        kmel_p2p.load(tmp_path)


def test_another_rdkit_is_refused(tmp_path: Path) -> None:
    write_trunk(tmp_path, card(reference_hash="12" * 32), trunk())
    with pytest.raises(ConfigError, match="computes different features"):
        kmel_p2p.load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda facts: {**facts, "digest": "00" * 32}, "cannot be read"),
        (lambda facts: {k: v for k, v in facts.items() if k != "vector"}, "is damaged"),
        (lambda facts: {**facts, "architecture": {**facts["architecture"], "hidden": [24, 13]}}, "do not belong"),
    ],
)
def test_what_does_not_belong_together_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    write_trunk(tmp_path, card(), trunk())
    path = tmp_path / CARD
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match=message):
        read_trunk(tmp_path)


@pytest.mark.parametrize("value", [5, None, {}, -1, True, [1]])
def test_a_card_whose_digest_is_no_text_is_refused(tmp_path: Path, value: Any) -> None:
    write_trunk(tmp_path, card(), trunk())
    values = json.loads((tmp_path / CARD).read_text("utf-8"))
    (tmp_path / CARD).write_text(json.dumps({**values, "digest": value}), "utf-8")
    with pytest.raises(ConfigError, match="copy the directory"):
        read_trunk(tmp_path)
