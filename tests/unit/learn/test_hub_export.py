"""An exported folder, read by tools that know nothing of this program."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import kmel_p2p
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.learn.predict.export import export_model, export_onnx
from kmel_p2p.learn.predict.hub import has_graphs, write_hub_files
from kmel_p2p.learn.predict.model_directory import Card, read_card, write_model
from tests.support.learn_fixtures import ENDPOINTS, architecture

POLICY = FeatureRule(bits=64)
STRUCTURES = ("CC(=O)Nc1ccc(O)cc1", "[Na+].[O-]C(=O)c1ccccc1", "no structure", "CCO")
ELSEWHERE = """
import runpy, sys
sys.modules["kmel_p2p"] = None
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def exported(folder: Path, shape: Architecture, **facts: Any) -> Card:
    rng = np.random.default_rng(0)
    parameters = {
        name: (
            rng.normal(0, 0.2, trunk_layout(shape).size).astype(np.float32),
            rng.normal(0, 0.2, private_layout(shape).size).astype(np.float32),
        )
        for name in ("local", "federated", "personalised")
    }
    chosen = dict(zip([e.name for e in shape.endpoints], ("hybrid", "local", "federated"), strict=True))
    card = Card(
        shape, POLICY, trunk_reference_hash(POLICY, shape), chosen, facts.get("labels", {}), facts.get("result", {})
    )
    write_model(folder / "model", card, parameters)
    return export_model(folder / "model", folder / "out")


def test_the_example_predicts_without_this_program(tmp_path: Path) -> None:
    logarithmic = ENDPOINTS[1].changed(transform="log10", unit="uM", center=1.0)
    shape = architecture().changed(inputs=POLICY.width, endpoints=(ENDPOINTS[0], logarithmic, ENDPOINTS[2]))
    card = exported(tmp_path, shape)
    assert has_graphs(card)
    export_onnx(tmp_path / "out", tmp_path / "out")
    write_hub_files(tmp_path / "out", card)
    example = tmp_path / "out" / "example.py"
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, example, *STRUCTURES],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.pop("smiles") for line in told] == list(STRUCTURES)
    ours = kmel_p2p.load(tmp_path / "out").predictions(list(STRUCTURES))
    for theirs, here in zip(told, ours, strict=True):
        assert theirs == pytest.approx(here.values, rel=1e-3)
    assert told[2] == {}
    assert set(told[0]) == {"logd", "stays", "herg"}


def test_the_tensors_are_found_by_the_configuration(tmp_path: Path) -> None:
    shape = architecture().changed(inputs=POLICY.width)
    card = exported(tmp_path, shape)
    write_hub_files(tmp_path / "out", card)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    flat = load_file(tmp_path / "out" / "model.safetensors")
    tensors = {
        each["name"]: flat[f"local.{each['part']}"][each["begin"] : each["end"]].reshape(each["shape"])
        for each in config["tensors"]
    }
    inputs = np.random.default_rng(1).normal(size=(4, config["inputs"])).astype(np.float32)
    hidden = inputs
    for layer in range(len(config["hidden"])):
        hidden = np.maximum(hidden @ tensors[f"trunk.{layer}.weight"].T + tensors[f"trunk.{layer}.bias"], 0)
    shared = hidden @ tensors["head.shared.weight"].T + tensors["head.shared.bias"]
    private = hidden @ tensors["head.private.weight"].T + tensors["head.private.bias"]
    outputs = np.stack([shared[:, 0], private[:, 0], shared[:, 1]], axis=1)
    ours = kmel_p2p.load(tmp_path / "out").predictors["local"](inputs)
    assert outputs == pytest.approx(ours, rel=1e-3, abs=1e-4)


def test_the_card_is_yaml_whatever_a_name_contains(tmp_path: Path) -> None:
    shape = architecture().changed(inputs=POLICY.width)
    hostile = "x\n---\n<script>|`"
    told = [
        {"name": "logd", "kind": "regression", "metric": "rmse", "unit": "", "models": {}, "predicted": {"test": 0.61}},
        {
            "name": "herg",
            "kind": "classification",
            "metric": "log_loss",
            "models": {},
            "predicted": {"test": float("nan")},
        },
    ]
    card = exported(tmp_path, shape, labels={"site": hostile}, result={"endpoints": told})
    write_hub_files(tmp_path / "out", card)
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["library_name"] == "kmel_p2p"
    assert "onnx" in head["tags"]
    (index,) = head["model-index"]
    assert [(each["task"]["name"], each["metrics"][0]["value"]) for each in index["results"]] == [("logd", 0.61)]
    assert "| logd | no unit | hybrid | 0.610 (RMSE) |" in text
    assert "<script>" not in text
    assert "\n---\n" not in text


def test_a_trunk_without_graphs_has_an_example_with_this_program(tmp_path: Path) -> None:
    shape = architecture().changed(
        inputs=POLICY.width,
        trunk="dmpnn",
        message_width=8,
        depth=2,
        descriptors=POLICY.width - POLICY.bits,
        dropout=0.0,
    )
    rng = np.random.default_rng(0)
    parameters = {
        name: tuple(rng.normal(0, 0.2, at(shape).size).astype(np.float32) for at in (trunk_layout, private_layout))
        for name in ("local", "federated", "personalised")
    }
    card = Card(shape, POLICY, "", {endpoint.name: "local" for endpoint in ENDPOINTS}, {}, {})
    write_model(tmp_path, card, parameters)  # type: ignore[arg-type]
    card = read_card(tmp_path)
    assert not has_graphs(card)
    write_hub_files(tmp_path, card)
    assert "kmel_p2p.load" in (tmp_path / "example.py").read_text()
    assert "onnx" not in (tmp_path / "README.md").read_text().split("---")[1]
