"""A small leak audit before every release: the attacks find what they must find, and a mode hides what it promised.

Made-up compounds, four sites, four federations; the figures of the real audit are in docs/privacy.md.
"""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from benchmarks.parts.inprocess import federate
from benchmarks.parts.leak_views import STATISTICS, View, Watcher
from benchmarks.parts.likelihood_ratio import ratios
from benchmarks.parts.sealed_sums import SealedSums
from kmel_p2p.chem.structures.table import CountMatrix
from kmel_p2p.learn.audit.first_layer_view import FirstLayerView
from kmel_p2p.learn.audit.ranking import auroc
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.train.dataset import Dataset, Inputs
from kmel_p2p.learn.worker.plan import TrainingSettings
from tests.support.learn_fixtures import ENDPOINTS

BITS, DESCRIPTORS, SITES, EACH, FEDERATIONS, ENTRIES, STEPS = 512, 4, 4, 60, 4, 4, 8
PLAIN = Architecture(
    inputs=BITS + DESCRIPTORS, descriptors=DESCRIPTORS, hidden=(32, 16), endpoints=ENDPOINTS[:1], dropout=0.0
)
PROJECTED = PLAIN.changed(trunk="projected", projection=64)


@functools.cache
def compounds() -> tuple[Inputs, np.ndarray]:
    """240 compounds with a dozen positions each, and noisy labels."""
    rng = np.random.default_rng(0)
    counts = np.zeros((SITES * EACH, BITS), np.int64)
    for row in counts:
        row[rng.choice(BITS, 12, replace=False, p=_popularity(rng))] = rng.integers(1, 3, 12)
    descriptors = rng.normal(size=(len(counts), DESCRIPTORS)).astype(np.float32)
    labels = descriptors[:, :1] + rng.normal(size=(len(counts), 1))
    return Inputs(CountMatrix.from_rows(list(counts), BITS), descriptors), labels.astype(np.float32)


def _popularity(rng: np.random.Generator) -> np.ndarray:
    weight = 1 / (1 + np.arange(BITS)) ** 0.5
    return np.asarray(weight / weight.sum())


@functools.cache
def audited(shape: Architecture, sealed: bool) -> dict[str, float]:
    """AUROC of likelihood ratios by view, and precision and recall of bits by view A."""
    inputs, labels = compounds()
    members = np.arange(SITES * EACH).reshape(SITES, EACH)
    trained, seen, bits = [], [], []
    for seed in range(FEDERATIONS):
        rng = np.random.default_rng(seed)
        halves = [np.sort(rng.permutation(rows)[: EACH // 2]) for rows in members]
        watcher = watched(shape, sealed, inputs, labels, halves, seed)
        trained.append(np.isin(np.arange(SITES * EACH), np.concatenate(halves)))
        features = inputs.rows(np.arange(SITES * EACH))
        seen.append({name: view.statistics(features) for name, view in views(watcher).items()})
        for site, view in watcher.authors.items():
            occurs, shown = np.asarray(inputs.bits(halves[site]).any(axis=0)), np.asarray(view.energies > 0)
            bits.append((occurs[shown].mean(), shown[occurs].mean()))
    inside, found = np.stack(trained), {}
    for name in seen[0]:
        rows = members[int(name[1:])] if name != "S" else members[1:].ravel()
        scores = ratios(np.stack([one[name][rows] for one in seen]), inside[:, rows])
        found[name] = auroc(scores[inside[:, rows]], scores[~inside[:, rows]])
    if bits:
        found["precision"], found["recall"] = (float(np.mean(part)) for part in zip(*bits, strict=True))
    return found


def watched(
    shape: Architecture, sealed: bool, inputs: Inputs, labels: np.ndarray, halves: list[np.ndarray], seed: int
) -> Watcher:
    """One federation."""
    layout, none = trunk_layout(shape), np.empty(0, np.int64)
    relations = np.zeros(labels.shape, np.int8)
    data = [Dataset(shape.endpoints, inputs, labels, relations, half, none, none) for half in halves]
    settings = [
        TrainingSettings(
            batch_size=16, learning_rate=3e-3, weight_decay=0.01, seed=100 * seed + site, entry_limit=ENTRIES,
            steps_per_entry=STEPS,
        )
        for site in range(SITES)
    ]  # fmt: skip
    watcher = Watcher(FirstLayerView(shape), layout.size, 0, () if sealed else range(SITES))
    sums = SealedSums(layout.size, SITES, 3e-3, STEPS, seed) if sealed else None
    with TemporaryDirectory() as folder:
        federate(
            shape, data, settings, ENTRIES, Path(folder), tick=watcher.round_over, watch=watcher.entry, sums=sums
        )  # fmt: skip
    return watcher


def views(watcher: Watcher) -> dict[str, View]:
    return {**{f"A{site}": view for site, view in watcher.authors.items()}, "S": watcher.sums}


def author(found: dict[str, float]) -> float:
    """AUROC of view A, mean of the sites."""
    return float(np.mean([found[f"A{site}"] for site in range(SITES)]))


@pytest.mark.timeout(120)
def test_entries_of_a_perceptron_show_positions_without_error_and_members_clearly() -> None:
    found = audited(PLAIN, sealed=False)
    assert found["precision"] == 1
    assert found["recall"] > 0.8
    assert author(found) > 0.9


@pytest.mark.timeout(120)
def test_a_projection_hides_positions_and_most_of_who_is_a_member() -> None:
    found, plain = audited(PROJECTED, sealed=False), audited(PLAIN, sealed=False)
    assert found["precision"] < 0.6
    assert author(found) < 0.8
    assert found["S"] < min(author(found), plain["S"] - 0.1)


@pytest.mark.timeout(120)
def test_sealed_rounds_over_a_projection_show_no_author_and_little_of_anybody() -> None:
    found = audited(PROJECTED, sealed=True)
    assert found.keys() == {"S"}
    assert found["S"] < 0.8


def test_the_statistics_are_those_that_are_named() -> None:
    view = View.empty(FirstLayerView(PLAIN))
    rng = np.random.default_rng(1)
    change = np.zeros(trunk_layout(PLAIN).size)
    change[: 32 * (BITS + DESCRIPTORS)] = rng.normal(size=32 * (BITS + DESCRIPTORS))
    view.add(change)
    assert view.statistics(compounds()[0].rows(np.arange(3))).shape == (3, len(STATISTICS))


def test_ratios_find_a_planted_shift_and_nothing_else() -> None:
    rng = np.random.default_rng(5)
    trained = rng.random((6, 400)) < 0.5
    noise = rng.normal(size=(6, 400, 2)) + 3 * rng.normal(size=(400, 2))
    planted = noise + trained[..., None] * np.array([2.0, 0.0])
    for statistics, low, high in ((noise, 0.45, 0.55), (planted, 0.85, 1.0)):
        scores = ratios(statistics, trained)
        assert low < auroc(scores[trained], scores[~trained]) < high
    with pytest.raises(ValueError, match="3 federations"):
        ratios(noise[:3], trained[:3])
