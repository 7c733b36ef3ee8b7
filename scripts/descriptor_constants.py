"""Make kmel_p2p/agreement/descriptors.csv from public structures that RDKit ships (run once per change of the list).

    python scripts/descriptor_constants.py kmel_p2p/agreement/descriptors.csv

Sources inside the rdkit wheel: the 10,000 screening compounds of Data/Pains/test_data/wehi_mols.csv and the first
5,000 NCI structures of Data/NCI/first_5k.tpsa.csv. Center is the median; scale is the half-width of the central
90 %, or the standard deviation of the rare features whose central 90 % is one value.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
from rdkit import Chem, RDConfig, rdBase
from rdkit.Chem import Descriptors

# Ipc overflows on ordinary drugs (AvgIpc is its usable form); qed is a slow blend of others in the list;
# NumRadicalElectrons and the stereo counts depend on how a structure was drawn.
LEFT_OUT = {"Ipc", "qed", "NumRadicalElectrons", "NumAtomStereoCenters", "NumUnspecifiedAtomStereoCenters", "SPS"}


def structures() -> list[str]:
    data = Path(RDConfig.RDDataDir)
    screening = (data / "Pains/test_data/wehi_mols.csv").read_text(encoding="utf-8").splitlines()
    nci = (data / "NCI/first_5k.tpsa.csv").read_text(encoding="utf-8").splitlines()
    return [next((cell for cell in row if looks_like_smiles(cell)), "") for row in csv.reader(screening)] + [
        row[0] for row in csv.reader(line for line in nci if not line.startswith("#")) if row
    ]


def looks_like_smiles(cell: str) -> bool:
    return len(cell) > 4 and any(letter in cell for letter in "cCnN") and Chem.MolFromSmiles(cell) is not None


def main(target: str) -> None:
    names = [name for name, _ in Descriptors.descList if name not in LEFT_OUT]
    functions = dict(Descriptors.descList)
    with rdBase.BlockLogs():
        molecules = [m for m in map(Chem.MolFromSmiles, structures()) if m is not None and m.GetNumHeavyAtoms()]
        table = np.array([[value(functions[name], molecule) for name in names] for molecule in molecules])
    with Path(target).open("w", encoding="utf-8", newline="") as handle:
        handle.write(
            f"# From {len(molecules)} public structures bundled with RDKit; see scripts/descriptor_constants.py\n"
        )
        writer = csv.writer(handle)
        writer.writerow(["name", "center", "scale"])
        for name, column in zip(names, table.T, strict=True):
            column = column[np.isfinite(column)]
            low, center, high = np.percentile(column, [5, 50, 95])
            scale = (high - low) / 2 if high > low else float(column.std())
            writer.writerow([name, f"{center:.6g}", f"{scale if scale > 0 else 1.0:.6g}"])
    print(f"{len(names)} descriptors from {len(molecules)} structures")


def value(function: object, molecule: Chem.Mol) -> float:
    try:
        return float(function(molecule))  # type: ignore[operator]
    except (ValueError, RuntimeError, ZeroDivisionError, OverflowError):
        return math.nan


if __name__ == "__main__":
    main(sys.argv[1])
