"""Where training computes. Machines of the tests have no GPU: what is tested is the choice and the lower precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn import device as chosen
from kmel_p2p.learn.device import device, use_device
from kmel_p2p.learn.evaluate.comparison import start_local
from kmel_p2p.learn.evaluate.scores import fold_scores
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.train.optimise import LocalOptimiser
from tests.support.learn_fixtures import SETTINGS, architecture, dataset


@pytest.fixture(autouse=True)
def cpu_afterwards() -> Iterator[None]:
    yield
    use_device("cpu")


def trained(mixed: bool) -> Network:
    use_device("cpu", mixed)
    network = Network(architecture())
    start_local(network, architecture(), 3, 4)
    LocalOptimiser(network, dataset(300), SETTINGS).train(80, 1.0)
    return network


def test_a_gpu_is_taken_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert use_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"resources\.device is 'cuda'.*device = 'auto'"):
        use_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert use_device("auto").type == "cuda"
    assert use_device("cpu").type == device().type == "cpu"


def test_mixed_precision_learns_as_well_and_keeps_float32_parameters() -> None:
    whole, mixed = trained(False), trained(True)
    assert mixed.trunk.dtype == torch.float32
    assert not np.array_equal(whole.trunk_values(), mixed.trunk_values())
    scores = [fold_scores(dataset(300), network.predict)["logd"]["valid"] for network in (whole, mixed)]
    assert scores[1] == pytest.approx(scores[0], rel=0.1)


def test_full_precision_on_the_cpu_is_repeatable() -> None:
    assert np.array_equal(trained(False).trunk_values(), trained(False).trunk_values())


@pytest.mark.parametrize(("members", "trunk"), [(1, {}), (3, {}), (1, {"trunk": "projected", "projection": 16})])
def test_a_pass_stays_on_one_device(monkeypatch: pytest.MonkeyPatch, members: int, trunk: dict[str, object]) -> None:
    """torch's `meta` device has shapes without values, and refuses tensors of other devices as a GPU would."""
    monkeypatch.setattr(chosen._choice, "device", torch.device("meta"))
    shape = architecture().changed(members=members, calibrate=members == 1, **trunk)
    network = Network(shape)
    start_local(network, shape, 3, 4)
    outputs = network.member_outputs(network.read(dataset(30).inputs.rows(np.arange(30))), training=True)
    assert (outputs.device.type, outputs.shape) == ("meta", (members, 30, 3))
    outputs.sum().backward()
    monkeypatch.setattr(chosen._choice, "device", torch.device("cpu"))
    with pytest.raises(RuntimeError, match="meta"):
        network.forward(network.read(dataset(30).inputs.rows(np.arange(30))))
