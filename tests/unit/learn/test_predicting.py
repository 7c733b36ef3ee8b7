"""Predicting with a loaded model: what is computed, which model answered, and inputs as tables hold them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.learn.evaluate.scores import Predict
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict import neighbours
from kmel_p2p.learn.predict import predict as predicting
from kmel_p2p.learn.predict.model_directory import STORED, Card, read_card, read_parameters, write_model
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.outputs import MeanOf, outputs_of
from kmel_p2p.learn.predict.predict import Model
from kmel_p2p.learn.predict.uncertainty import Calibration, intervals, needed
from kmel_p2p.learn.train.checkpoint import Parameters
from tests.support.learn_fixtures import dataset

POLICY = FeatureRule(bits=64)
HASH = reference_hash(POLICY)
ENDPOINTS = (AssayEndpoint(name="logS", unit="mol/L", transform="log10", head="shared"), AssayEndpoint(name="logD"))
SHAPE = Architecture(inputs=POLICY.width, hidden=(4,), endpoints=ENDPOINTS, dropout=0.0)
RESIDUALS = Calibration(tuple(np.arange(1, 41) / 20), 0.5)


def whole_parameters() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=trunk_layout(SHAPE).size).astype(np.float32),
         rng.normal(size=private_layout(SHAPE).size).astype(np.float32))
        for _ in STORED
    ]  # fmt: skip


def model(chosen: tuple[str, str], neighbours: Neighbours | None = None, **known: Calibration) -> Model:
    parameters = {name: Parameters(*pair) for name, pair in zip(STORED, whole_parameters(), strict=True)}
    uncertainty = {name: calibration.plain() for name, calibration in known.items()}
    names = dict(zip(("logS", "logD"), chosen, strict=True))
    card = Card(SHAPE, POLICY, HASH, names, {}, {}, uncertainty=uncertainty)
    return Model(card, parameters, neighbours)


LAYOUTS = (trunk_layout, private_layout)
FAR = Neighbours.of_bits(np.zeros((1, 64), bool), (0.5, 0.6, 0.7))
"""Everything is unlike this one training compound."""


@pytest.mark.parametrize(
    ("found", "asked", "passes"),
    [
        (model(("hybrid", "hybrid")), None, 2),
        (model(("hybrid", "local")), None, 2),
        (model(("federated", "federated")), None, 1),
        (model(("federated", "federated"), FAR), None, 2),  # the personalised one answers as well
        (model(("hybrid", "hybrid"), logS=RESIDUALS), None, 3),  # intervals widen with their disagreement
        (model(("hybrid", "hybrid"), logS=RESIDUALS), "local", 1),
        (model(("hybrid", "hybrid"), logS=RESIDUALS), "hybrid", 2),
    ],
)
def test_each_network_that_is_needed_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, found: Model, asked: str | None, passes: int
) -> None:
    rows = []
    forward = Network.forward

    def counted(self: Network, inputs: object, training: bool = False) -> object:
        rows.append(len(inputs))  # type: ignore[arg-type]
        return forward(self, inputs, training)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "forward", counted)
    found.predictions(["CCO", "c1ccccc1", "CCO", "bad("], model=asked)
    assert rows == [2] * passes


def test_prediction_and_trainer_start_without_what_they_do_not_use() -> None:
    code = (
        "import sys, kmel_p2p.learn.worker.trainer, kmel_p2p.learn.predict.predict, torch\n"
        "from kmel_p2p.learn.train.adamw import AdamW\n"
        "values = torch.ones(3, requires_grad=True)\n"
        "values.sum().backward()\n"
        "AdamW([values], 0.1, 0.0).step()\n"
        "heavy = {'crepes', 'matplotlib', 'pandas', 'pint', 'scipy', 'sklearn', 'sympy', 'torch._dynamo'}\n"
        "print(*heavy & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == ""


def test_a_mean_of_models_is_the_same_whether_asked_alone_or_with_its_parts() -> None:
    parts: dict[str, Predict] = {"one": lambda x: np.full((len(x), 1), 0.1), "two": lambda x: np.full((len(x), 1), 0.7)}
    predict: dict[str, Predict] = {**parts, "both": MeanOf(parts), "other": lambda x: np.zeros((len(x), 1))}
    rows = np.zeros((3, 2), np.float32)
    together = outputs_of(predict, ["both", "two", "other"], rows)
    assert list(together) == ["both", "two", "other"]
    assert np.array_equal(together["both"], predict["both"](rows))
    assert together["both"][0, 0] == pytest.approx(0.4)


def test_every_value_names_the_model_that_answered() -> None:
    assert {name: v.model for name, v in model(("hybrid", "local")).predictions(["CCO"])[0].assays.items()} == {
        "logS": "hybrid",
        "logD": "local",
    }
    far = model(("hybrid", "local"), FAR).predictions(["CCO"])[0]
    assert {value.model for value in far.assays.values()} == {"personalised"}
    asked = model(("hybrid", "local"), FAR).predictions(["CCO"], model="personalised")[0]
    assert asked.values == far.values
    assert {value.model for value in asked.assays.values()} == {"personalised"}


def lacking(*names: str, neighbours: Neighbours | None = None) -> Model:
    """A site without training measurements of these assay endpoints; logS is shared, logD private."""
    whole = model(("federated", "hybrid"), logS=RESIDUALS)
    card = dataclasses.replace(whole.card, untrained=list(names))
    return Model(card, found_parameters(), neighbours)


def found_parameters() -> dict[str, Parameters]:
    return {name: Parameters(*pair) for name, pair in zip(STORED, whole_parameters(), strict=True)}


def test_without_own_measurements_the_shared_head_is_the_others_and_a_private_one_is_silent() -> None:
    found = lacking("logS", neighbours=FAR)
    (row,) = found.predictions(["CCO"])
    assert {name: value.model for name, value in row.assays.items()} == {"logS": "federated", "logD": "personalised"}
    assert found.without_values() == {}
    assert found.predictions(["CCO"], model="personalised")[0].assays.keys() == {"logS", "logD"}
    for name in ("local", "hybrid"):
        assert found.predictions(["CCO"], model=name)[0].assays.keys() == {"logD"}
        assert name in found.without_values(name)["logS"]
    bare = Model(dataclasses.replace(found.card, uncertainty={}), {"federated": Parameters(*whole_parameters()[1])})
    assert bare.without_intervals()["logS"] == "this site had no measurements of it to calibrate with"
    silent = lacking("logD")
    assert silent.predictions(["CCO"])[0].assays.keys() == {"logS"}
    assert "private head" in silent.without_values()["logD"]
    assert silent.without_intervals(0.99).keys() == {"logS"}


def test_a_shared_head_that_nobody_trained_is_silent_too() -> None:
    found = lacking("logS", neighbours=FAR)
    bare = Model(dataclasses.replace(found.card, unlearned=["logS"]), found_parameters())
    assert bare.predictions(["CCO"])[0].assays.keys() == {"logD"}
    assert "no site" in bare.without_values()["logS"]


def test_blocks_do_not_change_a_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    smiles = [f"{'C' * n}O" for n in range(1, 12)]
    near = Neighbours.of_bits(np.random.default_rng(1).random((5, 64)) < 0.2, (0.1, 0.2, 0.3))
    whole = model(("hybrid", "local"), near, logS=RESIDUALS).predictions(smiles)
    monkeypatch.setattr(predicting, "BLOCK_VALUES", 3 * SHAPE.inputs)
    parts = model(("hybrid", "local"), near, logS=RESIDUALS).predictions(smiles)
    for one, other in zip(whole, parts, strict=True):
        assert one.similarity == other.similarity
        assert one.values == pytest.approx(other.values, rel=1e-5)


def test_one_text_is_refused_rather_than_taken_apart() -> None:
    with pytest.raises(TypeError, match=r"predictions\(\['CCO'\]\)"):
        model(("local", "local")).predictions("CCO")


@pytest.mark.parametrize("given", [["CCO", None, float("nan"), 3], np.array(["CCO", None, np.nan, 3], object)])
def test_cells_without_text_have_their_row_and_reason(given: Sequence[str]) -> None:
    rows = model(("local", "local")).predictions(given)
    assert [row.reason for row in rows] == ["", "no SMILES", "no SMILES", "no SMILES"]
    assert [row.smiles for row in rows] == ["CCO", "", "", ""]


def test_a_level_beyond_the_calibration_gives_no_interval_and_says_so() -> None:
    found = model(("local", "local"), logS=RESIDUALS)  # 40 values
    assert found.without_intervals(0.9).keys() == {"logD"}
    assert found.predictions(["CCO"], level=0.9)[0].assays["logS"].lower is not None
    reason = found.without_intervals(0.99)["logS"]
    assert "needs 99 values" in reason
    assert "there were 40" in reason
    high = found.predictions(["CCO"], level=0.99)[0].assays["logS"]
    assert (high.lower, high.upper) == (None, None)
    assert np.isfinite(high.value)
    # The rule is that of the library that makes intervals.
    for level in (0.5, 0.8, 0.9, 0.95, 0.97):
        assert needed(level) <= 40
        ends = intervals(RESIDUALS, np.zeros(1), np.zeros(1), level)
        assert ends is not None
        assert np.isfinite(ends).all()


def test_the_nearest_is_found_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "KNOWN_VALUES", 50 * 24)
    monkeypatch.setattr(neighbours, "QUERY_VALUES", 7 * 24)
    rng = np.random.default_rng(3)
    bits = rng.random((105, 24)) < 0.3
    queries = rng.random((40, 24)) < 0.3
    common = (queries[:, None, :] & bits[None]).sum(axis=2)
    union = (queries[:, None, :] | bits[None]).sum(axis=2)
    expected = (common / np.maximum(union, 1)).max(axis=1)
    assert Neighbours.of_bits(bits).nearest(queries) == pytest.approx(expected)
    assert not Neighbours.of_bits(bits[:0]).nearest(queries).any()


def test_fingerprints_of_a_dataset_are_those_of_its_training_fold() -> None:
    data = dataset(rows=60)
    own = Neighbours.of(data)
    assert np.array_equal(own.packed, np.packbits(data.inputs.bits(data.train), axis=1))
    assert np.array_equal(data.inputs.bits(data.train), data.inputs.rows(data.train)[:, :64] > 0)


def test_a_model_written_again_is_whole_at_every_moment(tmp_path: Path) -> None:
    card = model(("local", "hybrid")).card
    pairs = {
        name: tuple(np.zeros(layout(SHAPE).size, np.float32) for layout in LAYOUTS)
        for name in ("local", "federated", "personalised")
    }
    written = write_model(tmp_path / "m", card, pairs)  # type: ignore[arg-type]
    assert read_card(tmp_path / "m").digest == written.digest
    assert read_parameters(tmp_path / "m", written).keys() == pairs.keys()
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"card.json", "model.safetensors"}


@pytest.mark.parametrize(
    "damage",
    [
        {"chosen": {}},
        {"chosen": {"logS": "best", "logD": "local"}},
        {"chosen": ["local", "local"]},
        {"labels": {"site": 3}},
        {"labels": None},
        {"uncertainty": []},
        {"digest": 7},
        {"uncertainty": {"logS": {}}},
        {"uncertainty": {"logS": None}},
        {"uncertainty": {"logS": {**RESIDUALS.plain(), "residuals": ["a"]}}},
        {"uncertainty": {"logS": {**RESIDUALS.plain(), "floor": float("nan")}}},
        {"uncertainty": {"logS": {**RESIDUALS.plain(), "residuals": [], "class_0": [0.1]}}},
    ],
)
def test_a_card_that_lacks_what_predicting_needs_is_refused(tmp_path: Path, damage: dict[str, object]) -> None:
    pairs = {
        name: tuple(np.zeros(layout(SHAPE).size, np.float32) for layout in LAYOUTS)
        for name in ("local", "federated", "personalised")
    }
    write_model(tmp_path, model(("local", "hybrid"), logS=RESIDUALS).card, pairs)  # type: ignore[arg-type]
    path = tmp_path / "card.json"
    assert read_card(tmp_path).untrained == []
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(ConfigError, match=r"card\.json.*damaged"):
        predicting.load_model(tmp_path)
