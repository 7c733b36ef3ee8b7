"""Numbers that anchor the averaging modes: gossip factors, push-sum under loss, momentum (docs/averaging.md).

Expected values are formulas or published figures; ours must agree within the stated tolerance.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from kmel_p2p.core.pushsum.transfers import TransferSettings
from kmel_p2p.core.rounds import RoundOpened
from kmel_p2p.core.types import MILLISECOND, SECOND
from tests.support import gossip_schemes as gossip
from tests.support.pushsum_mesh import FAST, Faults, Mesh, no_drift

TRIALS = 4000


def variance_factor(step: Callable[[np.ndarray, np.random.Generator], np.ndarray], n: int, around_old: bool) -> float:
    """Mean squared distance after one round, from the mean then or (`around_old`) before, over that before."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((TRIALS, n))
    y = step(x, rng)
    centre = (x if around_old else y).mean(axis=1, keepdims=True)
    return float(((y - centre) ** 2).sum() / ((x - x.mean(axis=1, keepdims=True)) ** 2).sum())


@pytest.mark.parametrize(
    ("step", "n", "expected", "around_old"),
    [
        (gossip.one_pair, 8, 1 - 1 / 7, False),
        (gossip.one_pair, 30, 1 - 1 / 29, False),
        (lambda x, rng: gossip.groups(x, rng, 2), 12, 10 / 22, False),
        (lambda x, rng: gossip.groups(x, rng, 2), 30, 28 / 58, False),
        (lambda x, rng: gossip.groups(x, rng, 3), 30, 27 / (3 * 29), False),
        (lambda x, rng: gossip.groups(x, rng, 5), 30, 25 / (5 * 29), False),
        (lambda x, rng: gossip.el_local(x, rng, 1), 30, (1 - (28 / 29) ** 30) - 1 / 29, True),
        (lambda x, rng: gossip.el_local(x, rng, 2), 30, (1 - (27 / 29) ** 30) / 2 - 1 / 29, True),
        (lambda x, rng: gossip.el_local(x, rng, 4), 30, (1 - (25 / 29) ** 30) / 4 - 1 / 29, True),
    ],
)
def test_gossip_factors_agree_with_their_formulas(step, n, expected, around_old) -> None:  # type: ignore[no-untyped-def]
    assert variance_factor(step, n, around_old) == pytest.approx(expected, rel=0.02)


def test_the_ring_contracts_by_its_second_eigenvalue() -> None:
    expected = 1 / 3 + 2 / 3 * math.cos(2 * math.pi / 25)
    assert expected == pytest.approx(0.979055, abs=1e-6)
    x = np.random.default_rng(12).standard_normal((25, 50))
    x -= x.mean(axis=0)
    w = gossip.ring_matrix(25)
    for _ in range(400):
        x = w @ x
    assert ((w @ x) ** 2).sum() / (x**2).sum() == pytest.approx(expected**2, rel=1e-6)


SITES, UNITS = 16, 60


@pytest.mark.parametrize(("loss", "expected"), [(0.1, 2.2e-3), (0.3, 1.3e-2), (0.5, 3.7e-2)])
def test_naive_push_sum_is_biased_by_loss(loss: float, expected: float) -> None:
    # The figures are means of 40 runs of a heavy-tailed quantity: ours, of 1000, must agree within their error.
    rng = np.random.default_rng(17)
    x = rng.standard_normal((1000, SITES))
    quotients, masses = gossip.naive_push_sum(x, loss, UNITS, rng)
    bias = (quotients.mean(axis=1) - x.mean(axis=1)) ** 2 / x.var(axis=1)
    assert bias.mean() == pytest.approx(expected, abs=max(0.3 * expected, 2 * bias.std() / 40**0.5))
    # It agrees with itself, on a wrong value; and the mass runs out.
    assert np.median(quotients.var(axis=1)) < 1e-3 * np.median(bias)
    assert masses.sum(axis=1).mean() < 1


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3, 0.5])
def test_running_sums_repair_loss(loss: float) -> None:
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(SITES)
        found.append(((gossip.running_sums(x, loss, UNITS, (1, 3, 7), rng) - x.mean()) ** 2).mean() / x.var())
    assert np.mean(found) <= 1e-10


@pytest.mark.parametrize("loss", [0.1, 0.3, 0.5])
def test_our_transfers_keep_the_mean_under_loss(loss: float) -> None:
    """The real machine: Poisson rounds, random partners, loss of transfers and receipts alike."""
    clock = random.Random(13)
    x = np.random.default_rng(13).standard_normal((SITES, 20)).astype(np.float32)
    mesh = Mesh(
        [20] * SITES,
        no_drift,
        14,
        Faults(loss, most_delay=20 * MILLISECOND),
        size=20,
        initial=x,
        bits=64,
        max_lead=1000,
        age_limit=10**5,
        entry_limit=10**5,
        train_time=lambda site: int(clock.expovariate(1.0) * SECOND) + 1,
        start_sites=SITES,
        settings=dataclasses.replace(FAST, transfers=TransferSettings(SECOND, SECOND)),
    )
    # The first round of a site waits until it has heard of all others; the units count from the last one's.
    mesh.run(lambda: len({n for n, _ in mesh.seen(RoundOpened)}) == SITES, 60 * SECOND)
    mesh.run_for(UNITS * SECOND)
    trunks = np.stack([mesh.site(n).state.holding.sums / mesh.site(n).state.holding.mass for n in range(SITES)])
    distance = trunks / 2**12 - x.astype(np.float64).mean(axis=0)
    assert (distance**2).mean() / x.var(axis=0).mean() <= 1e-9
    mass, _ = mesh.totals()
    assert mass == SITES * 2**30


@pytest.mark.parametrize(
    ("momentum", "step", "expected"), [(0.5, 0.3, 0.61), (0.5, 0.7, 0.68), (0.5, 1.0, 0.77), (0.0, 1.0, 0.4545)]
)
def test_noloco_contracts_where_it_is_said_to(momentum: float, step: float, expected: float) -> None:
    assert gossip.noloco_factor(momentum, step, 12) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("momentum", "step"), [(0.9, 0.7), (0.9, 0.5), (0.7, 1.3), (0.5, 2.0)])
def test_noloco_diverges_where_it_is_said_to(momentum: float, step: float) -> None:
    assert gossip.noloco_factor(momentum, step, 12) > 1.0


@pytest.mark.parametrize(
    ("scheme", "loss", "expected"),
    [
        ("noloco", 0.0, 1.08),
        ("decoupled", 0.0, 0.88),
        ("averaged", 0.0, 0.74),
        ("noloco", 0.3, 2.28),
        ("decoupled", 0.3, 1.94),
        ("averaged", 0.3, 1.69),
    ],
)
def test_momentum_apart_from_consensus_disagrees_less(scheme: str, loss: float, expected: float) -> None:
    found = np.mean([gossip.disagreement(scheme, loss, np.random.default_rng(seed), trials=300) for seed in range(12)])
    assert found == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_our_momentum_leaves_consensus_alone(momentum: float) -> None:
    """One kick each, then none: momentum spends itself and the distance goes to zero whatever it is."""
    kicks = np.random.default_rng(15).standard_normal((8, 20)).astype(np.float32)

    def kick(site: int, number: int, trunk: np.ndarray) -> np.ndarray:
        return kicks[site] if number == 1 else np.zeros_like(trunk)

    def spread(mesh: Mesh) -> float:
        trunks = np.stack([mesh.site(n).trunk() for n in range(8)])
        return float(((trunks - trunks.mean(axis=0)) ** 2).mean())

    mesh = Mesh([20] * 8, kick, 16, size=20, bits=64, momentum=momentum, outer_step=0.1, entry_limit=10**5)
    mesh.run_for(6 * SECOND)
    early = spread(mesh)
    mesh.run_for(40 * SECOND)
    # At most 0.6 per round by mixing, or momentum squared where that is slower.
    assert spread(mesh) < early * max(0.7, 1.05 * momentum**2) ** 40
