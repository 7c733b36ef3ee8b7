"""Units as assay tables, ChEMBL and K-MELLODDY spell them; what could mean two things is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset import units
from kmel_p2p.chem.dataset.ingest import ingest
from kmel_p2p.chem.dataset.units import converter
from kmel_p2p.chem.structures.cache import StructureCache


@pytest.mark.parametrize(
    ("found", "wanted", "one"),
    [
        ("µM", "umol/L", 1), ("μM", "umol/L", 1), ("nmol/l", "umol/L", 0.001), ("pIC50", "umol/L", 1e5),
        ("pChEMBL", "umol/L", 1e5),
        ("ug.mL-1", "umol/L", 4), ("ug mL-1", "umol/L", 4), ("mg/L", "umol/L", 4),
        ("10^-6 cm/s", "10-6 cm/s", 1), ("×10⁻⁶ cm/s", "10-6 cm/s", 1), ("10'-6 cm/s", "10-6 cm/s", 1),
        ("10-6cm/s", "10-6 cm/s", 1), ("E-6 cm/s", "10-6 cm/s", 1), ("1e-6 cm/s", "10-6 cm/s", 1),
        ("cm/s", "10-6 cm/s", 1e6), ("nm/s", "10-6 cm/s", 0.1), ("10-5 cm.s-1", "10-6 cm/s", 10),
        ("uL.min-1.mg-1", "uL/min/mg", 1), ("µL/min/mg protein", "uL/min/mg", 1), ("mL.min-1.g-1", "uL/min/mg", 1),
        ("uL/min/10^6 cells", "uL/min/10^6", 1), ("µL/min/10⁶ cells", "uL/min/10^6", 1),
        ("mL/min/million hepatocytes", "uL/min/10^6", 1000), ("uL.min-1.(10^6cells)-1", "uL/min/10^6", 1),
        ("mL.min-1.kg-1", "mL/min/kg", 1), ("L/hr/kg", "mL/min/kg", 1000 / 60), ("ng·h/mL", "ng.h/mL", 1),
        ("fraction", "%", 100), ("hr", "h", 1),
    ],
)  # fmt: skip
def test_known_spellings(found: str, wanted: str, one: float) -> None:
    convert = converter(found, wanted, "t.csv")
    assert convert(np.array([1.0]), 250.0)[0] == pytest.approx(one)


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ("10e-6 cm/s", "10-6 cm/s", "10e-6 is 1e-5; write 10"),
        ("log(nM)", "umol/L", "which logarithm"),
        ("um", "umol/L", "measure different things"),
        ("mL.min-1.kg-1", "uL/min/mg", "per kg of body weight"),
        ("uL/min/mg", "uL/min/10^6", "per million cells"),
    ],
)
def test_refused_spellings(found: str, wanted: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        converter(found, wanted, "t.csv")


def test_masses_come_from_the_structures_that_are_described_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one while the file is read, 100,000 compounds took minutes at every start, with no progress to be seen."""

    def never(smiles: str, policy: FeatureRule) -> None:
        raise AssertionError(f"{smiles} was standardised apart")

    path = tmp_path / "d.csv"
    path.write_text("smiles,S,D\nCCO,46.07,\nCCN.Cl,45.08,\nCCC,,1\nC(,1,\n")
    ksol = AssayEndpoint(name="ksol", unit="umol/L", transform="log10")
    columns = {"ksol": Column(column="S", unit="ug/mL"), "logd": Column(column="D")}
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(units, "standardise", never)
    got = ingest(
        Source(path=path, smiles_column="smiles", columns=columns),
        (ksol, AssayEndpoint(name="logd")),
        FeatureRule(bits=64),
        cache=StructureCache(tmp_path),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert got.labels[:2, 0] == pytest.approx([3, 3], abs=1e-4)
    assert (3, 3) in seen
    assert [reject.reason for reject in got.rejects] == ["its unit needs the compound's mass: SMILES does not parse"]
