"""The message-passing trunk of chemprop behind the same interface as the perceptron."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rdkit import Chem

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import Bug, ConfigError
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.learn import device
from kmel_p2p.learn.evaluate.comparison import MODELS, compare, start_local
from kmel_p2p.learn.evaluate.scores import fold_scores, forest_baseline, median_baseline
from kmel_p2p.learn.models import dmpnn_graphs as graphs
from kmel_p2p.learn.models import graph_rows
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.dmpnn_graphs import GraphBatch, MessagePassing, MoleculeGraphs
from kmel_p2p.learn.models.graph_rows import GraphRows
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.learn.models.registry import GRAPH_MODEL
from kmel_p2p.learn.predict.export import export_onnx
from kmel_p2p.learn.predict.model_directory import Card, write_model
from kmel_p2p.learn.predict.predict import load_model
from kmel_p2p.learn.train.checkpoint import Parameters, train_with_checkpoints
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.train.round import Rounds
from tests.support.learn_fixtures import SETTINGS

needs_chemprop = pytest.mark.skipif(
    importlib.util.find_spec("chemprop") is None, reason="chemprop (extra gnn) is not installed"
)
POLICY = FeatureRule(bits=64)
ENDPOINT = AssayEndpoint(name="size", center=6.0, scale=3.0, head="shared")
SHAPE = Architecture(
    inputs=POLICY.width,
    hidden=(16,),
    endpoints=(ENDPOINT,),
    trunk="dmpnn",
    descriptors=len(descriptor_constants()),
    message_width=12,
    depth=2,
    dropout=0.0,
)
GRAPH = ["trunk.graph.W_i.weight", "trunk.graph.W_h.weight", "trunk.graph.W_o.weight", "trunk.graph.W_o.bias"]


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Chains with an end group; the label is their number of heavy atoms. Descriptors are blank: only graphs tell."""
    smiles = [f"{'C' * length}{end}" for length in range(1, 13) for end in ("O", "N", "Cl", "F", "S")] + ["C"]
    table = describe_all(smiles, POLICY).table
    labels = ENDPOINT.label(np.array([len(text.replace("Cl", "X")) for text in smiles], float))[:, None]
    rows = np.random.default_rng(0).permutation(len(smiles))
    return Dataset(
        (ENDPOINT,),
        Inputs(table.counts, np.zeros_like(table.descriptors), MoleculeGraphs(table.smiles)),
        labels.astype(np.float32),
        np.zeros((len(smiles), 1), np.int8),
        rows[:40],
        rows[40:],
        rows[40:],
        tuple(table.smiles),
    )


def started() -> Network:
    network = Network(SHAPE)
    start_local(network, SHAPE, 3, 4)
    return network


def test_graph_tensors_belong_to_the_trunk() -> None:
    names = [spec.name for spec in trunk_layout(SHAPE).specs]
    assert names == [*GRAPH, "trunk.0.weight", "trunk.0.bias", "head.shared.weight", "head.shared.bias"]
    assert trunk_layout(SHAPE).specs[4].shape == (16, 12 + len(descriptor_constants()))


@pytest.mark.parametrize("wrong", [{"members": 2}, {"depth": 0}, {"message_width": 0}, {"descriptors": 10**6}])
def test_an_impossible_graph_trunk_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises((ConfigError, ValidationError)):
        trunk_layout(SHAPE.changed(**wrong))


@needs_chemprop
def test_gradients_of_the_graph_arrive_in_the_flat_vector(data: Dataset) -> None:
    network = started()
    rows = data.inputs.rows(data.train[:8])
    network.forward(network.read(rows)).sum().backward()
    assert network.trunk.grad is not None
    gradient = network.trunk.grad.numpy().copy()
    for name in GRAPH:
        where = trunk_layout(SHAPE).slices[name]
        place = where.start + int(np.abs(gradient[where]).argmax())
        step = np.zeros_like(gradient)
        step[place] = 1e-2
        start = network.trunk.detach().numpy().copy()
        before = network.predict(rows).sum()
        network.load(start + step)
        assert (network.predict(rows).sum() - before) / 1e-2 == pytest.approx(gradient[place], rel=0.1, abs=1e-3)
        network.load(start)
    network.clear_gradients()
    assert not network.trunk.grad.any()


@needs_chemprop
def test_messages_are_those_of_chemprop() -> None:
    from chemprop.data import BatchMolGraph
    from chemprop.featurizers import SimpleMoleculeMolGraphFeaturizer
    from chemprop.nn import BondMessagePassing, MeanAggregation

    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "C", "C1CC1N", "[Na+].[Cl-]", "C/C=C/C#N", "O=S(=O)(c1ccccc1)N1CCOCC1"]
    table = describe_all(smiles, POLICY).table
    network = started()
    own = network.read(
        Inputs(table.counts, table.descriptors, MoleculeGraphs(table.smiles)).rows(np.arange(len(smiles)))
    )
    assert isinstance(own, GraphBatch)
    passing = BondMessagePassing(d_h=SHAPE.message_width, depth=SHAPE.depth)
    state = {
        name.removeprefix("trunk.graph."): torch.from_numpy(tensor)
        for name, tensor in trunk_layout(SHAPE).split(network.trunk_values()).items()
        if name in GRAPH
    }
    passing.load_state_dict(state)
    featuriser = SimpleMoleculeMolGraphFeaturizer()
    theirs = BatchMolGraph([featuriser(Chem.MolFromSmiles(text)) for text in table.smiles])
    expected = MeanAggregation()(passing(theirs), theirs.batch).detach().numpy()
    tensors = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    found = MessagePassing(SHAPE, {f"trunk.graph.{name}": tensor for name, tensor in tensors.items()})(own, False)
    assert found.detach().numpy()[:, : SHAPE.message_width] == pytest.approx(expected, abs=1e-6)


@needs_chemprop
def test_graphs_are_drawn_once_and_the_drawing_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    table = describe_all(["CCO", "CCN", "CCC"], POLICY).table
    inputs = Inputs(table.counts, table.descriptors, MoleculeGraphs(table.smiles))
    seen: list[tuple[int, int]] = []

    def stop_at_two(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        inputs.prepare(stop_at_two)
    inputs.prepare(lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (1, 3), (2, 3), (3, 3)]
    monkeypatch.setattr(graphs, "graph_of", lambda smiles: pytest.fail(f"drawn again: {smiles}"))
    rows = inputs.rows(np.array([2, 0]))
    assert isinstance(rows, GraphRows)
    assert [len(graph.atoms) for graph in rows.graphs] == [3, 3]
    assert rows.graphs[1].bonds[1:].tolist() == [[0, 1], [1, 2]]


def test_kinds_keep_their_numbers_whoever_asks() -> None:
    """Far more kinds than the table first has room for, from four threads that take turns as often as they can."""
    rows, kinds, together = np.arange(1600, dtype=np.float32)[:, None], graphs._Kinds(1), threading.Barrier(4)

    def number(part: np.ndarray) -> np.ndarray:
        together.wait()
        return kinds.number(part)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            numbers = np.concatenate(list(threads.map(number, np.split(rows, 4))))
    finally:
        sys.setswitchinterval(usual)
    assert sorted(numbers) == list(range(1600))
    assert np.array_equal(kinds.rows(numbers), rows)
    assert np.array_equal(kinds.number(rows), numbers)


@needs_chemprop
def test_without_chemprop_the_reason_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chemprop.featurizers", None)
    graphs._chemprop.cache_clear()
    with pytest.raises(ConfigError, match=r"needs chemprop 2\.2: pip install 'kmel-p2p\[gnn\]'"):
        trunk_reference_hash(POLICY, ModelRule(trunk="dmpnn"))


@needs_chemprop
def test_predicting_takes_parts_that_fit_into_memory(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    network, rows = started(), data.inputs.rows(np.arange(61))
    assert isinstance(rows, GraphRows)
    whole = network.predict(rows)
    monkeypatch.setattr(graph_rows, "MAX_BONDS", 40)
    cuts = list(rows.cuts(7))
    assert cuts[0][0] == 0
    assert cuts[-1][1] == 61
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(cuts))
    sizes = [(stop - start, 2 * sum(graph.bonds.shape[1] for graph in rows.graphs[start:stop])) for start, stop in cuts]
    assert max(size for size, _ in sizes) == 7
    assert all(bonds <= 40 or size == 1 for size, bonds in sizes)
    assert network.predict(rows, batch=7) == pytest.approx(whole, abs=1e-5)
    # A molecule above the limit is a part of its own.
    monkeypatch.setattr(graph_rows, "MAX_BONDS", 1)
    assert network.predict(rows) == pytest.approx(whole, abs=1e-5)


@needs_chemprop
def test_it_learns_what_only_the_graph_shows_and_baselines_still_work(data: Dataset) -> None:
    network = started()
    before = fold_scores(data, network.predict)["size"]["test"]
    train_with_checkpoints(network, data, SETTINGS, steps=150, every=25)
    after = fold_scores(data, network.predict)["size"]["test"]
    assert after < 0.5 * before
    assert after < 0.5 * fold_scores(data, median_baseline(data))["size"]["test"]
    assert np.isfinite(fold_scores(data, forest_baseline(data, 0))["size"]["test"])
    # In batches or at once, the answer is the same.
    rows = data.inputs.rows(data.test)
    assert network.predict(rows, batch=3) == pytest.approx(network.predict(rows), abs=1e-5)
    with pytest.raises(Bug, match="without graphs"):
        network.predict(np.asarray(rows))


@needs_chemprop
def test_bfloat16_gives_the_outputs_and_gradients_of_float32(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for mixed in (False, True):
        monkeypatch.setattr(device._choice, "mixed", mixed)
        network = started()
        with device.training_precision():
            outputs = network.member_outputs(network.read(data.inputs.rows(data.train)))
        outputs.float().square().mean().backward()
        assert network.trunk.grad is not None
        assert outputs.dtype == (torch.bfloat16 if mixed else torch.float32)
        found.append((outputs.detach().float().numpy(), network.trunk.grad.numpy().copy()))
    for whole, half in zip(*found, strict=True):
        assert half.dtype == np.float32
        assert 0 < np.linalg.norm(half - whole) < 0.02 * np.linalg.norm(whole)


@needs_chemprop
def test_a_pass_stays_on_one_device(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's `meta` device has shapes without values, and refuses tensors of other devices as a GPU would."""
    monkeypatch.setattr(device._choice, "device", torch.device("meta"))
    network = started()
    outputs = network.forward(network.read(data.inputs.rows(data.train[:8])), training=True)
    assert outputs.device.type == "meta"
    outputs.sum().backward()
    monkeypatch.setattr(device._choice, "device", torch.device("cpu"))
    with pytest.raises(RuntimeError, match="meta"):
        network.forward(network.read(data.inputs.rows(data.train[:8])))


@needs_chemprop
def test_rounds_of_a_federation_carry_the_graph_trunk(data: Dataset, tmp_path: Path) -> None:
    layout = trunk_layout(SHAPE)
    codec = DeltaCodec(layout, CodecParameters(chunk=256, kept=64, bits=4))
    network = started()
    trunk = network.trunk.detach().numpy().copy()
    rounds = Rounds(network, data, layout, codec, SETTINGS, tmp_path)
    scores = []
    for number in range(1, 7):
        result = rounds.train(number, 20, None, trunk, lambda progress: None)
        rounds.commit(number)
        trunk = trunk + codec.decode(result.payload).dense(layout.size)
        scores.append(result.scores["size"]["valid"])
    moved = layout.split(trunk - started().trunk.detach().numpy())
    assert all(np.abs(moved[name]).max() > 0 for name in GRAPH)
    assert scores[-1] < 0.7 * scores[0]


@needs_chemprop
def test_a_file_of_measurements_becomes_the_models_compared(tmp_path: Path) -> None:
    path = tmp_path / "sizes.csv"
    names = [f"{'C' * length}{end}" for length in range(1, 21) for end in ("O", "N", "Cl")]
    path.write_text("smiles,size\n" + "".join(f"{name},{len(name)}\n" for name in names))
    own = ingest(Source(path=path, smiles_column="smiles", columns={"size": Column(column="size")}), [ENDPOINT], POLICY)
    built = Dataset.build(
        own, own.folds(SplitRule(fold_key="k", valid_fraction=0.35, test_fraction=0.1)), model=GRAPH_MODEL
    )
    trunk = Parameters.of(started())
    found = compare(SHAPE, built, SETTINGS, 3, trunk, steps=20, federated_history=[], report=lambda done, total: None)
    (size,) = found.result["endpoints"]
    assert set(size["models"]) == set(MODELS)
    assert size["models"]["local"]["valid"] < size["models"]["federated"]["valid"]


@needs_chemprop
def test_a_graph_model_predicts_from_its_directory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = started()
    own = Parameters.of(network)
    reference = trunk_reference_hash(POLICY, ModelRule(trunk="dmpnn"))
    assert reference != trunk_reference_hash(POLICY, ModelRule(trunk="mlp"))
    card = Card(SHAPE, POLICY, reference, {"size": "local"}, {}, {})
    models = dict.fromkeys(("local", "federated", "personalised"), (own.trunk, own.private))
    write_model(tmp_path, card, models)
    answers = load_model(tmp_path).predictions(["CCO", "nonsense", "C", "OCC"])
    for assay in load_model(tmp_path).explain("CCO").assays.values():
        assert len(assay.contributions) == 3
        assert np.isfinite(assay.contributions).all()
    assert [bool(answer.reason) for answer in answers] == [False, True, False, False]
    assert answers[0].values == pytest.approx(answers[3].values)
    assert answers[0].values != pytest.approx(answers[2].values, rel=1e-3)
    with pytest.raises(ConfigError, match="ONNX is for mlp and projected trunks"):
        export_onnx(tmp_path, tmp_path)
    write_model(
        tmp_path, dataclasses.replace(card, reference_hash=trunk_reference_hash(POLICY, ModelRule(trunk="mlp"))), models
    )
    with pytest.raises(ConfigError, match="computes different features"):
        load_model(tmp_path)
