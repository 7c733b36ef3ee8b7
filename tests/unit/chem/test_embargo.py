"""An embargo withholds a compound in every form in which a table may hold it, and says what each entry withheld."""

from __future__ import annotations

from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions
from rdkit.Chem.MolStandardize import rdMolStandardize

from kmel_p2p.agreement.columns import Column, EmbargoSection, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.measurements import Measurements

LOGD = AssayEndpoint(name="logd")
PAMOATE = "OC(=O)c1cc2ccccc2c(Cc2c(O)c(C(=O)O)cc3ccccc23)c1O"
DRUGS = {
    "olanzapine": "CN1CCN(CC1)C1=Nc2ccccc2Nc2sc(C)cc12",
    "memantine": "CC12CC3CC(C)(C1)CC(N)(C3)C2",
    "metformin": "CN(C)C(=N)NC(N)=N",
    "warfarin": "CC(=O)CC(c1ccccc1)C1=C(O)c2ccccc2OC1=O",
    "omeprazole": "COc1ccc2[nH]c(nc2c1)S(=O)Cc1ncc(C)c(OC)c1C",
    "allopurinol": "O=c1[nH]cnc2[nH]ncc12",
    "salbutamol": "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(O)=O",
    "barbital": "CCC1(CC)C(=O)NC(=O)NC1=O",
    "tetracycline": "CN(C)C1C(O)=C(C(N)=O)C(=O)C2(O)C(O)=C3C(=O)c4c(O)cccc4C(C)(O)C3CC12",
}
SALTS = ("{}.Cl", "{}.CS(O)(=O)=O", "{}.OC(=O)C(O)C(O)C(O)=O", "{}.[Na+].[Cl-]", "{}.O.O", "{}.CCO", f"{{}}.{PAMOATE}")


def forms(smiles: str) -> list[str]:
    """Stereoisomers, salts, tautomers, and salts of tautomers."""
    molecule = Chem.MolFromSmiles(smiles)
    options = StereoEnumerationOptions(maxIsomers=4)
    isomers = [Chem.MolToSmiles(isomer) for isomer in EnumerateStereoisomers(molecule, options=options)]
    enumerator = rdMolStandardize.TautomerEnumerator()
    enumerator.SetMaxTautomers(12)
    tautomers = [Chem.MolToSmiles(tautomer) for tautomer in enumerator.Enumerate(molecule)][:6]
    salts = [salt.format(smiles) for salt in SALTS]
    return [*isomers, *tautomers, *salts, f"{tautomers[-1]}.{PAMOATE}", f"{smiles}.c1ccccc1CCCl"]


def read(folder: Path, rows: list[str], listed: list[str], **policy: str) -> Measurements:
    (folder / "d.csv").write_text("smiles,D\n" + "".join(f"{row},1\n" for row in rows))
    (folder / "listed.txt").write_text("\n".join(listed) + "\n")
    source = Source(
        path=folder / "d.csv",
        smiles_column="smiles",
        columns={"logd": Column(column="D")},
        embargo=EmbargoSection(compounds=folder / "listed.txt"),
    )
    return ingest(source, [LOGD], FeatureRule.model_validate({"bits": 64, **policy}))


@pytest.mark.parametrize("policy", [{}, {"stereo": "keep", "mixtures": "largest"}])
def test_no_form_of_a_listed_drug_is_trained_on(tmp_path: Path, policy: dict[str, str]) -> None:
    rows = [form for smiles in DRUGS.values() for form in forms(smiles)]
    others = ["CC(=O)Nc1ccc(O)cc1", f"CNCCC.{PAMOATE}"]
    got = read(tmp_path, [*rows, *others], [f"{smiles}.Cl" for smiles in DRUGS.values()], **policy)
    assert got.structures.smiles == ["CC(=O)Nc1ccc(O)cc1", "CCCNC"]
    assert all(reject.reason.startswith("embargo: the compound is on the list (line ") for reject in got.rejects)
    assert sum(got.embargo_withheld.values()) == len(rows)
    assert len(got.embargo_withheld) == len(DRUGS)
    assert not got.embargo_unmatched


def test_a_listed_complex_says_nothing_about_its_ligands(tmp_path: Path) -> None:
    rows = ["CCN.N", "N[Pt](N)(Br)Br", "N[Pt](N)(Cl)Cl", "CCO"]
    got = read(tmp_path, rows, ["N[Pt](N)(Cl)Cl"])
    assert got.structures.smiles == ["CCN", "CCO"]
    assert {reject.row: reject.reason.split(" (")[0] for reject in got.rejects} == {
        3: "a metal complex",
        4: "embargo: the compound is on the list",
    }


def test_a_list_of_counter_ions_alone_is_not_understood(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: '\[Na\+\]\.\[Cl-\]' is not a SMILES or InChIKey"):
        read(tmp_path, ["CCO"], ["[Na+].[Cl-]"])
