"""A model directory with the site's stack: what comes back, what answers, and that it stays at the site."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import kmel_p2p
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.learn.evaluate.advice import LOCAL, NO_EVIDENCE, USE
from kmel_p2p.learn.evaluate.evaluation import evaluate
from kmel_p2p.learn.evaluate.evaluation_page import evaluation_page
from kmel_p2p.learn.predict import predict as predicting
from kmel_p2p.learn.predict.export import export_model
from kmel_p2p.learn.predict.model_directory import Card, read_card, read_parameters, write_model
from kmel_p2p.learn.predict.predict import Model, load_model
from kmel_p2p.learn.predict.stack_file import STACK_FILE, StoredStack, read_stack
from kmel_p2p.learn.predict.uncertainty import Calibration, SiteCalibration
from kmel_p2p.learn.stack.sides import BEST_LOCAL, SIDES
from kmel_p2p.learn.train.dataset import Inputs
from tests.support.stacked_site import ELSEWHERE, ENDPOINTS, POLICY, SHAPE, SMILES, Site, make_site


@pytest.fixture(scope="module")
def site() -> Site:
    return make_site()


@pytest.fixture
def folder(site: Site, tmp_path: Path) -> Path:
    return site.write(tmp_path / "model")


def test_a_loaded_directory_predicts_as_the_stack_that_was_fitted(site: Site, folder: Path) -> None:
    asked = SMILES[::7]
    rows = load_model(folder).predictions(asked)
    inputs = describe_all(asked, POLICY).table
    every = Inputs(inputs.counts, inputs.descriptors)
    bits = every.bits(np.arange(len(asked)))
    expected = site.fitted.stack.answers(every.rows(np.arange(len(asked))), site.neighbours.unusual(bits))
    assert [row.values["solubility"] for row in rows] == ENDPOINTS[0].native(expected[:, 0]).tolist()
    far = site.neighbours.unusual(bits)
    for place, endpoint in enumerate(ENDPOINTS):
        stack = site.fitted.stack.endpoints[place]
        names = [row.assays[endpoint.name].model for row in rows]
        assert names == [stack.unusual if unlike else stack.own for unlike in far]
    assert all(row.assays["solubility"].lower is not None for row in rows)
    assert all(row.assays["herg"].classes is not None for row in rows)
    assert all(0 < row.values["herg"] < 1 for row in rows)


def test_the_calibrations_come_back_as_they_were(site: Site, folder: Path) -> None:
    again = read_stack(folder, load_model(folder).card, site.models)
    assert again is not None
    assert again.calibrations == site.stored.calibrations
    assert all(both.own.crossed and both.own.chose for both in again.calibrations.values())


def test_files_that_stay_are_their_owners_alone(folder: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*_STAYS*")}
    assert modes == {STACK_FILE: 0o600, "neighbours_STAYS.safetensors": 0o600}


def test_a_level_that_only_unusual_compounds_lack_values_for_is_said_to_lack_theirs(site: Site) -> None:
    enough = Calibration(residuals=tuple(np.arange(1, 101) / 100.0), floor=0.1, chose=True, crossed=True)
    few = dataclasses.replace(enough, residuals=enough.residuals[:40])
    calibrations = {endpoint.name: SiteCalibration(enough, few) for endpoint in ENDPOINTS[:1]}
    stored = StoredStack(site.stored.stack, {**site.stored.calibrations, **calibrations})
    chosen = {endpoint.name: "hybrid" for endpoint in ENDPOINTS}
    card = Card(SHAPE, POLICY, "", chosen, {}, {})
    model = Model(card, site.models, site.neighbours, stored)
    reason = model.without_intervals(0.99)["solubility"]
    assert reason.startswith("for compounds less like this site's own, a level of 0.99 needs 99 values")
    assert "there were 40" in reason
    assert "solubility" not in model.without_intervals(0.9)
    asked = [text for text, row in zip(SMILES, model.predictions(SMILES, level=0.99), strict=True)
             if row.assays["solubility"].lower is not None]  # fmt: skip
    assert asked, "those like the site's own have intervals"


@pytest.mark.parametrize("name", SIDES)
def test_every_side_can_be_asked_by_name(site: Site, folder: Path, name: str) -> None:
    row = load_model(folder).predictions(["CCCO"], model=name)[0]
    assert {value.model for value in row.assays.values()} == {name}
    table = describe_all(["CCCO"], POLICY).table
    inputs = Inputs(table.counts, table.descriptors).rows(np.arange(1))
    assert row.values["solubility"] == ENDPOINTS[0].native(site.fitted.stack.sides(inputs)[name][:, 0])[0]


def test_an_export_leaves_the_learners_out_and_predicts_with_networks(folder: Path, tmp_path: Path) -> None:
    export_model(folder, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"card.json", "model.safetensors"}
    copy = kmel_p2p.load(tmp_path / "out")
    assert copy.stack is None
    assert {value.model for value in copy.predictions(["CCCO"])[0].assays.values()} == {"hybrid"}
    with pytest.raises(ConfigError, match=r"no model 'best_local'.*predict at the site"):
        copy.predictions(["CCCO"], model=BEST_LOCAL)


def test_the_card_of_an_export_tells_of_the_networks_that_answer_there(folder: Path, tmp_path: Path) -> None:
    card = read_card(folder)
    told = {
        "name": "solubility", "chosen": "stack", "network": "hybrid", "stacked": {"own": "stack"},
        "predicted": {"test": {"rmse": 0.1}}, "models": {"hybrid": {"test": {"rmse": 0.2}}},
    }  # fmt: skip
    write_model(folder, dataclasses.replace(card, result={"endpoints": [told]}), read_parameters(folder, card))
    (found,) = export_model(folder, tmp_path / "out").result["endpoints"]
    assert found["chosen"] == "hybrid"
    assert found["predicted"] == {"test": {"rmse": 0.2}}
    assert "stacked" not in found


def test_a_damaged_or_missing_file_is_named_with_what_to_do(folder: Path) -> None:
    path = folder / STACK_FILE
    whole = path.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], b"", b"garbage"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"{STACK_FILE}: is damaged.*card.json"):
            load_model(folder)
    path.unlink()
    with pytest.raises(ConfigError, match=rf"{STACK_FILE}: is missing.*copy the whole model directory"):
        load_model(folder)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"stack_digest": 7}))
    with pytest.raises(ConfigError, match="damaged"):
        load_model(folder)


def test_a_stack_with_the_right_digest_but_of_other_networks_is_refused(site: Site, folder: Path) -> None:
    card = load_model(folder).card
    other = dataclasses.replace(card, architecture=SHAPE.changed(endpoints=ENDPOINTS[:1]))
    with pytest.raises(ConfigError, match=f"{STACK_FILE}: cannot be read"):
        read_stack(folder, other, site.models)


def test_a_batch_from_elsewhere_is_warned_of_and_one_of_the_sites_own_is_not(folder: Path) -> None:
    model = load_model(folder)
    assert model.shift(model.predictions(SMILES[1::3])) is None
    found = model.shift(model.predictions(ELSEWHERE))
    assert found is not None
    assert found.batch < found.held_out
    assert "less like the site's training compounds" in str(found)
    assert model.shift(model.predictions(ELSEWHERE[:5])) is None, "too few to say"


def test_blocks_do_not_change_what_the_stack_says(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(folder)
    whole = model.predictions(SMILES[:20])
    monkeypatch.setattr(predicting, "BLOCK_VALUES", 6 * SHAPE.inputs)
    for one, other in zip(whole, model.predictions(SMILES[:20]), strict=True):
        assert one.values == pytest.approx(other.values, rel=1e-5)


def test_evaluation_compares_with_best_local_in_words_and_numbers(site: Site, folder: Path) -> None:
    loaded = load_model(folder)
    model = Model(loaded.card, site.models, site.neighbours, site.stored)
    report, outputs = evaluate(model, site.data, seed=2)
    assert report["stacked"] is True
    assert {*SIDES, "chosen"} <= outputs.keys()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    solubility, herg = report["endpoints"]
    assert solubility["verdict"]["advice"] in (USE, NO_EVIDENCE, LOCAL)
    assert solubility["verdict"]["score"] == pytest.approx(solubility["models"]["chosen"]["score"])
    assert [d["threshold"] for d in solubility["verdict"]["decisions"]] == [1e-5, 1e-4]
    assert "decisions" not in herg["verdict"]
    assert herg["calibrated_crosswise"] is True
    assert herg["calibrated_apart"] is False, "held-out compounds chose checkpoints and sides"
    page = evaluation_page(report)
    assert "Is the federation worth using?" in page
    assert page.count('class="badge ') == 4  # in the table, and beside the plots
    assert "each predicted with weights that were fitted to others of them" in page
