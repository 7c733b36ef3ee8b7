"""A store that was put back from a copy: no number is used twice, and no mass is lost to repetitions."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import pytest
from numpy.typing import NDArray

from kmel_p2p.core.pushsum.averaging import PushSumAveraging
from kmel_p2p.core.pushsum.events import MassReclaimed, StoreOutdated
from kmel_p2p.core.pushsum.messages import Receipt, TransferVerdict
from kmel_p2p.core.pushsum.rules import PushSumSettings
from kmel_p2p.core.types import SECOND
from tests.support.pushsum_mesh import ASKING, FAST, SIZE, Faults, Mesh

EARLY, LATE, LIMIT = 4, 12, 24


def still(site: int, number: int, trunk: NDArray[np.float32]) -> NDArray[np.float32]:
    return (np.float32(site) - trunk) * np.float32(0.1)


def masses(mesh: Mesh) -> tuple[int, int]:
    """Held or owed, and brought in."""
    states = [site.state for site in mesh.sites if site is not None]
    held = sum(state.holding.mass + sum(owed.mass for owed in state.owed.values()) for state in states)
    return held, sum(state.weight for state in states)


def put_back(mesh: Mesh, others_away: Collection[int] = ()) -> None:
    """Site 0 runs on a copy of its disk from round `EARLY`, after round `LATE`."""
    mesh.run(lambda: mesh.site(0).state.rounds >= EARLY, 200 * SECOND)
    kept = copy.deepcopy(mesh.disks[0])
    mesh.run(lambda: mesh.site(0).state.rounds >= LATE, 400 * SECOND)
    mesh.crash(0)
    mesh.run_for(2 * SECOND)
    mesh.disks[0] = kept
    for other in others_away:
        mesh.crash(other)
    mesh.start(0)


@pytest.mark.parametrize("settings", [FAST, ASKING], ids=["sent again", "asked about"])
def test_an_image_is_noticed_by_the_first_number_that_another_site_knows(settings: PushSumSettings) -> None:
    mesh = Mesh([10] * 4, still, size=SIZE, entry_limit=LIMIT, settings=settings)
    put_back(mesh)
    before = mesh.site(0).state.life
    mesh.run(mesh.all_complete, mesh.now + 600 * SECOND)
    (told,) = [event for _, event in mesh.seen(StoreOutdated)]
    assert told.shown_by in mesh.keys[1:]
    assert mesh.site(0).state.life != before
    held, brought = masses(mesh)
    # Before, what it sent was taken for repetitions: a third was left.
    assert abs(held - brought) < brought / 4


def test_nothing_is_sent_to_a_site_before_it_said_that_it_knows_no_later_number() -> None:
    mesh = Mesh([10] * 4, still, size=SIZE, entry_limit=LIMIT)
    put_back(mesh, others_away={2, 3})
    life = mesh.site(0).state.life
    mesh.run_for(20 * SECOND)
    # Site 1 showed it, and numbers begin anew for the others as well.
    assert len(mesh.seen(StoreOutdated)) == 1
    assert mesh.site(0).state.life != life
    assert not {mesh.keys[2], mesh.keys[3]} & mesh.site(0).state.numbers.keys()
    for other in (2, 3):
        mesh.start(other)
    mesh.run(mesh.all_complete, mesh.now + 900 * SECOND)
    held, brought = masses(mesh)
    assert abs(held - brought) < brought / 4


def test_a_store_that_is_not_old_goes_on_as_it_was() -> None:
    mesh = Mesh([10] * 3, still, size=SIZE, entry_limit=LIMIT)
    mesh.run(lambda: mesh.site(0).state.rounds >= EARLY, 200 * SECOND)
    life = mesh.site(0).state.life
    mesh.crash(0)
    mesh.run_for(2 * SECOND)
    mesh.start(0)
    mesh.run(mesh.all_complete, mesh.now + 600 * SECOND)
    assert mesh.site(0).state.life == life
    assert not mesh.seen(StoreOutdated)
    assert not mesh.seen(MassReclaimed)
    held, brought = masses(mesh)
    assert held == brought


def test_a_site_that_says_it_knows_the_next_number_does_so_once_a_start() -> None:
    mesh = Mesh([10] * 3, still, size=SIZE, entry_limit=LIMIT)
    mesh.run(lambda: mesh.site(0).state.rounds >= EARLY, 200 * SECOND)
    mesh.crash(0)
    mesh.run_for(2 * SECOND)
    mesh.start(0)
    lives = set()
    for _ in range(30):
        state = mesh.site(0).state
        number = state.numbers.get(mesh.keys[1], 0) + 1
        lie = Receipt(number, state.life, TransferVerdict.APPLIED)

        def say(site: PushSumAveraging, lie: Receipt = lie) -> None:
            site.receive(mesh.keys[1], lie, mesh.now)

        mesh.feed(0, say)
        mesh.run_for(SECOND // 2)
        lives.add(mesh.site(0).state.life)
    assert len(lives) <= 2
    assert len(mesh.seen(StoreOutdated)) <= 1


def test_the_question_is_repeated_where_it_was_lost() -> None:
    mesh = Mesh([10] * 3, still, size=SIZE, entry_limit=LIMIT, faults=Faults(loss=0.4))
    put_back(mesh)
    mesh.run(lambda: bool(mesh.seen(StoreOutdated)), mesh.now + 120 * SECOND)
