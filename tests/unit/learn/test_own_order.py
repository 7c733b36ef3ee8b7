"""Where the values of a layout lie in a network that keeps some matrices by input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kmel_p2p.learn.models import own_order
from kmel_p2p.learn.models.networks import Network
from tests.support.learn_fixtures import architecture


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_places_are_those_at_which_values_are_taken(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_order, "PIECE", piece)  # matrices in several pieces, and in one
    network = Network(architecture())
    values = torch.arange(network.order.size, dtype=torch.float32)
    laid_out = network.laid_out(values)
    positions = np.random.default_rng(1).integers(network.order.size, size=200)
    places = network.order.places_of(positions)
    np.testing.assert_array_equal(values.numpy()[places], laid_out[positions])
    # They are a permutation, and not the identity.
    everywhere = network.order.places_of(np.arange(network.order.size))
    assert sorted(everywhere.tolist()) == list(range(network.order.size))
    assert everywhere.tolist() != list(range(network.order.size))
    assert network.order.places_of(np.zeros(0, np.int64)).size == 0
