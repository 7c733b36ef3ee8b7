"""What `benchmarks/living.py` reads and computes, without its peers."""

from __future__ import annotations

from pathlib import Path

import pytest
from rdkit import Chem

from benchmarks.living import entries_needed, moved
from benchmarks.parts.living_data import NEWCOMER, Drop, year
from benchmarks.parts.silos_data import SILOS
from tests.support.public_files import MOLECULES, write_public_files


def test_drops_follow_molecule_numbers_share_no_compound_and_leave_another_silos_out(tmp_path: Path) -> None:
    found = year(write_public_files(tmp_path), 3, 20, 5, 3, SILOS, ("logd", "solubility"))
    assert list(found) == [*SILOS, NEWCOMER]
    for drops in found.values():
        compounds = [smiles for drop in drops for smiles in drop.smiles]
        assert len(drops) == 4
        assert len(compounds) == len(set(compounds))
    newest_last = [smiles for drop in found["expansion"] for smiles in drop.smiles]
    places = [MOLECULES.index(smiles) for smiles in newest_last]
    assert places == sorted(places, reverse=True), "the file has its molecule numbers the other way round"
    canonical = {
        name: {Chem.CanonSmiles(smiles) for drop in found[name] for smiles in drop.smiles} for name in ("az", "chembl")
    }
    assert not canonical["az"] & canonical["chembl"]
    assert not any(found["az"][0].cells["solubility"])
    assert year(tmp_path, 3, 20, 5, 3, SILOS, ("logd", "solubility")) == found
    assert year(tmp_path, 4, 20, 5, 3, SILOS, ("logd", "solubility"))["biogen"] != found["biogen"]


def test_a_drop_is_a_file_as_a_partner_would_have_it(tmp_path: Path) -> None:
    drop = Drop(["CCO", "CCN"], {"logd": ["<1.5", ""], "hlm": ["", "2"]})
    drop.write(tmp_path / "own.csv")
    Drop(["CCC"], {"logd": ["3"], "hlm": [""]}).write(tmp_path / "own.csv", append=True)
    assert (tmp_path / "own.csv").read_text().split() == ["smiles,logd,hlm", "CCO,<1.5,", "CCN,,2", "CCC,3,"]


def test_entries_are_counted_to_the_error_of_a_federation_from_nothing() -> None:
    scratch = {"north": {0: {"logd": 4.0}, 1: {"logd": 1.0}, 2: {"logd": 2.0}}}
    found = entries_needed({"north": {-1: {"logd": 9.0}, 0: {"logd": 3.0}, 1: {"logd": 1.5}}}, scratch)
    assert (found["entries_to_last_error"], found["reached"]) == (1, True)
    assert found["entries_to_last_error_ratio"] == 0.5
    assert found["error_by_entry"] == {"continued": [1.5, 0.75], "from_nothing": [2.0, 0.5, 1.0]}
    never = entries_needed({"north": {0: {"logd": 3.0}, 1: {"logd": 2.5}}}, scratch)
    assert (never["entries_to_last_error"], never["reached"]) == (2, False)


@pytest.mark.parametrize(("second", "count"), [({"CCO": True, "CCN": False}, 0), ({"CCO": False, "CCN": True}, 2)])
def test_a_compound_that_was_held_out_once_and_trained_on_later_has_moved(second: dict[str, bool], count: int) -> None:
    assert moved([{"north": {"CCO": True, "CCN": False}}, {"north": second, "west": {"CCN": True}}]) == count
