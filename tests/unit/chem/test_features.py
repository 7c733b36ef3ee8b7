"""Features: same molecule, same numbers; nothing explodes; the reference hash is steady."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydantic import ValidationError
from rdkit import Chem
from rdkit.Chem import Descriptors

from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.chem.structures import features
from kmel_p2p.chem.structures.features import (
    REFERENCE_MOLECULES,
    SQUASH_LIMIT,
    describe,
    normalise,
    reference_cells,
    reference_hash,
)
from kmel_p2p.chem.structures.standardise import standardise
from kmel_p2p.chem.structures.table import CountMatrix

POLICY = FeatureRule()
WIDTH = len(descriptor_constants())


def test_counts_are_counts_and_descriptors_are_bounded() -> None:
    _, molecule = standardise("CCCCCCCCCCCCCCCC(=O)O", POLICY)
    counts, descriptors = describe(molecule, POLICY)
    assert counts.shape == (POLICY.bits,)
    assert counts.max() >= 10
    assert descriptors.shape == (WIDTH,)
    assert POLICY.width == POLICY.bits + WIDTH
    assert np.abs(descriptors).max() <= SQUASH_LIMIT


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "C", "[Fe]", *REFERENCE_MOLECULES[:4]])
def test_descriptors_computed_together_are_those_of_rdkit(smiles: str) -> None:
    molecule = Chem.MolFromSmiles(smiles)
    together = features.raw_descriptors(molecule)
    known = dict(Descriptors.descList)
    assert len(features._single()) == WIDTH - 36, "three surfaces of 14, 10 and 12 bins are computed as a whole"
    alone = [features._or_nan(known[constant.name], molecule) for constant in descriptor_constants()]
    assert np.array_equal(together, alone, equal_nan=True)


def test_the_order_of_atoms_in_the_smiles_does_not_matter() -> None:
    first, second = (describe(standardise(s, POLICY)[1], POLICY) for s in ("OCCc1ccccc1", "c1ccc(cc1)CCO"))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@given(npst.arrays(np.float64, WIDTH, elements=st.floats(width=64)))
@settings(deadline=None, max_examples=60)
def test_no_descriptor_value_can_explode(raw: np.ndarray) -> None:
    normal = normalise(raw)
    assert np.isfinite(normal).all()
    assert np.abs(normal).max() <= SQUASH_LIMIT


def test_the_reference_hash_survives_noise_in_the_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reference_hash(POLICY)
    noisy = np.random.default_rng(1)

    def shaken(raw: np.ndarray) -> np.ndarray:
        return normalise(raw * (1 + noisy.uniform(-1e-9, 1e-9, raw.shape)))

    monkeypatch.setattr(features, "normalise", shaken)
    assert reference_hash(POLICY) == before


def test_the_reference_hash_shows_a_changed_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reference_hash(POLICY)
    assert reference_hash(FeatureRule(radius=3)) != before

    def changed(raw: np.ndarray) -> np.ndarray:
        raw = raw.copy()
        raw[4] *= 1.02
        return normalise(raw)

    monkeypatch.setattr(features, "normalise", changed)
    assert reference_hash(POLICY) != before


def test_reference_values_keep_clear_of_the_edges_of_their_cells() -> None:
    for smiles in REFERENCE_MOLECULES:
        _, molecule = standardise(smiles, POLICY)
        cells = reference_cells(describe(molecule, POLICY)[1])
        distance = np.abs(cells - np.round(cells)).min()
        assert distance > 5e-4, smiles


@pytest.mark.parametrize("wrong", [{"radius": 7}, {"radius": -1}, {"bits": 10}, {"bits": 70_000}])
def test_impossible_policies_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        FeatureRule(**wrong)


matrices = npst.arrays(np.int64, st.tuples(st.integers(0, 8), st.just(64)), elements=st.integers(0, 300))


@given(matrices, st.data())
@settings(deadline=None, max_examples=60)
def test_sparse_counts_are_the_dense_ones_clipped(dense: np.ndarray, data: st.DataObject) -> None:
    matrix = CountMatrix.from_rows(list(dense), 64)
    expected = np.minimum(dense, 255)
    assert np.array_equal(matrix.dense(np.arange(len(dense))), expected)
    rows = np.array(data.draw(st.lists(st.integers(0, max(0, len(dense) - 1)), max_size=9)), np.int64)
    if len(dense):
        assert np.array_equal(matrix.dense(rows), expected[rows])
        assert np.array_equal(matrix.take(rows).dense(np.arange(len(rows))), expected[rows])
    both = CountMatrix.concatenate([matrix, matrix], 64)
    assert np.array_equal(both.dense(np.arange(len(both))), np.concatenate([expected, expected]))


def test_an_rdkit_that_looks_for_its_files_elsewhere_is_told_so(tmp_path: Path) -> None:
    code = (
        "from rdkit import Chem\n"
        "from kmel_p2p.chem.structures.features import raw_descriptors\n"
        "raw_descriptors(Chem.MolFromSmiles('CCO'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "RDBASE": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"ConfigError: RDKit finds no file of its own in {tmp_path}/Data; if the environment" in done.stderr
    assert "RDBASE" in done.stderr
