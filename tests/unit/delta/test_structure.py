"""Structured supports: levels are a function of the support, numbering is a bijection, and clusters cost less."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta import CodecParameters, DeltaCodec, Layout, TensorSpec
from kmel_p2p.delta.structure import FLAT, LEVELS, MAX_LEVEL, Axis, Cells, MatrixStructure, _thresholds, describe

PROPERTY = settings(deadline=None, max_examples=60)


def axis_of(levels: np.ndarray) -> Axis:
    return Axis(levels, tuple(range(LEVELS)))


Grid: TypeAlias = tuple[int, int, int, np.ndarray, MatrixStructure]


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """rows, columns, chunk, which chunks are sent, any levels."""
    rows, columns, chunk = draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sent = rng.random(-(-rows * columns // chunk)) < draw(st.sampled_from([0.3, 1.0]))
    axes = [axis_of(rng.integers(-MAX_LEVEL, MAX_LEVEL + 1, n)) for n in (rows, columns)]
    described = draw(st.tuples(st.booleans(), st.booleans()))
    structure = MatrixStructure(*(axis if on else None for axis, on in zip(axes, described, strict=True)))
    return rows, columns, chunk, sent, structure


@PROPERTY
@given(grids())
def test_numbering_counts_the_cells_of_each_class_in_order(
    grid: Grid,
) -> None:
    rows, columns, chunk, sent, structure = grid
    everywhere = np.flatnonzero(np.repeat(sent, chunk)[: rows * columns])
    cells = Cells(rows * columns, columns, chunk, sent, structure)
    numbers = cells.numbers(everywhere)
    assert len(numbers) == len(structure.classes)
    assert all(found.tolist() == list(range(found.size)) for found in numbers)
    assert sum(found.size for found in numbers) == everywhere.size
    assert cells.positions(numbers).tolist() == everywhere.tolist()


@PROPERTY
@given(grids(), st.integers(0, 2**32))
def test_numbering_is_a_bijection_on_any_support(grid: Grid, seed: int) -> None:
    rows, columns, chunk, sent, structure = grid
    everywhere = np.flatnonzero(np.repeat(sent, chunk)[: rows * columns])
    some = everywhere[np.random.default_rng(seed).random(everywhere.size) < 0.2]
    cells = Cells(rows * columns, columns, chunk, sent, structure)
    assert cells.positions(cells.numbers(some)).tolist() == some.tolist()


@PROPERTY
@given(grids())
def test_numbers_beyond_a_class_are_refused(grid: Grid) -> None:
    rows, columns, chunk, sent, structure = grid
    everywhere = np.flatnonzero(np.repeat(sent, chunk)[: rows * columns])
    cells = Cells(rows * columns, columns, chunk, sent, structure)
    numbers = cells.numbers(everywhere)
    for n, found in enumerate(numbers):
        beyond = [*numbers[:n], np.append(found, found.size), *numbers[n + 1 :]]
        with pytest.raises(WireError, match="outside its tensor"):
            cells.positions(beyond)


@PROPERTY
@given(st.integers(0, 10**7), st.integers(2, 10**6))
def test_thresholds_are_the_rounded_logarithm(total: int, lines: int) -> None:
    mean = (total + 2 * lines) / lines
    for level, threshold in zip(range(1 - MAX_LEVEL, MAX_LEVEL + 1), _thresholds(total, lines), strict=True):
        exact = 2.0 ** (level - 0.5) * mean
        assert threshold == pytest.approx(math.ceil(exact), abs=1e-6 * exact)


def test_random_supports_are_flat() -> None:
    rng = np.random.default_rng(1)
    for rows, columns in ((1000, 1000), (64, 4096), (4096, 64), (200, 32)):
        positions = np.flatnonzero(rng.random(rows * columns) < 1 / 64)
        assert describe(positions, rows, columns) is not None
        assert describe(positions, rows, columns).is_flat


def test_hot_columns_and_rows_are_described() -> None:
    rng = np.random.default_rng(2)
    heat = np.where(rng.random(512) < 0.1, 0.12, 0.004)
    by_column = describe(np.flatnonzero(rng.random((512, 512)) < heat[None, :]), 512, 512)
    assert by_column.rows is None
    assert by_column.columns is not None
    assert by_column.columns.levels[heat > 0.1].min() > by_column.columns.levels[heat < 0.1].max()
    by_row = describe(np.flatnonzero(rng.random((512, 512)) < heat[:, None]), 512, 512)
    assert by_row.columns is None
    assert by_row.rows is not None


def test_vectors_and_narrow_matrices_are_flat() -> None:
    assert describe(np.arange(100), 1, 1000) is FLAT
    assert describe(np.arange(0, 3000, 3), 1000, 3) is FLAT


def test_clustered_supports_cost_less_than_random_ones() -> None:
    """A first layer of 256 neurons on fingerprints: few columns belong to features that this site has."""
    rng = np.random.default_rng(3)
    layout = Layout([TensorSpec("w", (256, 2048))])
    frequency = rng.pareto(0.8, 2048)
    codec = DeltaCodec(layout, CodecParameters())
    clustered = rng.standard_normal((256, 2048)) * np.minimum(frequency, 30.0)
    random = rng.standard_normal(layout.size)
    sizes = [len(codec.encode(x.reshape(-1).astype(np.float32))) for x in (clustered, random)]
    assert sizes[0] < 0.75 * sizes[1]
