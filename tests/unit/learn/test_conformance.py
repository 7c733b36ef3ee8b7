"""The conformance kit finds what a federation cannot use in a trunk, and what the first layer shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from kmel_p2p.chem.structures.features import REFERENCE_MOLECULES
from kmel_p2p.learn.conformance.checks import APART, Conformance, conformance_of
from kmel_p2p.learn.conformance.probe import Probed, Task, look
from kmel_p2p.learn.models.trunk_draft import drafted_model, trunk_of
from tests.support.trunk_packages import LINEAR, write_package

STRUCTURES = [f"{'C' * (1 + at % 9)}{end}" for at, end in enumerate(["O", "N", "Cl", "c1ccccc1", "C(=O)O"] * 9)]


def looked_at(folder: Path, name: str, code: str, structures: list[str]) -> Conformance:
    write_package(folder, name, code)
    model = drafted_model(*trunk_of(name), hidden=(8,), dropout=0.0)
    threads = torch.get_num_threads()
    try:
        looks = [look(Task(model.model_dump(mode="json"), structures, 0, noise)) for noise in (1, 2)]
    finally:
        torch.set_num_threads(threads)
    return conformance_of(*(dataclasses.asdict(found) for found in looks))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def broken(found: Conformance) -> dict[str, str]:
    return {check.name.partition(":")[0]: check.found for check in found.checks if not check.holds}


def test_a_sound_trunk_holds_and_its_first_layer_is_measured(folder: Path) -> None:
    found = looked_at(folder, "sound_trunk", LINEAR, STRUCTURES)
    assert found.holds, found.checks
    assert found.values == 8 * 2259 + 8
    assert found.train_us > 0
    assert found.predict_us > 0
    # The features and what ReLU keeps; the head's input is the same memory.
    assert 4 * 2259 <= found.bytes_per_row < 6 * 2259
    assert found.positions is not None
    assert (found.positions["tensor"], found.positions["dimension"]) == ("trunk.layer.weight", 1)
    assert found.positions["right"] == 1.0
    assert found.positions["picked_auroc"] > 0.5


def test_what_a_federation_cannot_use_is_found(folder: Path) -> None:
    code = LINEAR.replace("import torch\n", "import torch\nimport numpy as np\n", 1)
    code = code.replace(
        "self.layer = ", "self.still = nn.Linear(3, 3)\n        self.layer = "
    ).replace(
        "return torch.relu(self.layer(features))",
        "hidden = self.layer(features)\n"
        "        hidden = hidden - hidden.mean(dim=0)\n"
        "        if self.training:\n"
        "            hidden = hidden + float(np.random.normal())\n"
        "        return hidden",
    )  # fmt: skip
    told = broken(looked_at(folder, "unsound_trunk", code, list(REFERENCE_MOLECULES)))
    assert len(told) == 3
    assert "torch's generator alone" in told["gradient of a training pass"]
    assert "trunk.still.weight, trunk.still.bias" in told["everything that is shared is trained"]
    assert "LayerNorm" in told["a row does not depend on its neighbours"]


def test_what_is_not_finite_is_found(folder: Path) -> None:
    code = LINEAR.replace("return torch.relu(", "return torch.log(0 * torch.relu(").replace(
        "(features))", "(features)))"
    )
    told = broken(looked_at(folder, "infinite_trunk", code, list(REFERENCE_MOLECULES)))
    assert told["everything is finite"] == "not finite: outputs, gradient, trunk after 10 steps"


def test_a_projection_shows_no_positions(folder: Path) -> None:
    code = LINEAR.replace(
        "self.layer = nn.Linear(shape.inputs,",
        "self.mixed = nn.Parameter(torch.randn(shape.inputs, 32) / 6, requires_grad=False)\n"
        "        self.layer = nn.Linear(32,",
    ).replace("self.layer(features)", "self.layer(features @ self.mixed)")
    found = looked_at(folder, "projected_trunk_package", code, list(REFERENCE_MOLECULES))
    assert found.holds, found.checks
    assert found.positions is None


def test_digests_that_differ_between_processes_are_told() -> None:
    probe = Probed({"layout": "a"}, {"layout": "a"}, 1, [], [], APART / 2, 1.0, 1.0, 1.0, None)
    one: dict[str, Any] = dataclasses.asdict(probe)
    assert conformance_of(one, one).holds
    told = broken(conformance_of(one, {**one, "digests": {"layout": "b"}}))
    assert told["layout"].startswith("not the same in two processes: names and shapes of parameters")
    told = broken(conformance_of({**one, "again": {"layout": "b"}}, one))
    assert told["layout"].startswith("not the same twice in one process")
