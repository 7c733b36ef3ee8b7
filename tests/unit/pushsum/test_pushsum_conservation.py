"""No loss, repetition, reordering, crash or restart creates or destroys mass."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.pushsum.events import MassReceived, MassSent
from kmel_p2p.core.pushsum.journal import restore
from kmel_p2p.core.pushsum.rules import PushSumSettings
from kmel_p2p.core.rounds import RoundAbandoned
from kmel_p2p.core.types import SECOND
from tests.support.pushsum_mesh import APART, ASKING, FAST, Faults, Mesh, no_drift, start_values

CLASSES = [10, 12, 11, 13, 10, 11]
SIZE = 40
ROUGH: dict[str, Any] = {"repeat": 0.3, "most_delay": 2 * SECOND}


def wandering(site: int, number: int, trunk: np.ndarray) -> np.ndarray:
    """A drift that depends on everything, so that a slip anywhere shows."""
    rng = np.random.default_rng([site, number])
    return (0.05 * rng.standard_normal(trunk.size) - 0.01 * trunk).astype(np.float32)


def weights(mesh: Mesh) -> np.ndarray:
    return np.array([mesh.site(n).state.weight for n in range(len(mesh.sites))])


def assert_conserved(mesh: Mesh) -> None:
    """Held and under way: to the last bit what was minted and trained, minus nothing."""
    mass, sums = mesh.totals()
    assert mass == weights(mesh).sum()
    assert (sums == mesh.inputs).all()


@pytest.mark.parametrize("loss", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(("bits", "means"), [(4, FAST), (8, ASKING), (8, APART)])
def test_mass_is_exact_at_every_moment_under_loss_repetition_and_reordering(
    loss: float, bits: int, means: PushSumSettings
) -> None:
    mesh = Mesh(CLASSES, wandering, 1, Faults(loss, **ROUGH), settings=means, size=SIZE, bits=bits, age_limit=10**5)
    mesh.run(lambda: bool(weights(mesh).all()), 60 * SECOND)
    for _ in range(12):
        mesh.run_for(4 * SECOND)
        assert_conserved(mesh)
    mesh.run(mesh.all_complete, 900 * SECOND)
    assert_conserved(mesh)
    # Every transfer counted once, however often it was sent.
    received = Counter((event.sender, n, event.number) for n, event in mesh.seen(MassReceived))
    assert set(received.values()) == {1}
    assert len(received) == len(mesh.seen(MassSent)) > 60


@pytest.mark.parametrize("loss", [0.1, 0.3, 0.5])
def test_the_weighted_mean_is_exact_under_loss(loss: float) -> None:
    initial = start_values(len(CLASSES), SIZE)
    mesh = Mesh(
        CLASSES,
        no_drift,
        2,
        Faults(loss, **ROUGH),
        size=SIZE,
        initial=initial,
        bits=64,
        last_bits=64,
        age_limit=10**5,
        entry_limit=80,
        train_time=lambda site: 3 * SECOND,
    )
    mesh.run(mesh.all_complete, 2000 * SECOND)
    w = weights(mesh)
    expected = (w[:, None] * initial.astype(np.float64)).sum(axis=0) / w.sum()
    assert np.abs(mesh.mean() - expected).max() < 1e-9
    for n in range(len(CLASSES)):
        held = mesh.site(n).state.holding
        # A site knows it to the grid of its own mass.
        assert np.abs(held.sums / held.mass / 2**12 - expected).max() < 1e-9 + 2**-12 / held.mass


@pytest.mark.parametrize("bits", [4, 8])
def test_quantisation_moves_sites_but_not_the_mean(bits: int) -> None:
    initial = start_values(len(CLASSES), SIZE)
    mesh = Mesh(CLASSES, no_drift, 3, Faults(0.3, **ROUGH), size=SIZE, initial=initial, bits=bits, age_limit=10**5)
    mesh.run(mesh.all_complete, 900 * SECOND)
    w = weights(mesh)
    expected = (w[:, None] * initial.astype(np.float64)).sum(axis=0) / w.sum()
    assert np.abs(mesh.mean() - expected).max() < 1e-9
    spread = np.stack([mesh.site(n).trunk() - mesh.base for n in range(len(CLASSES))]) - expected
    assert 1e-10 < (spread**2).mean() < 1e-3 * (initial**2).mean()


@given(st.data())
@settings(deadline=None, max_examples=12)
def test_crashes_at_any_moment_lose_rounds_but_no_mass(data: st.DataObject) -> None:
    mesh = Mesh(
        CLASSES[:5],
        wandering,
        data.draw(st.integers(0, 999)),
        Faults(0.2, repeat=0.2, most_delay=SECOND),
        size=8,
        settings=data.draw(st.sampled_from([FAST, ASKING, APART])),
        age_limit=10**5,
        entry_limit=8,
    )
    mesh.run(lambda: bool(weights(mesh).all()), 60 * SECOND)
    # Let the mints become durable: mass that a crash unmakes before anyone saw it is no loss.
    mesh.run_for(3 * SECOND)
    for _ in range(data.draw(st.integers(1, 6))):
        mesh.run_for(data.draw(st.integers(1, 2 * SECOND)))
        victim = data.draw(st.integers(0, 4))
        mesh.crash(victim)
        mesh.run_for(data.draw(st.integers(1, 3 * SECOND)))
        mesh.start(victim)
    mesh.run(mesh.all_complete, 900 * SECOND)
    mass, sums = mesh.totals()
    assert mass == weights(mesh).sum()
    # What counts of the drifts is what became durable; each site's sums are those its own disk tells.
    for n in range(5):
        state = mesh.site(n).state
        again = restore(mesh.base, mesh.disks[n].state or b"", mesh.disks[n].journal, "disk")
        assert (again.holding.sums == state.holding.sums).all()
        assert again.holding.mass == state.holding.mass
        assert again.owed == state.owed == {}
        assert mesh.disks[n].own_state_file == f"round-{state.rounds}"
    received = Counter((event.sender, n, event.number) for n, event in mesh.seen(MassReceived))
    assert max(received.values()) == 1
    assert (sums == mesh.durable_inputs()).all()


def test_a_drift_that_is_no_number_ends_the_round_and_keeps_the_mass() -> None:
    def broken(site: int, number: int, trunk: np.ndarray) -> np.ndarray:
        return np.full_like(trunk, np.nan) if (site, number) == (1, 3) else wandering(site, number, trunk)

    mesh = Mesh(CLASSES, broken, 4, size=SIZE)
    mesh.run(lambda: bool(mesh.seen(RoundAbandoned)), 60 * SECOND)
    ((n, event),) = mesh.seen(RoundAbandoned)
    assert n == 1
    assert event.number == 3
    assert "no number" in event.reason
    mesh.run_for(30 * SECOND)
    assert_conserved(mesh)
    assert mesh.site(1).state.rounds == 2
    with pytest.raises(LocalError):
        mesh.site(1).state.trained(np.full(SIZE, np.inf, np.float32), 0.5, 0.5)
