"""Why a value: own compounds with what was measured, contributions that follow the model, and what stays here."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import markupsafe
import numpy as np
import pytest
from numpy.typing import NDArray
from rdkit import Chem

import kmel_p2p
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.evaluate.scores import probability
from kmel_p2p.learn.predict.columns import cell_text
from kmel_p2p.learn.predict.drawing import as_image, draw, draw_contributions
from kmel_p2p.learn.predict.explain import LOG_ODDS, NEIGHBOURS, NO_ATOMS, NO_OWN, NO_VALUES, explain
from kmel_p2p.learn.predict.explanation_page import explanation_page
from kmel_p2p.learn.predict.explanation_view import compound_view, in_words
from kmel_p2p.learn.predict.export import export_model
from kmel_p2p.learn.predict.neighbours import FILE, Neighbours, read_neighbours
from kmel_p2p.learn.predict.own_compounds import Measured, OwnCompounds
from kmel_p2p.learn.predict.predict import Model, load_model
from kmel_p2p.learn.predict.values import in_digits
from kmel_p2p.learn.tensor_file import write_state
from tests.support.stacked_site import ELSEWHERE, ENDPOINTS, SHAPE, SMILES, Site, make_site


@pytest.fixture(scope="module")
def site() -> Site:
    return make_site()


@pytest.fixture(scope="module")
def folder(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site.write(tmp_path_factory.mktemp("explain") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return kmel_p2p.load(folder)


def test_neighbours_are_training_compounds_with_their_measured_values(site: Site, model: Model) -> None:
    made = model.explain("CCCCCO")
    data = site.data
    own = {data.smiles[row]: row for row in data.train}
    for place, endpoint in enumerate(ENDPOINTS):
        near = made.assays[endpoint.name].neighbours
        assert len(near) == NEIGHBOURS
        similar = [neighbour.similarity for neighbour in near]
        assert similar == sorted(similar, reverse=True)
        assert similar[0] == pytest.approx(made.prediction.similarity)
        for neighbour in near:
            row = own[neighbour.smiles]
            label = data.labels[row, place].astype(np.float64)
            assert neighbour.measured.value == pytest.approx(float(endpoint.native(np.array([label]))[0]))
    assert made.prediction == model.predictions(["CCCCCO"])[0], "explained is what predict says"


def test_a_compound_without_a_measurement_is_no_neighbour_for_that_endpoint(site: Site, folder: Path) -> None:
    labels = site.data.labels.copy()
    labels[:, 1] = np.nan
    labels[site.data.train[:2], 1] = 1.0
    relations = site.data.relations.copy()
    relations[site.data.train[0], 0] = -1
    data = dataclasses.replace(site.data, labels=labels, relations=relations)
    loaded = load_model(folder)
    model = Model(loaded.card, site.models, Neighbours.of(data), site.stored)
    first = data.smiles[data.train[0]]
    made = model.explain(first)
    assert len(made.assays["herg"].neighbours) == 2
    itself = made.assays["solubility"].neighbours[0]
    assert (itself.smiles, itself.similarity, itself.measured.relation) == (first, 1.0, "<")
    assert in_words(itself.measured, ENDPOINTS[0]).startswith("<")


def test_contributions_are_what_the_answer_loses_with_the_atom(model: Model) -> None:
    made = model.explain("CCCCCN")
    whole = made.prediction
    atoms = Chem.MolFromSmiles(whole.standardised).GetNumAtoms()
    for endpoint in ENDPOINTS:
        given = made.assays[endpoint.name]
        assert len(given.contributions) == atoms
        assert np.isfinite(given.contributions).all()
        assert given.unit == (LOG_ODDS if endpoint.kind == "classification" else "log10(mol/L)")
    assert len({round(value, 9) for value in made.assays["solubility"].contributions}) > 1


class Counting:
    """Answers with the number of oxygens, read from the fingerprint: a model whose contributions are known."""

    models: tuple[str, ...] = ()
    names = [("counting", "counting")] * 2

    def __init__(self, position: int, asked: list[NDArray[np.float64]]) -> None:
        self._position, self._asked = position, asked

    def answer(self, inputs: NDArray[np.float32], near: NDArray[np.float64] | None) -> object:
        from kmel_p2p.learn.predict.answering import Answer

        assert near is not None
        self._asked.append(near)
        count = 2 ** inputs[:, self._position].astype(np.float64) - 1
        output = np.stack([count, count], axis=1)
        return Answer(output, np.zeros_like(output), np.zeros(len(inputs), bool), {}, output)

    def outputs(self, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        return {}

    def calibration(self, name: str) -> object:
        from kmel_p2p.learn.predict.uncertainty import Calibration, SiteCalibration

        return SiteCalibration(Calibration(), Calibration())


def test_a_model_that_counts_oxygens_blames_the_oxygens_alone(site: Site, folder: Path) -> None:
    from kmel_p2p.chem.structures.features import describe

    policy = load_model(folder).card.features
    hydroxyl = Chem.MolFromSmiles("CO")
    oxygen = next(
        position
        for position in np.flatnonzero(describe(hydroxyl, policy)[0])
        if not describe(Chem.MolFromSmiles("CCCCCC"), policy)[0][position]
        and describe(Chem.MolFromSmiles("OCCCCO"), policy)[0][position] == 2
    )
    asked: list[NDArray[np.float64]] = []
    model = load_model(folder)
    model.answering = Counting(int(oxygen), asked)  # type: ignore[assignment]
    made = model.explain("OCCCCO")
    scale = ENDPOINTS[0].scale
    by_symbol = {
        atom.GetIdx(): atom.GetSymbol() for atom in Chem.MolFromSmiles(made.prediction.standardised).GetAtoms()
    }
    expected = [scale if by_symbol[place] == "O" else 0.0 for place in range(6)]
    assert made.assays["solubility"].contributions == pytest.approx(expected)
    assert made.assays["herg"].contributions == pytest.approx([value / scale for value in expected])
    # All rows are answered as the whole is: an atom less must not bring another model in.
    assert set(asked[-1].tolist()) == {made.prediction.similarity}


def test_the_model_that_was_asked_for_is_the_one_explained(model: Model) -> None:
    made = model.explain("CCCCO", model="federated")
    assert {assay.value.model for assay in made.assays.values()} == {"federated"}
    assert "<ellipse" in made.svg("solubility")
    assert made.assays["solubility"].contributions != model.explain("CCCCO").assays["solubility"].contributions
    with pytest.raises(ConfigError, match="no model"):
        model.explain("CCO", model="best")


def test_what_cannot_be_explained_says_why(model: Model) -> None:
    assert model.explain("nonsense").assays == {}
    assert model.explain("nonsense").prediction.reason
    single = model.explain("C")
    assert single.assays["solubility"].contributions == ()
    assert single.notes == (NO_ATOMS,)
    assert single.svg("herg").startswith("<svg"), "plain"
    assert single.assays["solubility"].neighbours


def test_an_exported_copy_explains_without_own_compounds_and_holds_none(folder: Path, tmp_path: Path) -> None:
    export_model(folder, tmp_path / "out")
    copy = kmel_p2p.load(tmp_path / "out")
    made = copy.explain("CCCCO")
    assert made.notes == (NO_OWN,)
    assert all(not assay.neighbours and assay.contributions for assay in made.assays.values())
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    longest = max(SMILES, key=len)
    assert longest.encode() not in everything
    assert longest.encode() in (folder / FILE).read_bytes()


def test_a_directory_of_an_earlier_version_has_similarities_but_no_values(site: Site, folder: Path) -> None:
    loaded = load_model(folder)
    earlier = dataclasses.replace(site.neighbours, compounds=None)
    made = Model(loaded.card, site.models, earlier, site.stored).explain("CCCCO")
    assert made.notes == (NO_VALUES,)
    assert made.prediction.similarity is not None


def test_own_compounds_survive_the_disk_and_damage_is_told(site: Site, tmp_path: Path) -> None:
    site.neighbours.write(tmp_path)
    again = read_neighbours(tmp_path, site.neighbours.width, 2)
    assert again is not None
    assert again.compounds is not None
    assert site.neighbours.compounds is not None
    assert list(again.compounds.smiles) == list(site.neighbours.compounds.smiles)
    assert np.array_equal(again.compounds.labels, site.neighbours.compounds.labels, equal_nan=True)
    assert np.array_equal(again.compounds.relations, site.neighbours.compounds.relations)
    with pytest.raises(ConfigError, match="another model"):
        read_neighbours(tmp_path, site.neighbours.width, 3)
    whole = {
        "packed": site.neighbours.packed,
        "usual": np.array(site.neighbours.usual),
        "held_out": site.neighbours.held_out,
        **site.neighbours.compounds.tensors(),
    }
    damaged = {
        "smiles_ends": whole["smiles_ends"][::-1].copy(),
        "smiles": whole["smiles"][:-3].copy(),
        "labels": whole["labels"][1:].copy(),
        "relations": whole["relations"].astype(np.int64),
        "packed": whole["packed"][1:].copy(),
    }
    for name, tensor in damaged.items():
        write_state(tmp_path / FILE, {**whole, name: tensor}, {})
        with pytest.raises(ConfigError, match=f"{FILE}: .*remove it"):
            read_neighbours(tmp_path, site.neighbours.width, 2)
    write_state(tmp_path / FILE, {name: tensor for name, tensor in whole.items() if name != "smiles"}, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_neighbours(tmp_path, site.neighbours.width, 2)


def test_a_measured_class_and_a_bound_are_written_as_such() -> None:
    assert in_words(Measured(1.0), ENDPOINTS[1]) == "1"
    assert in_words(Measured(1230.4, ">"), ENDPOINTS[0]) == ">1230"
    own = OwnCompounds(["CCO"], np.array([[np.nan, 0]], np.float32), np.zeros((1, 2), np.int8))
    assert own.measured(0, 0, ENDPOINTS[0]) is None
    assert own.measured(0, 1, ENDPOINTS[1]) == Measured(0.0)


def test_no_probability_reads_0_or_1() -> None:
    herg = ENDPOINTS[1]
    told = [in_digits(value, herg) for value in (1e-6, 0.0004, 0.0011, 0.5, 0.9991, 0.99949, 0.99951, 1 - 1e-6)]
    assert told == ["<0.001", "<0.001", "0.001", "0.500", ">0.999", ">0.999", ">0.999", ">0.999"]
    assert in_digits(1234.5, ENDPOINTS[0]) == "1230"
    surest = probability(np.array([-1e9, -40.0, 40.0, 1e9]))
    assert [cell_text("kmel_herg", float(value)) for value in surest] == ["1e-06", "1e-06", "0.999999", "0.999999"]


def test_the_drawing_marks_atoms_by_colour_and_number() -> None:
    svg = draw_contributions("CCO", [0.0, 0.2, -1.0], 1.0)
    assert svg.startswith("<svg")
    assert "<script" not in svg
    assert svg.count("<ellipse") == 2, "an atom that contributes nothing is not coloured"
    assert draw_contributions("CCO", [0.0, 0.2], 1.0) == "", "not of this structure"
    assert draw("nonsense") == ""
    assert as_image(draw("CCO")).startswith("data:image/svg+xml;base64,")


def test_the_page_escapes_what_others_wrote_and_loads_nothing(model: Model) -> None:
    made = explain(model, model.predictions(["CCCCO", "<img src=x onerror=alert(1)>"]))
    names = ["<script>alert(1)</script>", "A & B"]
    compounds = [
        compound_view(each, model.card.architecture.endpoints, name) for each, name in zip(made, names, strict=True)
    ]
    page = explanation_page(model, compounds, source="<b>in.csv", total=70, level=0.9, warning="x < y")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<img src=x" not in page
    assert "<b>in.csv" not in page
    assert "the first 2 of them" in page
    assert "stays at the site" in page
    assert str(markupsafe.escape(made[1].prediction.reason)) in page
    assert "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page), "nothing is loaded from elsewhere"
    assert page.count("<figure>") == 2


def test_a_far_compound_is_explained_by_the_side_that_answers_for_it(site: Site, model: Model) -> None:
    made = model.explain(ELSEWHERE[3])
    names = {stack.unusual for stack in site.fitted.stack.endpoints}
    assert {assay.value.model for assay in made.assays.values()} <= names
    assert SHAPE.endpoints == model.card.architecture.endpoints
