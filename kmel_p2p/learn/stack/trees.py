"""Trees as plain arrays: what scikit-learn grew, without scikit-learn, pickle or code.

scikit-learn compares float32 features with float64 thresholds. Rounding a threshold down to float32 moves no feature
across it, so every compound reaches the same leaf.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.stack.stored import Tensors, damaged, require

LEAF = -1
"""In `feature`, `left` and `right` of a node without children."""

STEPS = 1 << 21
"""Positions in trees held at once (compounds times trees): 16 MB."""

Features = NDArray[np.float32]
"""float32[n, width], one row for each compound."""


@dataclass(frozen=True, slots=True)
class TreeEnsemble:
    """Sum of trees: base + shrinkage * (sum of the leaves reached).

    Attributes:
        roots: int64[trees], first node of each tree.
        feature: int32[nodes], column to look at; `LEAF` in a leaf.
        threshold: float32[nodes]; a value at most as large goes left.
        left, right: int32[nodes], children, always after their parent.
        value: float64[nodes], what a leaf adds.
        base, shrinkage: see above.
    """

    roots: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]
    base: float
    shrinkage: float

    @classmethod
    def of(
        cls, grown: Iterable[Any], base: float, shrinkage: float, columns: NDArray[np.int64] | None = None
    ) -> TreeEnsemble:
        """From fitted scikit-learn trees with one output (`estimator.tree_`).

        Args:
            columns: where the features that they were grown on stand among all; None where they were grown on all.
        """
        parts, roots, start = [], [], 0
        for tree in grown:
            leaf = tree.children_left < 0
            nearest = tree.threshold.astype(np.float32)
            above = nearest.astype(np.float64) > tree.threshold
            threshold = np.where(above, np.nextafter(nearest, np.float32(-np.inf)), nearest)
            looked_at = tree.feature if columns is None else columns[np.where(leaf, 0, tree.feature)]
            parts.append(
                (
                    np.where(leaf, LEAF, looked_at).astype(np.int32),
                    np.where(leaf, np.float32(0), threshold).astype(np.float32),
                    np.where(leaf, LEAF, tree.children_left + start).astype(np.int32),
                    np.where(leaf, LEAF, tree.children_right + start).astype(np.int32),
                    tree.value[:, 0, 0].astype(np.float64),
                )
            )
            roots.append(start)
            start += len(leaf)
        feature, threshold, left, right, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(np.array(roots, np.int64), feature, threshold, left, right, value, base, shrinkage)

    def __call__(self, features: Features) -> NDArray[np.float64]:
        """float64[n]."""
        block = max(1, STEPS // len(self.roots))
        found = [self._block(features[start : start + block]) for start in range(0, len(features), block)]
        return np.concatenate(found) if found else np.empty(0)

    def _block(self, features: Features) -> NDArray[np.float64]:
        count = len(features)
        rows = np.repeat(np.arange(count), len(self.roots))
        nodes = np.tile(self.roots, count)
        moving = np.flatnonzero(self.feature[nodes] != LEAF)
        while len(moving):
            at = nodes[moving]
            goes_left = features[rows[moving], self.feature[at]] <= self.threshold[at]
            at = np.where(goes_left, self.left[at], self.right[at])
            nodes[moving] = at
            moving = moving[self.feature[at] != LEAF]
        sums: NDArray[np.float64] = self.value[nodes].reshape(count, -1).sum(axis=1)
        return self.base + self.shrinkage * sums

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays."""
        return {
            "roots": self.roots,
            "feature": self.feature,
            "threshold": self.threshold,
            "left": self.left,
            "right": self.right,
            "value": self.value,
            "constants": np.array([self.base, self.shrinkage]),
        }

    @classmethod
    def from_tensors(cls, tensors: Tensors, width: int, where: str) -> TreeEnsemble:
        """What `tensors` gave.

        Args:
            width: of the features.
            where: what the tensors are, for the error.

        Raises:
            ConfigError: they are damaged: a walk could leave the arrays, not end, or reach a number that is not finite.
        """
        roots = require(tensors, "roots", np.int64, (None,), where)
        nodes = len(require(tensors, "feature", np.int32, (None,), where))
        feature, left, right = (
            require(tensors, name, np.int32, (nodes,), where) for name in ("feature", "left", "right")
        )
        threshold = require(tensors, "threshold", np.float32, (nodes,), where)
        value = require(tensors, "value", np.float64, (nodes,), where)
        constants = require(tensors, "constants", np.float64, (2,), where)
        leaf, own = feature == LEAF, np.arange(nodes)
        inside = leaf | ((feature >= 0) & (feature < width))
        ends = np.where(leaf, True, (left > own) & (right > own) & (left < nodes) & (right < nodes))
        if not len(roots) or not ((roots >= 0) & (roots < nodes)).all() or not inside.all() or not ends.all():
            raise damaged(where, "a tree leads out of its nodes or features")
        return cls(roots, feature, threshold, left, right, value, float(constants[0]), float(constants[1]))
