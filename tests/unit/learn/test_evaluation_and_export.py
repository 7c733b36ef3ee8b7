"""Evaluation: scores, paired intervals, coverage, aggregates only in what may be shared. Export: the same numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

import kmel_p2p
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate import evaluation
from kmel_p2p.learn.evaluate.comparison import compare, predictors
from kmel_p2p.learn.evaluate.evaluation import LEVELS, coverage, evaluate, further_scores, known_to, reliability
from kmel_p2p.learn.evaluate.evaluation_page import evaluation_page
from kmel_p2p.learn.evaluate.scores import scorable
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.learn.predict.export import export_model, export_onnx
from kmel_p2p.learn.predict.model_directory import Card, write_model
from kmel_p2p.learn.predict.neighbours import FILE, Neighbours
from kmel_p2p.learn.predict.predict import Model
from kmel_p2p.learn.predict.uncertainty import Calibration, calibrate
from kmel_p2p.learn.train.checkpoint import Parameters
from tests.support.learn_fixtures import ENDPOINTS, SETTINGS, architecture, dataset

POLICY = FeatureRule(bits=64)


@pytest.fixture(scope="module")
def evaluated() -> dict[str, object]:
    data, shape = dataset(rows=480), architecture()
    start = Parameters(initial_trunk(trunk_layout(shape), 1), initial_trunk(private_layout(shape), 2))
    found = compare(shape, data, SETTINGS, 1, start, steps=120, federated_history=[], report=lambda done, total: None)
    chosen = {e["name"]: e["chosen"] for e in found.result["endpoints"]}
    known = calibrate(data, predictors(shape, found.models), chosen)
    card = Card(shape, POLICY, "", chosen, {"site": "a"}, {}, uncertainty={k: v.plain() for k, v in known.items()})
    report, outputs = evaluate(Model(card, found.models), data, seed=3)
    return {
        "data": data, "report": report, "outputs": outputs, "result": found.result, "card": card, "found": found,
        "known": known,
    }  # fmt: skip


def test_scores_agree_with_the_comparison_and_intervals_hold_them(evaluated: dict) -> None:
    for scored, compared in zip(evaluated["report"]["endpoints"], evaluated["result"]["endpoints"], strict=True):
        for name, found in scored["models"].items():
            expected = compared[name] if name.startswith("baseline") else compared["models"].get(name)
            if name not in ("baseline_forest", "chosen"):  # another seed; more than one model
                assert found["score"] == pytest.approx(expected["test"])
            low, high = found["interval"]
            assert low <= found["score"] <= high
        assert set(scored["gains"]) == {"federated", "personalised", "hybrid", "chosen"}
        assert scored["gains"]["chosen"] == scored["gains"].get(scored["chosen"], scored["gains"]["chosen"])


def test_the_report_is_plain_json_and_holds_no_single_compound(evaluated: dict) -> None:
    text = json.dumps(evaluated["report"], allow_nan=False)
    assert not any(smiles in text for smiles in evaluated["data"].smiles if smiles)
    assert max(len(e.get("coverage", [])) for e in evaluated["report"]["endpoints"]) == 6
    logd = evaluated["report"]["endpoints"][0]
    assert logd["calibrated_apart"] is False  # this small dataset has no fold of its own for that
    assert [p["inside"] for p in logd["coverage"]] == sorted(p["inside"] for p in logd["coverage"])
    page = evaluation_page(evaluated["report"])
    assert page.count("data:image/png;base64,") == len(ENDPOINTS)
    assert page.count('<tr class="chosen"><td>this site predicts with') == len(ENDPOINTS)
    gain = logd["gains"]["chosen"]["to_perfect"]["spearman"]
    assert f"({100 * gain:+.1f} %)".replace("-", "\N{MINUS SIGN}") in page
    assert "Intervals at 90 % contain" in page
    assert "Class sets at 90 % contain" in page
    assert "also chose checkpoint and model" in page


def test_evaluate_scores_what_predict_gives_with_and_without_training_compounds(
    evaluated: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    data, found, card = evaluated["data"], evaluated["found"], evaluated["card"]
    chosen = [card.chosen[endpoint.name] for endpoint in ENDPOINTS]
    alone, _ = evaluate(Model(card, found.models), data, seed=3)
    assert alone["compared_with_own"] is False
    assert [e["foreign"] for e in alone["endpoints"]] == [0, 0, 0]
    for e, name in zip(alone["endpoints"], chosen, strict=True):
        assert e["models"]["chosen"] == e["models"][name]
    bound = float(np.median(found.neighbours.nearest(data.inputs.bits(data.test))))
    near = dataclasses.replace(found.neighbours, usual=(bound, 0.9, 1.0))
    both, outputs = evaluate(Model(card, found.models, near), data, seed=3)
    far = near.foreign(data.inputs.bits(data.test))
    assert both["compared_with_own"] is True
    assert far.any()
    assert [e["foreign"] for e in both["endpoints"]] == [int(far[scorable(data, data.test, p)].sum()) for p in range(3)]
    assert np.array_equal(outputs["chosen"][far], outputs["personalised"][far])
    assert "which the personalised model predicts" in evaluation_page(both)
    assert "the chosen model predicts all compounds" in evaluation_page(alone)


def test_bounds_are_counted_and_compared_with_what_is_predicted(
    evaluated: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "RESAMPLES", 20)
    data, outputs = evaluated["data"], evaluated["outputs"]["chosen"]
    logd, stays, _ = evaluated["report"]["endpoints"]
    rows = data.relations[data.test, 0] != 0  # all of them "above"
    rows &= np.isfinite(data.labels[data.test, 0])
    assert logd["bounds"] == rows.sum() > 0
    assert stays["bounds"] == 0
    many = dataclasses.replace(data, relations=np.where(np.isfinite(data.labels), -1, 0).astype(np.int8))
    flipped, _ = evaluate(Model(evaluated["card"], evaluated["found"].models), many, seed=0)
    below = outputs[:, 0] <= data.labels[data.test, 0]
    measured = np.isfinite(data.labels[data.test, 0])
    assert flipped["endpoints"][0]["bounds"] == measured.sum()
    assert flipped["endpoints"][0]["bounds_agree"] == pytest.approx(below[measured].mean())
    assert "bounds_agree" not in logd or logd["bounds"] >= 10


def test_a_model_of_other_assay_endpoints_is_not_evaluated(evaluated: dict) -> None:
    data = dataclasses.replace(evaluated["data"], endpoints=(*ENDPOINTS[:2], ENDPOINTS[2].changed(name="x")))
    with pytest.raises(ConfigError, match=r"logd, stays, herg.*different charter.*logd, stays, x"):
        known_to(Model(evaluated["card"], evaluated["found"].models), data)


def test_classes_are_checked_by_class_and_by_probability(evaluated: dict) -> None:
    herg = evaluated["report"]["endpoints"][2]
    shares = [point["inside"] for point in herg["coverage"]]
    assert len(shares) == len(LEVELS)
    assert shares == sorted(shares)
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.05, 0.95, 4000)
    labels = (rng.random(4000) < probability).astype(float)
    honest = reliability(ENDPOINTS[2], np.log(probability / (1 - probability)), labels)
    assert [group["count"] for group in honest] == [400] * 10
    assert all(abs(group["predicted"] - group["observed"]) < 0.1 for group in honest)
    boastful = reliability(ENDPOINTS[2], 3 * np.log(probability / (1 - probability)), labels)
    assert boastful[0]["predicted"] < boastful[0]["observed"] - 0.05
    assert reliability(ENDPOINTS[0], labels, labels) == []
    assert reliability(ENDPOINTS[2], labels[:9], labels[:9]) == []
    # Few of a class: its share would be a statement about single compounds.
    rare = np.zeros(60)
    rare[:3] = 1
    every = np.ones(60, bool)
    points = coverage(ENDPOINTS[2], [(every, evaluated["known"]["herg"])], np.zeros(60), np.zeros(60), rare)
    assert len(points) == len(LEVELS)
    for point in points:
        assert point.keys() == {"level", "inside", "single", "inside_0"}
    assert coverage(ENDPOINTS[2], [(every, Calibration())], np.zeros(60), np.zeros(60), rare) == []


def test_too_few_test_values_give_no_score(evaluated: dict) -> None:
    data = evaluated["data"]
    shape = architecture()
    models = {
        name: Parameters(initial_trunk(trunk_layout(shape), 1), initial_trunk(private_layout(shape), 2))
        for name in ("local", "federated", "personalised")
    }
    card = Card(shape, POLICY, "", {e.name: "hybrid" for e in ENDPOINTS}, {}, {})
    report, _ = evaluate(Model(card, models), dataclasses.replace(data, test=data.test[:5]), seed=0)
    assert all("models" not in e for e in report["endpoints"])
    assert evaluation_page(report).count("too few test values") == len(ENDPOINTS)


def test_ranks_and_errors_are_what_their_names_say() -> None:
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    found = further_scores(ENDPOINTS[0].changed(scale=2.0), labels**3 / 9, labels)
    assert found["spearman"] == pytest.approx(1)
    assert found["mae"] == pytest.approx(2 * np.abs(labels**3 / 9 - labels).mean())
    assert further_scores(ENDPOINTS[0], np.zeros(4), labels)["spearman"] is None
    classes = np.array([0.0, 1.0, 1.0, 0.0])
    assert further_scores(ENDPOINTS[2], classes, classes) == {"auroc": 1.0, "average_precision": 1.0}
    assert further_scores(ENDPOINTS[2], classes, np.ones(4))["auroc"] is None


PROJECTED = {"trunk": "projected", "projection": 16}


@pytest.mark.parametrize(
    ("calibrate_heads", "members", "trunk"),
    [
        (False, 1, {}),
        (True, 3, {}),
        (False, 1, {**PROJECTED, "descriptors": POLICY.width - POLICY.bits}),
        (False, 2, PROJECTED),
    ],
)
def test_an_exported_model_says_the_same_and_leaves_the_fingerprints(
    tmp_path: Path, calibrate_heads: bool, members: int, trunk: dict[str, Any]
) -> None:
    shape = architecture().changed(inputs=POLICY.width, calibrate=calibrate_heads, members=members, **trunk)
    rng = np.random.default_rng(0)
    parameters = {
        name: tuple(rng.normal(size=layout(shape).size).astype(np.float32) for layout in (trunk_layout, private_layout))
        for name in ("local", "federated", "personalised")
    }
    reference = trunk_reference_hash(POLICY, shape)
    card = Card(shape, POLICY, reference, {e.name: "hybrid" for e in ENDPOINTS}, {}, {})
    write_model(tmp_path / "model", card, parameters)  # type: ignore[arg-type]
    Neighbours.of_bits(np.ones((3, 64), bool)).write(tmp_path / "model")
    exported = export_model(tmp_path / "model", tmp_path / "out")
    assert not (tmp_path / "out" / FILE).exists()
    ours, theirs = kmel_p2p.load(tmp_path / "model"), kmel_p2p.load(str(tmp_path / "out"))
    assert ours.card.digest == theirs.card.digest == exported.digest
    (here,), (there,) = ours.predictions(["CCO"]), theirs.predictions(["CCO"])
    assert here.values == there.values
    assert here.similarity is not None
    assert there.similarity is None
    inputs = rng.normal(size=(5, shape.inputs)).astype(np.float32)
    paths = export_onnx(tmp_path / "model", tmp_path / "out")
    assert {path.stem for path in paths} == set(parameters)
    for path in paths:
        (outputs,) = ReferenceEvaluator(str(path)).run(None, {"features": inputs})
        assert np.allclose(outputs, ours.predictors[path.stem](inputs), rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match="no model here"):
        export_model(tmp_path / "nowhere", tmp_path / "out2")


def test_the_metadata_of_a_graph_is_enough_to_feed_it(tmp_path: Path) -> None:
    """Features made with RDKit from nothing but the metadata give what our own prediction gives."""
    import onnx
    from rdkit import Chem
    from rdkit.Chem import Descriptors, rdFingerprintGenerator

    shape = architecture().changed(inputs=POLICY.width)
    rng = np.random.default_rng(0)
    parameters = {
        name: tuple(rng.normal(size=at(shape).size).astype(np.float32) for at in (trunk_layout, private_layout))
        for name in ("local", "federated", "personalised")
    }
    card = Card(shape, POLICY, reference_hash(POLICY), {e.name: "local" for e in ENDPOINTS}, {}, {})
    write_model(tmp_path / "model", card, parameters)  # type: ignore[arg-type]
    export_model(tmp_path / "model", tmp_path / "out")
    (path, *_) = export_onnx(tmp_path / "model", tmp_path / "out")
    facts = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    features, molecule = json.loads(facts["features"]), Chem.MolFromSmiles("CC(=O)Nc1ccc(O)cc1")
    print_ = features["fingerprint"]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=print_["radius"], fpSize=print_["bits"])
    counts = np.minimum(generator.GetCountFingerprintAsNumPy(molecule), print_["count_limit"])
    known = dict(Descriptors.descList)
    raw = [(known[d["name"]](molecule) - d["center"]) / d["scale"] for d in features["descriptors"]]
    row = np.concatenate([np.log2(1.0 + counts), np.clip(np.arcsinh(raw), -6, 6)]).astype(np.float32)
    found: Any = ReferenceEvaluator(str(path)).run(None, {"features": row[None]})
    (outputs,) = found
    rule = json.loads(facts["assay_endpoints"])[0]
    (ours,) = kmel_p2p.load(tmp_path / "out").predictions(["CC(=O)Nc1ccc(O)cc1"], model="local")
    assert outputs[0, 0] * rule["scale"] + rule["center"] == pytest.approx(ours.values["logd"], rel=1e-3, abs=1e-3)
