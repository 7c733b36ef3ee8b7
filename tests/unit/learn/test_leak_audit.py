"""What entries show: positions that moved, compounds that rank high, and the figures that say how right that is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.learn.audit.first_layer_view import FirstLayerView, weakest_energies
from kmel_p2p.learn.audit.own_entries import LeakAudit
from kmel_p2p.learn.audit.ranking import auroc, found_at
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.models.projection import scaled
from tests.support.learn_fixtures import BITS, DESCRIPTORS, architecture, dataset

PLAIN = architecture().changed(descriptors=DESCRIPTORS)
PROJECTED = PLAIN.changed(trunk="projected", projection=16)


def change_of(shape: object, **weights: np.ndarray) -> np.ndarray:
    """A change of the trunk that is zero but for these tensors (`first`: the first layer's weights)."""
    layout = trunk_layout(shape)  # type: ignore[arg-type]
    flat = np.zeros(layout.size, np.float32)
    for name, values in weights.items():
        flat[layout.slices[f"trunk.{name}"]] = values.ravel()
    return flat


@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=30),
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 3.0]), min_size=1, max_size=30),
)
@settings(max_examples=60)
def test_the_area_is_that_of_the_curve(members: list[float], others: list[float]) -> None:
    truth = [1] * len(members) + [0] * len(others)
    assert auroc(np.array(members), np.array(others)) == pytest.approx(roc_auc_score(truth, members + others))


def test_few_false_alarms_are_few() -> None:
    others = np.arange(200.0)
    assert found_at(np.array([0.0, 197.0, 198.0, 500.0]), others) == 0.5
    assert found_at(np.array([5.0]), np.array([5.0])) == 0
    assert np.isnan(found_at(others[:0], others))
    assert np.isnan(auroc(others, others[:0]))


@pytest.mark.parametrize("members", [1, 3])
def test_energies_are_those_of_columns(members: int) -> None:
    shape = PLAIN.changed(members=members)
    view, rng = FirstLayerView(shape), np.random.default_rng(0)
    weights = rng.normal(size=(members, 24, BITS + DESCRIPTORS)).astype(np.float32)
    weights[..., 7] = 0
    name = {"0.weight": weights}
    found = view.energies(view.weights(change_of(shape, **name)))
    assert found == pytest.approx((weights.reshape(-1, BITS + DESCRIPTORS)[:, :BITS] ** 2).sum(axis=0), rel=1e-5)
    assert found[7] == 0
    assert view.sparse


def test_energies_go_through_the_projection() -> None:
    view, rng = FirstLayerView(PROJECTED), np.random.default_rng(0)
    weights = rng.normal(size=(24, 16 + DESCRIPTORS)).astype(np.float32)
    found = view.energies(view.weights(change_of(PROJECTED, **{"0.weight": weights})))
    matrix = scaled(BITS, 16, PROJECTED.seed)
    assert found[3] == pytest.approx(((weights[:, :16] @ matrix[3]) ** 2).sum(), rel=1e-4)
    features = dataset().inputs.rows(np.arange(5))
    assert view.inputs(features)[:, 16:] == pytest.approx(features[:, BITS:])
    assert not view.sparse


def test_a_compound_is_judged_by_its_weakest_positions() -> None:
    energies = np.array([4.0, 3.0, 2.0, 1.0, 0.0])
    occurs = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    # A quarter of four positions is one, of five two.
    assert weakest_energies(energies, occurs) == pytest.approx([1.0, 0.5, 4.0, 0.0])
    many = np.tile(occurs, (700, 1))
    assert weakest_energies(energies, many) == pytest.approx(np.tile([1.0, 0.5, 4.0, 0.0], 700))


def test_what_is_shown_is_counted() -> None:
    data = dataset()
    own = data.inputs.bits(data.train).any(axis=0)
    looked = LeakAudit(PLAIN, data)
    assert (looked.own_bits, looked.compounds) == (int(own.sum()), 60)
    half = np.flatnonzero(own)[: own.sum() // 2]
    weights = np.zeros((24, BITS + DESCRIPTORS), np.float32)
    weights[2, half] = 0.1
    part = looked.energies(change_of(PLAIN, **{"0.weight": weights}))
    shown = looked.shown([part])
    assert (shown.bits, shown.right) == (len(half), len(half))
    assert shown.own_share == pytest.approx(len(half) / own.sum())
    bits = data.inputs.bits(data.train)
    inside = np.ones(BITS, bool)
    inside[half] = False
    assert shown.compounds == int((~(bits & inside).any(axis=1)).sum())
    weights[:] = 0.1
    all_of_it = looked.shown([part, looked.energies(change_of(PLAIN, **{"0.weight": weights}))])
    assert (all_of_it.bits, all_of_it.right, all_of_it.own_share, all_of_it.compounds) == (BITS, looked.own_bits, 1, 60)


def test_a_site_without_other_compounds_has_no_ranking() -> None:
    data = dataset()
    alone = dataclasses.replace(data, valid=data.valid[:0], test=data.test[:0])
    looked = LeakAudit(PLAIN, alone)
    shown = looked.shown([looked.energies(change_of(PLAIN))])
    assert shown.picked_auroc is shown.picked_at_1pct is None
    assert (shown.bits, shown.own_share) == (0, 0)


def test_a_trunk_over_graphs_is_not_measured() -> None:
    with pytest.raises(LocalError, match="trunk dmpnn reads molecular graphs"):
        FirstLayerView(PLAIN.changed(trunk="dmpnn"))
