"""Sealed rounds with differential privacy: sums move an optimiser, vectors are charged, budgets end training."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.core.effects import Message
from kmel_p2p.core.sealed.levels import made_levels
from kmel_p2p.core.sealed.masking import WORD_BITS, mask_bits, private_levels
from kmel_p2p.core.sealed.messages import Sealed
from kmel_p2p.core.sealed.own_part import SealedState, decode_own_state
from kmel_p2p.core.sealed.public_optimiser import PublicOptimiser
from kmel_p2p.core.sealed.sums import decode_sum
from kmel_p2p.core.types import SECOND
from tests.testbed.sealed_mesh import CHARTER_ID, Disk, Drift, Faults, Mesh

SITES = 4
LIMIT = private_levels(SITES)
SIZE = 60


def gradients(seed: int = 0) -> Drift:
    """Noised sums of gradients towards a target that all sites share: whole numbers within the limit."""
    rng = np.random.default_rng(seed)

    def drawn(site: int, number: int, trunk: np.ndarray) -> np.ndarray:
        noised = np.rint(2000 * (trunk - 0.5) + rng.normal(0, 300, len(trunk)))
        return np.clip(noised, -LIMIT, LIMIT).astype(np.float32)

    return drawn


def private_mesh(budget: int = 100, faults: Faults | None = None) -> Mesh:
    return Mesh(
        SITES, gradients(), size=SIZE, faults=faults, entry_limit=12, levels=LIMIT, steps_per_entry=1, pattern=1.0,
        budget=budget, learning_rate=0.05,
    )  # fmt: skip


def test_a_run_moves_the_trunk_by_steps_of_an_optimiser_and_all_agree() -> None:
    mesh = private_mesh()
    mesh.run(mesh.all_complete, 600 * SECOND)
    assert len(mesh.digests()) == 1
    trunk = mesh.site(0).trunk()
    assert np.abs(trunk).max() <= 12 * 0.05 * 1.2
    assert trunk.mean() > 0.1
    assert [mesh.site(n).charged for n in range(SITES)] == [12] * SITES


def test_a_restarted_site_comes_to_the_same_trunk() -> None:
    mesh = private_mesh()
    mesh.run(lambda: mesh.site(1).log.number >= 5, 600 * SECOND)
    mesh.restart(1)
    mesh.run(mesh.all_complete, 900 * SECOND)
    assert len(mesh.digests()) == 1
    assert mesh.site(1).charged >= 12


def test_every_vector_is_charged_before_it_leaves_also_those_of_void_rounds() -> None:
    mesh = private_mesh(faults=Faults(loss=0.1, repeat=0.1))
    sealed: dict[int, set[bytes]] = {n: set() for n in range(SITES)}
    crashed = []

    def noted(n: int, to: int, message: Message) -> Message:
        if isinstance(message, Sealed) and message.author == mesh.keys[n]:
            sealed[n].add(message.payload)
            own = decode_own_state(mesh.disks[n].own or b"", CHARTER_ID, "disk")
            assert own.sealed >= len(sealed[n])
            if n == 2 and len(crashed) < 3 and len(sealed[n]) > 2 * len(crashed):
                crashed.append(mesh.now)
                mesh.at(mesh.now + 1, lambda: mesh.restart(2))
        return message

    mesh.tamper = noted
    mesh.run(mesh.all_complete, 3000 * SECOND)
    assert len(crashed) == 3
    assert len(mesh.digests()) == 1
    for n in range(SITES):
        assert mesh.site(n).charged >= len(sealed[n])


def test_a_spent_budget_ends_training_and_survives_a_restart() -> None:
    mesh = private_mesh(budget=5)
    mesh.run(lambda: all(mesh.site(n).charged >= 5 for n in range(SITES)), 600 * SECOND)
    mesh.run(mesh.all_complete, 900 * SECOND)
    assert [mesh.site(n).log.number for n in range(SITES)] == [5] * SITES
    mesh.start(3)
    assert mesh.site(3).charged == 5
    mesh.run(mesh.all_complete, 1200 * SECOND)
    assert mesh.site(3).charged == 5


def test_who_lost_its_store_counts_every_sum_and_goes_on_from_there() -> None:
    mesh = private_mesh()
    mesh.run(lambda: mesh.site(0).log.number >= 6, 600 * SECOND)
    mesh.crash(0)
    mesh.disks[0] = Disk()
    mesh.start(0)
    mesh.run(lambda: mesh.site(0).log.number >= 6, 900 * SECOND)
    assert mesh.site(0).present.own.sealed >= mesh.site(0).log.number
    mesh.run(mesh.all_complete, 1200 * SECOND)
    assert mesh.site(0).charged >= 12
    assert len(mesh.digests()) == 1


def test_a_sum_that_the_trainer_did_not_make_is_refused() -> None:
    for wrong in (np.full(4, LIMIT + 1.0), np.array([np.nan]), np.array([-np.inf])):
        with pytest.raises(LocalError, match="noised sum"):
            made_levels(wrong.astype(np.float32), LIMIT)


@pytest.mark.parametrize("sites", range(4, 17))
def test_sums_of_all_sites_fit_a_word(sites: int) -> None:
    assert mask_bits(sites, private_levels(sites)) <= WORD_BITS
    assert mask_bits(sites, private_levels(sites) + 1) > WORD_BITS


def test_the_optimiser_is_adam_with_a_rate_that_falls_to_a_twentieth() -> None:
    rng = np.random.default_rng(0)
    optimiser = PublicOptimiser(0.01, 0.1, 50, 2.0**-40)
    trunk = np.rint(rng.normal(size=20) * 2.0**40).astype(np.int64)
    first, second, values = np.zeros(20), np.zeros(20), trunk * 2.0**-40
    for step in range(60):
        total = rng.integers(-900, 900, 20)
        first, second = 0.9 * first + 0.1 * total, 0.99 * second + 0.01 * total.astype(float) ** 2
        made = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.99 ** (step + 1))) + 1)
        values = values - 0.01 * (1 - 0.95 * min(1, step / 50)) * (made + 0.1 * values)
        trunk = trunk + optimiser.change(total, trunk)
    np.testing.assert_allclose(trunk * 2.0**-40, values, rtol=1e-9)


def test_sums_read_again_give_the_same_trunk_bit_for_bit() -> None:
    mesh = private_mesh()
    mesh.run(mesh.all_complete, 600 * SECOND)
    log = mesh.rules.empty_log(mesh.base)
    for encoded in mesh.disks[0].sums:
        log.add(decode_sum(encoded))
    assert log.digest_work()() == mesh.site(0).digest_work()()


def test_states_of_before_there_was_noise_are_read() -> None:
    fields = msgpack.unpackb(SealedState(7, 5, sealed=6).encode(CHARTER_ID), raw=False)
    older = msgpack.packb([1, *fields[1:-1]], use_bin_type=True)
    assert decode_own_state(older, CHARTER_ID, "disk").sealed == 5
