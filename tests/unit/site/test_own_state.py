"""The trainer's state beside the own entries: the books balance, and what would unbalance them is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Basis, Entry, create
from kmel_p2p.core.roster_vector import NOTHING
from kmel_p2p.delta import CodecParameters, DeltaCodec
from kmel_p2p.delta.layout import Layout, TensorSpec
from kmel_p2p.learn.tensor_file import read_state, write_state
from kmel_p2p.learn.train.balance import BINS, sums, sums_of
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.own_state import GAP_SHARE, own_entries, own_state
from kmel_p2p.site.state.store import STORE_NAME, Store

LAYOUT = Layout([TensorSpec("weight", (37, 41), 0.1)])
CODEC = DeltaCodec(LAYOUT, CodecParameters(chunk=256, kept=16, bits=2))
NORTH = Identity(bytes([1]) * 32)


class OneSite:
    """A site's store with five entries made by error feedback, and the state file of the newest."""

    def __init__(self, folder: Path) -> None:
        self.site = cast(
            Site,
            SimpleNamespace(
                identity=NORTH,
                layout=CODEC.layout,
                charter=SimpleNamespace(ledger=CODEC.parameters),
                config=SimpleNamespace(site=SimpleNamespace(state_dir=folder)),
            ),
        )
        self.store = Store(folder / STORE_NAME)
        rng = np.random.default_rng(3)
        self.residual, self.drift = np.zeros(LAYOUT.size, np.float32), np.zeros(BINS)
        previous = NO_PREVIOUS
        for number in range(1, 6):
            learned = (0.01 * rng.standard_normal(LAYOUT.size)).astype(np.float32)
            self.residual += learned
            self.drift += sums(learned)
            entry = self.entry(number, previous, CODEC.encode(self.residual, None))
            self.file = folder / "trainer" / f"round-{number}.safetensors"
            self.store.append_entry(NORTH.key, number, entry.encode(), self.file.name)
            previous = entry.hash
        self.write()

    @staticmethod
    def entry(number: int, previous: bytes, payload: bytes) -> Entry:
        return create(
            NORTH, charter_id=bytes(32), number=number, previous=previous,
            basis=Basis(NOTHING, bytes(32), {}, 0), weight=1, steps=7, norm_squared=1, codec_id=1, payload=payload,
        )  # fmt: skip

    def write(self) -> None:
        values = {"round": 5, "steps": 35, "first": 1, "drift": self.drift.tolist()}
        write_state(self.file, {"residual": self.residual}, values)

    def state(self) -> Any:
        return own_state(self.site, self.store, own_entries(self.site, self.store))


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneSite]:
    made = OneSite(tmp_path)
    yield made
    made.store.close()


def test_published_plus_residual_is_what_was_learned(one: OneSite) -> None:
    state = one.state()
    assert (state.round, state.first, state.steps) == (5, 1, 35)
    assert state.residual_norm == pytest.approx(float(np.linalg.norm(one.residual)))
    assert 0 <= state.gap < GAP_SHARE / 100
    assert state.problem == ""


def test_a_lost_round_or_an_empty_residual_unbalances_the_books(one: OneSite) -> None:
    entries = own_entries(one.site, one.store)
    wrong = dict(entries)
    wrong[3] = dataclasses.replace(entries[3], payload=entries[2].payload)
    found = own_state(one.site, one.store, wrong)
    assert found is not None
    assert found.gap is not None
    assert found.gap > 100 * GAP_SHARE
    one.residual[:] = 0
    one.write()
    state = one.state()
    assert state.gap > 100 * GAP_SHARE
    assert "do not add up" in state.problem
    assert str(one.file) in state.problem


def test_where_entries_are_compacted_nothing_is_claimed(one: OneSite) -> None:
    entries = own_entries(one.site, one.store)
    del entries[1]
    state = own_state(one.site, one.store, entries)
    assert state is not None
    assert (state.gap, state.problem) == (None, "")


def test_a_missing_file_names_itself_and_the_remedy(one: OneSite) -> None:
    one.file.unlink()
    with pytest.raises(ConfigError, match=r"round-5\.safetensors.*backup"):
        one.state()


def test_sums_are_linear_and_agree_between_dense_and_sparse(one: OneSite) -> None:
    delta = CODEC.decode(own_entries(one.site, one.store)[1].payload)
    np.testing.assert_allclose(sums_of(delta), sums(delta.dense(LAYOUT.size)), atol=1e-12)
    assert sums(np.ones(BINS + 1, np.float32)).tolist() == [2.0] + [1.0] * (BINS - 1)
    tensors, _ = read_state(one.file, {"residual": (LAYOUT.size,)})
    np.testing.assert_array_equal(sums(tensors["residual"]), sums(one.residual))
