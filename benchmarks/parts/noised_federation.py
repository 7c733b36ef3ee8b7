"""Sealed rounds with differential privacy in one process: the product's noise and optimiser, without the masks.

Masks cancel in the sum, so that they change neither the trunk nor what a member sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.privacy import PrivacyRule
from kmel_p2p.core.sealed.levels import SCALE_BITS
from kmel_p2p.core.sealed.masking import private_levels
from kmel_p2p.core.sealed.public_optimiser import PublicOptimiser
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.privacy.grid import Grid
from kmel_p2p.learn.privacy.noised_sum import NoisedSum
from kmel_p2p.learn.train.dataset import Dataset

WEIGHT_DECAY = 0.01


def noised_trunk(
    shape: Architecture,
    datasets: Sequence[Dataset],
    rule: PrivacyRule,
    noise: float,
    rounds: int,
    *,
    seed: int = 0,
    tick: Callable[[int], None] = lambda number: None,
    watch: Callable[[int, NDArray[np.floating]], None] = lambda site, change: None,
) -> NDArray[np.float32]:
    """Train together; the final trunk, float32[d].

    Args:
        noise: sigma of the sum over all sites but those that may collude.
        rounds: of one step each.
        seed: of the initial trunk. Batches and noise come from the operating system, as the product's do.
        watch: called with each site's number and its noised sum of gradients, in units of the trunk's step; then `tick`
            with the round.
    """
    layout, limit = trunk_layout(shape), private_levels(len(datasets))
    grid = Grid.of(limit, noise, len(datasets) - rule.colluders, layout.size)
    networks = [Network(shape) for _ in datasets]
    sums = [
        NoisedSum(network, dataset, rule, grid, os.urandom) for network, dataset in zip(networks, datasets, strict=True)
    ]
    optimiser = PublicOptimiser(rule.learning_rate, WEIGHT_DECAY, rounds, 2.0**-SCALE_BITS)
    trunk = np.rint(initial_trunk(layout, seed).astype(np.float64) * 2.0**SCALE_BITS).astype(np.int64)
    for number in range(1, rounds + 1):
        total = np.zeros(layout.size, np.int64)
        for site, (network, noised) in enumerate(zip(networks, sums, strict=True)):
            network.load((trunk * 2.0**-SCALE_BITS).astype(np.float32))
            levels, _ = noised.draw()
            total += levels
            watch(site, -rule.learning_rate * levels / limit)
        trunk += optimiser.change(total, trunk)
        tick(number)
    return (trunk * 2.0**-SCALE_BITS).astype(np.float32)
