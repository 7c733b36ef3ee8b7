"""The pushsum part of the store: a state replaces what was before at once, a change is appended, nothing by half."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.core.pushsum.journal import encode_change, restore
from kmel_p2p.core.pushsum.share import encode
from kmel_p2p.core.pushsum.state import Debited, Minted, PushSumState, Settled
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.stored_state import StoredState
from tests.support.stored_entries import A, Crash

CHARTER = b"c" * 32
POINTS = ["state:begin", "state:written", "state:committed", "journal:begin", "journal:written", "journal:committed"]
BASE = np.linspace(-1, 1, 40, dtype=np.float32)


def loaded(path: Path) -> StoredState | None:
    store = Store(path)
    try:
        return store.averaging.load()
    finally:
        store.close()


def test_a_state_replaces_state_and_journal_and_may_keep_the_trainers_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    kept = store.averaging
    assert kept.load() is None
    assert kept.own_state_file() is None
    kept.put_state(CHARTER, 0, b"zero", None)
    kept.append(1, b"one")
    kept.append(2, b"two")
    assert kept.load() == StoredState(CHARTER, b"zero", ((1, b"one"), (2, b"two")))
    kept.put_state(CHARTER, 3, b"three", "round-1")
    assert kept.load() == StoredState(CHARTER, b"three", ())
    kept.put_state(CHARTER, 4, b"four", None)
    assert kept.own_state_file() == "round-1"
    kept.append(5, b"five")
    store.close()
    assert loaded(tmp_path / "s") == StoredState(CHARTER, b"four", ((5, b"five"),))


def test_a_gap_in_the_journal_is_our_own_fault(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    with pytest.raises(Bug, match="does not follow"):
        store.averaging.append(1, b"before any state")
    store.averaging.put_state(CHARTER, 7, b"seven", None)
    for number in (7, 9):
        with pytest.raises(Bug, match="does not follow"):
            store.averaging.append(number, b"")
    store.close()


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_leaves_the_state_before_or_after(tmp_path: Path, point: str) -> None:
    armed = False

    def fault(at: str) -> None:
        if armed and at == point:
            raise Crash

    path = tmp_path / "s"
    store = Store(path, fault=fault)
    store.averaging.put_state(CHARTER, 0, b"zero", "round-1")
    store.averaging.append(1, b"one")
    armed = True
    write = {
        "state": lambda: store.averaging.put_state(CHARTER, 2, b"two", "round-2"),
        "journal": lambda: store.averaging.append(2, b"two"),
    }[point.partition(":")[0]]
    with pytest.raises(Crash):
        write()
    store.close()
    before = StoredState(CHARTER, b"zero", ((1, b"one"),))
    after = {
        "state:committed": StoredState(CHARTER, b"two", ()),
        "journal:committed": StoredState(CHARTER, b"zero", ((1, b"one"), (2, b"two"))),
    }
    assert loaded(path) == after.get(point, before)


@settings(deadline=None, max_examples=15)
@given(
    steps=st.lists(st.sampled_from(["send", "settle", "reclaim", "train", "fold"]), max_size=12), seed=st.integers(0)
)
def test_a_restart_at_any_moment_finds_the_same_integers(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
) -> None:
    """Also with the mass under way: what is held and owed sums to what was minted."""
    path = tmp_path_factory.mktemp("store") / "s"
    state = PushSumState.fresh(BASE, b"lifelife")
    store = Store(path)
    store.averaging.put_state(CHARTER, state.index, state.encode(), None)

    def change(made: Minted | Debited | Settled) -> None:
        state.apply(made)
        state.index += 1
        store.averaging.append(state.index, encode_change(made))

    change(Minted(1 << 14))
    for at, step in enumerate(steps):
        owed = state.owed.get(A)
        if step == "send" and owed is None:
            mass = state.holding.mass // 3
            payload, _ = encode(state.holding, mass, 4, seed % 2**64)
            change(Debited(A, state.numbers.get(A, 0) + 1, b"otherlif", mass, state.age, payload))
        elif step in ("settle", "reclaim") and owed is not None:
            change(Settled(A, owed.number, reclaimed=step == "reclaim"))
        elif step in ("train", "fold"):
            if step == "train":
                state.trained(np.full(BASE.size, 0.01, np.float32), 0.5, 0.5)
            state.index += 1
            store.averaging.put_state(CHARTER, state.index, state.encode(), f"round-{at}")
        found = store.averaging.load()
        assert found is not None
        again = restore(BASE, found.state, found.journal, "s")
        assert again.encode() == state.encode()
    store.close()
