"""Trunk `projected`: the same signs everywhere, a perceptron over them, training, stacking, predicting, explaining."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.chunks import CodecParameters
from kmel_p2p.delta.codec import DeltaCodec
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.evaluate.comparison import compare, start_local
from kmel_p2p.learn.evaluate.scores import fold_scores, median_baseline
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.models.projection import scaled, signs
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.learn.predict.model_directory import Card, write_model
from kmel_p2p.learn.predict.predict import load_model
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.round import Rounds
from tests.support.learn_fixtures import BITS, DESCRIPTORS, SETTINGS, architecture, dataset
from tests.support.small_learners import make_learners_small_here

SHAPE = architecture().changed(trunk="projected", projection=24, descriptors=DESCRIPTORS, dropout=0.0)


def started(shape: Architecture = SHAPE) -> Network:
    network = Network(shape)
    start_local(network, shape, 3, 4)
    return network


def test_the_signs_are_those_of_every_version() -> None:
    """The matrix is part of the protocol: other signs are another federation."""
    found = hashlib.blake2b(np.packbits(signs(2048, 256, 7)).tobytes(), digest_size=8).hexdigest()
    assert found == "b77cf38bac897d28"
    assert signs(64, 5, 0)[:2].astype(int).tolist() == [[1, 1, 0, 0, 1], [1, 1, 1, 0, 1]]


@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_signs_are_even_and_lengths_are_kept(bits: int, projection: int, seed: int) -> None:
    matrix = scaled(bits, projection, seed)
    assert matrix.shape == (bits, projection)
    assert (matrix**2).sum(axis=1) == pytest.approx(1, rel=1e-4)
    assert abs(np.sign(matrix).mean()) < 6 / np.sqrt(matrix.size)
    assert np.array_equal(signs(bits, projection, seed), np.sign(matrix) > 0)


def test_it_is_a_perceptron_over_the_projection_and_the_descriptors() -> None:
    network, layout = started(), trunk_layout(SHAPE)
    assert layout.specs[0].shape == (SHAPE.hidden[0], 24 + DESCRIPTORS)
    inputs = dataset().inputs.rows(np.arange(40))
    tensors = layout.split(network.trunk_values()) | private_layout(SHAPE).split(network.private_values())
    hidden = np.concatenate([inputs[:, :BITS] @ scaled(BITS, 24, SHAPE.seed), inputs[:, BITS:]], axis=1)
    for at in range(2):
        hidden = np.maximum(hidden @ tensors[f"trunk.{at}.weight"].T + tensors[f"trunk.{at}.bias"], 0)
    shared = hidden @ tensors["head.shared.weight"].T + tensors["head.shared.bias"]
    assert network.predict(inputs)[:, [0, 2]] == pytest.approx(shared, abs=1e-5)
    activations, outputs = network.activations(inputs)
    assert activations == pytest.approx(hidden, abs=1e-5)
    assert outputs == pytest.approx(network.predict(inputs))


def test_what_occurs_and_what_does_not_are_read_alike() -> None:
    """Rows of which little occurs are gathered, others multiplied: the same numbers."""
    network = started()
    few, many = dataset().inputs.rows(np.arange(9)), np.ones((9, SHAPE.inputs), np.float32)
    few[:, :BITS] = 0
    few[1:, 5] = 1.5
    both = network.read(np.concatenate([few, many])).numpy()
    assert network.read(few).numpy() == pytest.approx(both[:9], abs=1e-5)
    assert not network.read(few).numpy()[0, :24].any()


def test_rounds_train_it_and_its_entries_are_those_of_any_trunk(tmp_path: Path) -> None:
    data, network, layout = dataset(300), started(), trunk_layout(SHAPE)
    codec = DeltaCodec(layout, CodecParameters(chunk=256, kept=32))
    rounds, trunk = Rounds(network, data, layout, codec, SETTINGS, tmp_path), initial_trunk(layout, 3)
    for number in range(1, 9):
        result = rounds.train(number, 10, None, trunk, lambda progress: None)
        rounds.commit(number)
        trunk += codec.decode(result.payload).dense(layout.size)
    network.load(trunk)
    found, median = fold_scores(data, network.predict), fold_scores(data, median_baseline(data))
    assert found["logd"]["test"] < 0.9 * median["logd"]["test"]


def test_models_are_compared_and_stacked_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # How good the stack is stands elsewhere.
    make_learners_small_here(monkeypatch)
    data, network = dataset(240), started()
    found = compare(
        SHAPE, data, SETTINGS, 3, Parameters.of(network), steps=40, federated_history=[],
        report=lambda done, total: None, stacking=True, others=network.trunk_values(),
    )  # fmt: skip
    assert found.stacked is not None
    sides = found.stacked.stack.sides(data.inputs.rows(data.test))
    assert np.isfinite(sides["stack"][:, 0]).all()


def test_a_directory_predicts_explains_and_knows_its_signs(tmp_path: Path) -> None:
    policy, endpoint = FeatureRule(bits=128), AssayEndpoint(name="size", head="shared")
    shape = Architecture(
        inputs=policy.width, descriptors=len(descriptor_constants()), hidden=(8, 4), endpoints=(endpoint,),
        trunk="projected", projection=32, seed=11,
    )  # fmt: skip
    own = Parameters.of(started(shape))
    models = dict.fromkeys(("local", "federated", "personalised"), (own.trunk, own.private))
    card = Card(shape, policy, trunk_reference_hash(policy, shape), {"size": "local"}, {}, {})
    write_model(tmp_path, card, models)
    answers = load_model(tmp_path).predictions(["CCO", "OCC", "c1ccccc1"])
    assert answers[0].values == pytest.approx(answers[1].values)
    assert answers[0].values != pytest.approx(answers[2].values, rel=1e-3)
    (assay,) = load_model(tmp_path).explain("CCO").assays.values()
    assert np.isfinite(assay.contributions).all()
    write_model(tmp_path, Card(shape.changed(seed=12), policy, card.reference_hash, {"size": "local"}, {}, {}), models)
    with pytest.raises(ConfigError, match="computes different features"):
        load_model(tmp_path)


def test_the_reference_hash_knows_seed_and_width() -> None:
    policy, usual = FeatureRule(bits=512), ModelRule(trunk="projected", seed=1)
    found = {
        trunk_reference_hash(policy, model)
        for model in (usual, usual.changed(seed=2), usual.changed(projection=64), ModelRule(seed=1))
    }
    assert len(found) == 4
    assert trunk_reference_hash(policy, usual.changed(hidden=(3,))) in found


def test_a_projection_that_widens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.projection is 64, and the fingerprint has 64 positions"):
        trunk_layout(SHAPE.changed(projection=64))


def test_charters_from_before_keep_their_id() -> None:
    assert "projection" not in ModelRule().model_dump()
    assert ModelRule(projection=64).model_dump()["projection"] == 64
    assert ModelRule.model_validate(ModelRule(trunk="projected").model_dump()).projection == 256
