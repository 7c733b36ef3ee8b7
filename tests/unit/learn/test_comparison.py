"""Four models, one choice, a model directory, predictions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import MODELS, PREDICTED, PREFERRED, choices, compare, predictors, start_local
from kmel_p2p.learn.evaluate.scores import Predict, fold_scores, median_baseline, sampled, score, scores_of
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict.model_directory import Card, write_model
from kmel_p2p.learn.predict.outputs import answers
from kmel_p2p.learn.predict.predict import load_model
from kmel_p2p.learn.train.checkpoint import Parameters, train_with_checkpoints
from tests.support.learn_fixtures import ENDPOINTS, SETTINGS, architecture, dataset


def parameters(shape: Architecture, seed: int) -> Parameters:
    return Parameters(initial_trunk(trunk_layout(shape), seed), initial_trunk(private_layout(shape), seed))


def test_comparison_trains_scores_and_chooses() -> None:
    shape, data = architecture(), dataset()
    history = [(1, fold_scores(data, median_baseline(data))), (2, fold_scores(data, median_baseline(data)))]
    reports: list[tuple[int, int]] = []
    got = compare(
        shape,
        data,
        SETTINGS,
        3,
        parameters(shape, 3),
        steps=40,
        federated_history=history,
        report=lambda done, total: reports.append((done, total)),
    )
    assert json.loads(json.dumps(got.result)) == got.result
    assert reports[-1][0] == reports[-1][1]
    logd, stays, herg = got.result["endpoints"]
    assert (logd["metric"], herg["metric"]) == ("rmse", "log_loss")
    for endpoint in (logd, stays, herg):
        assert set(endpoint["models"]) == set(MODELS)
    # An untrained "federated" trunk: tuning it must help, and training from scratch must beat the median.
    assert logd["models"]["personalised"]["valid"] < logd["models"]["federated"]["valid"]
    assert logd["models"]["local"]["test"] < logd["baseline_median"]["test"]
    assert [entry for entry, _ in got.result["history"]["federated"]] == [0, 1, 2]
    assert got.result["history"]["local"][0][0] == 0
    predict = predictors(shape, got.models)
    assert {e["name"]: e["chosen"] for e in got.result["endpoints"]} == choices(data, predict)
    inputs = data.inputs.rows(data.test)
    assert predict["hybrid"](inputs) == pytest.approx((predict["local"](inputs) + predict["personalised"](inputs)) / 2)
    # What the site predicts with: the chosen models, and the personalised one for compounds unlike its own.
    outputs = {name: function(inputs) for name, function in predict.items()}
    chosen = [endpoint["chosen"] for endpoint in got.result["endpoints"]]
    answered = answers(outputs, chosen, got.neighbours.foreign(data.inputs.bits(data.test)))
    for endpoint, expected in scores_of(data, data.test, answered).items():
        (found,) = [e[PREDICTED] for e in got.result["endpoints"] if e["name"] == endpoint]
        assert found["test"] == pytest.approx(expected)
        assert "valid" in found


def test_without_own_measurements_there_is_no_choice() -> None:
    shape, data = architecture(), dataset()
    labels = data.labels.copy()
    labels[data.train, 0] = np.nan
    lacking = dataclasses.replace(data, labels=labels)
    assert lacking.untrained() == (0,)

    def always(value: float) -> Predict:
        return lambda inputs: np.full((len(inputs), 3), value)

    # The validation fold alone would choose a model that is right by luck.
    lucky = {name: always(0.0 if name == "local" else 9.0) for name in MODELS}
    assert choices(data, lucky)["logd"] == "local"
    assert choices(lacking, lucky)["logd"] == "federated"
    got = compare(
        shape, lacking, SETTINGS, 3, parameters(shape, 3), steps=10, federated_history=[], report=lambda *_: None
    )
    logd = got.result["endpoints"][0]
    assert (logd["train"], logd["chosen"]) == (0, "federated")
    assert logd[PREDICTED] == logd["models"]["federated"]


def test_local_training_keeps_the_best_checkpoint() -> None:
    shape, data = architecture(), dataset()
    network = Network(shape)
    start_local(network, shape, 3, 4)
    course = train_with_checkpoints(network, data, SETTINGS, steps=300, every=10, scored=data)
    reached = [scores["logd"]["valid"] for _, scores in course.history]
    assert fold_scores(data, network.predict)["logd"]["valid"] < reached[0]
    assert [steps for steps, _ in course.history] == list(range(0, 301, 10))
    no_fold = dataclasses.replace(data, valid=np.empty(0, np.int64))
    start_local(network, shape, 3, 4)
    last = train_with_checkpoints(network, no_fold, SETTINGS, steps=10, every=5).best
    assert np.array_equal(last.trunk, network.trunk_values())
    assert not np.array_equal(last.trunk, initial_trunk(trunk_layout(shape), 3))


def test_the_choice_meets_only_measured_values() -> None:
    """Bounds and missing values of the validation fold take no part; what is left of them chooses."""
    data = dataset()
    truth = np.nan_to_num(data.labels[data.valid]).astype(np.float64)

    def off(by: float) -> Predict:
        return lambda inputs: truth + by

    predict = {"local": off(0.1), "federated": off(0.9), "personalised": off(0.9), "hybrid": off(0.8)}
    assert choices(data, predict) == {"logd": "local", "stays": "local", "herg": "local"}
    predict["local"] = lambda inputs: np.where(np.arange(3) < 2, truth + 0.1, truth - 30.0)
    assert choices(data, predict) == {"logd": "local", "stays": "local", "herg": "hybrid"}
    few = dataclasses.replace(data, valid=data.valid[:0])
    assert set(choices(few, dict.fromkeys(MODELS, lambda inputs: np.zeros((0, 3)))).values()) == {PREFERRED}


def test_rounds_are_scored_on_the_same_bounded_sample_with_every_endpoint_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = dataset(400)
    rare = data.valid[:12]
    data.labels[np.setdiff1d(data.valid, rare), 1] = np.nan
    assert sampled(data, 1, test=True).valid is data.valid
    monkeypatch.setattr("kmel_p2p.learn.evaluate.scores.MAX_SCORED", 30)
    some = sampled(data, 1, test=True)
    assert [len(fold) for fold in (some.train, some.valid, some.test)] == [200, 30, 30]
    assert len(some.measured(some.valid, 1)) == min(10, len(data.measured(rare, 1)))
    assert set(some.valid) <= set(data.valid)
    assert np.array_equal(sampled(data, 1, test=True).valid, some.valid)
    assert not np.array_equal(sampled(data, 2, test=True).valid, some.valid)
    assert not len(sampled(data, 1, test=False).test)


def test_no_more_than_a_block_is_laid_out_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data, network = dataset(), Network(architecture())
    start_local(network, architecture(), 3, 4)
    whole = fold_scores(data, network.predict)
    monkeypatch.setattr("kmel_p2p.learn.evaluate.scores.BLOCK_ROWS", 7)
    laid_out = []

    def predict(inputs: np.ndarray) -> np.ndarray:
        laid_out.append(len(inputs))
        return network.predict(inputs)

    in_blocks = fold_scores(data, predict)
    assert max(laid_out) == 7
    for name, scores in whole.items():
        assert in_blocks[name] == pytest.approx(scores, rel=1e-5)


def test_scores_are_in_the_unit_users_read_and_leave_bounds_out() -> None:
    data = dataset()
    endpoint = AssayEndpoint(name="x", center=1.0, scale=2.0)
    labels = np.array([0.0, 1.0], np.float32)
    assert score(endpoint, np.array([0.5, 1.0]), labels) == pytest.approx(np.sqrt(0.125) * 2)
    wild = score(ENDPOINTS[2], np.array([800.0, -800.0]), np.array([1.0, 0.0], np.float32))
    assert wild == 0.0
    bound = np.flatnonzero(data.relations[:, 0])
    only_bounds = dataclasses.replace(data, test=bound)
    assert "test" not in fold_scores(only_bounds, median_baseline(only_bounds))["logd"]


POLICY = FeatureRule(bits=64)
SHAPE = Architecture(
    inputs=POLICY.width,
    hidden=(8, 4),
    endpoints=(
        AssayEndpoint(name="solubility", unit="mol/L", transform="log10", center=-3.0, scale=1.5, head="shared"),
        AssayEndpoint(name="herg", kind="classification"),
    ),
    dropout=0.0,
)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    card = Card(SHAPE, POLICY, reference_hash(POLICY), {"solubility": "hybrid", "herg": "local"}, {"site": "a"}, {})
    models = {name: parameters(SHAPE, seed) for seed, name in enumerate(("local", "federated", "personalised"))}
    write_model(tmp_path / "model", card, {n: (m.trunk, m.private) for n, m in models.items()})
    return tmp_path / "model"


def test_predictions_keep_order_and_every_row(model_dir: Path) -> None:
    model = load_model(model_dir)
    inputs = ["CCO", "bad(", "c1ccccc1", "", "OCC"]
    rows = model.predictions(inputs)
    assert [row.smiles for row in rows] == inputs
    assert [bool(row.reason) for row in rows] == [False, True, False, True, False]
    assert rows[0].values == rows[4].values
    assert rows[0].values != rows[2].values
    assert rows[1].values == {}
    assert rows[0].values["solubility"] > 0
    assert 0 < rows[0].values["herg"] < 1
    by_name = {name: model.predictions(["CCO"], model=name)[0].values for name in MODELS}
    assert rows[0].values["herg"] == by_name["local"]["herg"]
    # outputs are logarithms of solubility, so their mean is the geometric mean of the values
    expected = np.sqrt(by_name["local"]["solubility"] * by_name["personalised"]["solubility"])
    assert rows[0].values["solubility"] == pytest.approx(expected)
    assert model.predictions([]) == []
    with pytest.raises(ConfigError, match="no model 'best'"):
        model.predictions(["CCO"], model="best")


def test_the_card_comes_back_as_it_was(model_dir: Path) -> None:
    card = load_model(model_dir).card
    assert card.architecture == SHAPE
    assert card.features == POLICY
    assert card.labels == {"site": "a"}
    assert len(card.digest) == 64


def test_a_model_directory_that_does_not_fit_is_refused(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no model here yet"):
        load_model(model_dir.parent)
    card, tensors = model_dir / "card.json", model_dir / "model.safetensors"
    raw = json.loads(card.read_text())
    for labels, named in (({}, "reference hash 0000000000000000"), ({"made_with": "RDKit 1"}, "RDKit 1")):
        card.write_text(json.dumps({**raw, "reference_hash": "00" * 32, "labels": labels}))
        with pytest.raises(ConfigError, match=rf"this installation \(kmel_p2p .*, RDKit .*\({named}\); install that"):
            load_model(model_dir)
    for damaged in ("{", json.dumps({**raw, "format": 9}), json.dumps({**raw, "extra": 1}), "[]"):
        card.write_text(damaged)
        with pytest.raises(ConfigError, match=r"card\.json"):
            load_model(model_dir)
    card.write_text(json.dumps(raw))
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(ConfigError, match="do not belong together"):
        load_model(model_dir)


def test_tuning_starts_from_an_earlier_trunk_where_the_final_one_is_worse() -> None:
    shape, data = architecture(), dataset()
    earlier = compare(
        shape, data, SETTINGS, 3, parameters(shape, 3), steps=40, federated_history=[], report=lambda *_: None
    ).models["personalised"]
    ruined = Parameters(earlier.trunk + np.float32(0.5), earlier.private)

    def personalised(final: Parameters, prefix: Parameters | None) -> tuple[bool, float]:
        got = compare(
            shape, data, SETTINGS, 3, final, steps=40, federated_history=[], report=lambda *_: None, prefix=prefix
        )
        return got.took_prefix, got.result["endpoints"][0]["models"]["personalised"]["valid"]

    alone, helped = personalised(ruined, None), personalised(ruined, earlier)
    assert (alone[0], helped[0]) == (False, True)
    assert helped[1] < alone[1]
    assert personalised(earlier, ruined)[0] is False
