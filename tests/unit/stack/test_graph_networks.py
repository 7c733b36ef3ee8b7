"""Graph networks of a site's own in its stacks: they learn, come back from the file, and load only with chemprop."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.learn.evaluate.scores import score
from kmel_p2p.learn.models import dmpnn_graphs
from kmel_p2p.learn.models.registry import GRAPH_MODEL, GRAPH_TRUNK
from kmel_p2p.learn.predict.predict import load_model
from kmel_p2p.learn.stack import graph_networks
from kmel_p2p.learn.stack import stack as stacks
from kmel_p2p.learn.stack.graph_networks import GRAPHS, GraphEnsemble, GraphNetworks, graph_shape, train_graphs
from kmel_p2p.learn.stack.sides import BEST_LOCAL, FOREIGN, SIDES, STACK
from kmel_p2p.learn.stack.stack import STORED_ELSEWHERE, SiteStack
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.worker.prepare import check_graphs
from tests.support.stacked_site import ENDPOINTS, ENDS, POLICY, SHAPE, SMILES, Site, make_site

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("chemprop") is None, reason="chemprop (extra gnn) is not installed"
)


@pytest.fixture(scope="module")
def site() -> Site:
    return make_site(1)


@pytest.fixture(scope="module")
def written(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site.write(tmp_path_factory.mktemp("model"))


def test_they_stand_on_both_sides_and_not_with_what_the_federation_alone_has(site: Site) -> None:
    for stack in site.stored.stack.endpoints:
        assert GRAPHS in stack.sides[BEST_LOCAL].names
        assert GRAPHS in stack.sides[STACK].names
        assert GRAPHS not in stack.sides[FOREIGN].names


def test_they_learn_from_graphs_what_each_assay_endpoint_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    # Short chains: their end group, and whether it holds oxygen or nitrogen alone.
    smiles = SMILES[: 12 * len(ENDS)]
    end = np.arange(len(smiles)) % len(ENDS)
    labels = np.stack([end / 2.5 - 1, end < 2], axis=1).astype(np.float32)
    rows = np.random.default_rng(0).permutation(len(smiles))
    table = describe_all(smiles, POLICY).table
    plain = Dataset(
        ENDPOINTS, Inputs(table.counts, table.descriptors), labels, np.zeros(labels.shape, np.int8),
        rows[:48], rows[48:60], rows[60:], tuple(table.smiles),
    )  # fmt: skip
    data = plain.read_by(GRAPH_MODEL)
    for name, value in {"EPOCHS": 60, "BATCH": 16, "RATE": 0.02}.items():
        monkeypatch.setattr(graph_networks, name, value)
    small = graph_shape(SHAPE, 12, 2, (8,))
    monkeypatch.setattr(graph_networks, "graph_shape", lambda site: small)
    seen: list[int] = []
    trained = _trained(data, 7, seen)
    assert seen == sorted(seen)
    assert seen[-1] == 2 * graph_networks.graph_steps(data)
    inputs = data.inputs.rows(data.test)
    _, outputs = GraphEnsemble(trained).activations(inputs)
    values, classes = (labels[data.test, place] for place in range(2))
    assert score(ENDPOINTS[0], outputs[:, 0], values) < 0.6 * float(values.std()) * ENDPOINTS[0].scale
    assert score(ENDPOINTS[1], outputs[:, 1], classes) < 0.1
    monkeypatch.setattr(graph_networks, "EPOCHS", 2)
    few = [GraphEnsemble(_trained(data, seed, seen)).activations(inputs)[1] for seed in (7, 7, 8)]
    assert np.array_equal(few[0], few[1])
    assert not np.array_equal(few[0], few[2])


def test_a_stack_with_graphs_comes_back_bit_for_bit_in_blocks_of_any_size(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = site.data.inputs.rows(site.data.test)
    facts = json.loads(json.dumps(site.stored.stack.facts()))
    again = SiteStack.from_tensors(load(save(site.stored.stack.tensors())), facts, SHAPE, _known(site))
    assert again.reads.trunk == GRAPH_TRUNK
    expected = site.stored.stack.sides(inputs)
    found = again.sides(inputs)
    monkeypatch.setattr(stacks, "BLOCK", 7)
    in_blocks = again.sides(inputs)
    for side in SIDES:
        assert np.array_equal(found[side], expected[side])
        assert np.allclose(in_blocks[side], expected[side], atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"members": 0},
        {"members": 10**6},
        {"members": True},
        {"members": 2},
        {"message_width": 10**9},
        {"message_width": 13},
        {"depth": 0},
        {"depth": "2"},
        {"hidden": []},
        {"hidden": [10**9]},
        {"hidden": 8},
        {"reference": None},
    ],
)
def test_damaged_facts_are_refused_before_memory_is_taken(site: Site, change: dict[str, Any]) -> None:
    facts = site.stored.stack.facts()
    facts["graphs"] |= change
    with pytest.raises(ConfigError, match=r"is damaged|another version of chemprop"):
        SiteStack.from_tensors(site.stored.stack.tensors(), facts, SHAPE, _known(site))


def test_damaged_tensors_are_refused(site: Site) -> None:
    tensors, facts = site.stored.stack.tensors(), site.stored.stack.facts()
    name = "graphs/0/trunk"
    for wrong in (tensors[name][:-1], tensors[name].astype(np.float64), np.full_like(tensors[name], np.nan)):
        with pytest.raises(ConfigError, match="is damaged"):
            SiteStack.from_tensors(tensors | {name: wrong}, facts, SHAPE, _known(site))
    del facts["graphs"]
    with pytest.raises(ConfigError, match="is damaged"):
        SiteStack.from_tensors(tensors, facts, SHAPE, _known(site))


def test_a_model_directory_predicts_and_explains_with_graphs(site: Site, written: Path) -> None:
    model = load_model(written)
    rows = [int(row) for row in site.data.test[:6]]
    found = model.predictions([SMILES[row] for row in rows])
    answer = model.answering.answer(site.data.inputs.rows(np.array(rows)), np.array([row.similarity for row in found]))
    scale, center = ENDPOINTS[0].scale, ENDPOINTS[0].center
    for row, output in zip(found, answer.output[:, 0], strict=True):
        value = row.assays["solubility"].value
        assert np.log10(value) == pytest.approx(output * scale + center, abs=1e-4)
    assert len(model.explain("CCCCO").assays["solubility"].contributions) == 5


def test_without_chemprop_the_message_says_what_to_do(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chemprop.featurizers", None)
    dmpnn_graphs._chemprop.cache_clear()
    with pytest.raises(ConfigError, match=r"learners_STAYS.*stack has graph networks.*pip install 'kmel-p2p\[gnn\]'"):
        load_model(written)
    with pytest.raises(ConfigError, match=r"predictions\.graph_networks.*'kmel-p2p\[gnn\]'.*or set it to 0"):
        check_graphs(ModelRule())


def test_another_chemprop_is_told_apart_from_damage(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_networks, "REFERENCE_MOLECULES", ("CC",))
    with pytest.raises(ConfigError, match="trained with another version of chemprop or RDKit"):
        load_model(written)


def _trained(data: Dataset, seed: int, seen: list[int]) -> GraphNetworks:
    found = train_graphs(SHAPE, data, 2, seed, seen.append)
    assert found is not None
    return found


def _known(site: Site) -> dict[str, Any]:
    return {name: site.models[name] for name in STORED_ELSEWHERE}
