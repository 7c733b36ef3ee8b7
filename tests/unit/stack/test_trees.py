"""Trees as arrays predict what scikit-learn predicts, and damaged ones are refused before they are walked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingClassifier

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.learn.stack import learners, trees
from kmel_p2p.learn.stack.trees import TreeEnsemble

RNG = np.random.default_rng(1)
COLUMNS = np.round(RNG.normal(size=(90, 12)), 1).astype(np.float32)
LABELS = COLUMNS[:, 0] + np.sin(3 * COLUMNS[:, 1])
QUERIES = np.concatenate([np.round(RNG.normal(size=(40, 12)), 1), COLUMNS[:9]]).astype(np.float32)


def forest() -> tuple[ExtraTreesRegressor, TreeEnsemble]:
    grown = ExtraTreesRegressor(20, random_state=0).fit(COLUMNS, LABELS)
    return grown, TreeEnsemble.of((tree.tree_ for tree in grown.estimators_), 0.0, 1 / 20)


def test_the_walk_equals_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    grown, own = forest()
    assert own(QUERIES) == pytest.approx(grown.predict(QUERIES), abs=1e-12)
    monkeypatch.setattr(trees, "STEPS", 60)
    assert own(QUERIES) == pytest.approx(grown.predict(QUERIES), abs=1e-12), "in blocks"
    assert own(QUERIES[:0]).shape == (0,)


def test_trees_grown_on_some_columns_find_them_among_all() -> None:
    grown = ExtraTreesRegressor(20, random_state=0).fit(COLUMNS, LABELS)
    own = TreeEnsemble.of((tree.tree_ for tree in grown.estimators_), 0.0, 1 / 20, np.arange(1, 13))
    queries = np.pad(QUERIES, ((0, 0), (1, 1)), constant_values=9)
    assert own(queries) == pytest.approx(grown.predict(QUERIES), abs=1e-12)


@pytest.mark.parametrize(("rows", "needed"), [(20, 1), (100, 2), (250, 5), (5000, 5)])
def test_a_column_has_to_differ_in_some_compounds(rows: int, needed: int) -> None:
    columns = np.full((rows, 3), 7, np.float32)
    columns[: needed - 1, 1] = 0
    columns[:needed, 2] = 0
    assert learners.varied_columns(columns).tolist() == [2]
    assert learners.varied_columns(columns[:, :1]).tolist() == [0], "trees need a column"


def test_a_value_on_a_threshold_goes_where_scikit_learn_sends_it() -> None:
    """Thresholds lie between float32 numbers; rounded up, the upper neighbour would change sides."""
    low = np.float32(64.0)
    high = np.nextafter(low, np.float32(65))
    columns = np.array([[low], [high]] * 4, np.float32)
    grown = GradientBoostingClassifier(n_estimators=3, max_depth=1).fit(columns, [0, 1] * 4)
    own = TreeEnsemble.of((stage[0].tree_ for stage in grown.estimators_), 0.0, 0.1)
    assert own(columns) == pytest.approx(grown.decision_function(columns))
    assert own(columns[:1])[0] < own(columns[1:2])[0]


@pytest.mark.parametrize("classes", [False, True])
def test_boosting_starts_where_scikit_learn_starts(classes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import ensemble

    labels = (LABELS > 0.5).astype(float) if classes else LABELS.astype(float)
    made = []

    def kept(kind: type) -> Callable[..., object]:
        def make(**settings: object) -> object:
            made.append(kind(**settings))
            return made[-1]

        return make

    name = "GradientBoostingClassifier" if classes else "GradientBoostingRegressor"
    monkeypatch.setattr(ensemble, name, kept(getattr(ensemble, name)))
    own = learners._boosting(COLUMNS, np.arange(12), labels, classes, 3)
    expected = made[0].decision_function(QUERIES) if classes else made[0].predict(QUERIES)
    assert own(QUERIES) == pytest.approx(expected, abs=1e-9)


def test_tensors_come_back_bit_for_bit() -> None:
    _, own = forest()
    again = TreeEnsemble.from_tensors(own.tensors(), 12, "trees")
    assert np.array_equal(again(QUERIES), own(QUERIES))


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("left", 0, 0),  # a loop
        ("right", 0, 10**6),
        ("feature", 0, 12),
        ("feature", 0, -2),
        ("roots", 0, -1),
        ("value", 3, np.nan),
        ("threshold", 0, np.inf),
    ],
)
def test_a_damaged_tree_is_refused(name: str, at: int, value: float) -> None:
    tensors = {key: tensor.copy() for key, tensor in forest()[1].tensors().items()}
    tensors[name][at] = value
    with pytest.raises(ConfigError, match="is damaged"):
        TreeEnsemble.from_tensors(tensors, 12, "trees")


def test_a_missing_or_misshapen_array_is_refused() -> None:
    tensors = forest()[1].tensors()
    with pytest.raises(ConfigError, match="value is missing"):
        TreeEnsemble.from_tensors({k: v for k, v in tensors.items() if k != "value"}, 12, "trees")
    with pytest.raises(ConfigError, match="value is float32"):
        TreeEnsemble.from_tensors(tensors | {"value": tensors["value"].astype(np.float32)}, 12, "trees")
    with pytest.raises(ConfigError, match="left is int32"):
        TreeEnsemble.from_tensors(tensors | {"left": tensors["left"][1:]}, 12, "trees")
