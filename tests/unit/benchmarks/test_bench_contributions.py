"""Contributions against Crippen's: what is compared, and that every way of masking is asked."""

from __future__ import annotations

import pytest
from rdkit import Chem

from benchmarks.contributions import MODELS, WAYS, crippen, measure

TRAIN = [f"{'C' * length}{end}" for length in range(3, 11) for end in ("O", "N", "Cl", "c1ccccc1")]


def test_hydrogens_count_with_their_atom() -> None:
    from rdkit.Chem import Crippen

    molecule = Chem.MolFromSmiles("CCOc1ccccc1N")
    assert crippen(molecule).sum() == pytest.approx(Crippen.MolLogP(molecule))  # type: ignore[attr-defined]


def test_every_model_is_asked_in_every_way() -> None:
    found = measure(TRAIN, ["CCCCOCC", "C"])
    assert found["median_correlation"].keys() == MODELS.keys()
    for by_way in found["median_correlation"].values():
        assert by_way.keys() == set(WAYS)
        assert all(-1 <= value <= 1 for value in by_way.values())
