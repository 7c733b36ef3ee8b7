"""Made-up files laid out as the public ones that benchmarks read, with some of their oddities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.parts import silos_data

RINGS = ("c1ccccc1", "c1ccncc1", "c1ccoc1", "c1ccsc1", "C1CCCCC1", "C1CCNCC1", "c1ccc2ccccc2c1", "c1cnc2ccccc2c1")
MOLECULES = [f"{'C' * chain}{ring}" for ring in RINGS for chain in range(1, 6)]


def write(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)


def write_public_files(root: Path) -> Path:
    """Write them all below `root`."""
    count = len(MOLECULES)
    ramp = np.linspace(0.7, 2.5, count)
    write(
        root / "biogen/ADME_public_set_3521.csv",
        SMILES=MOLECULES,
        **{
            "LOG HLM_CLint (mL/min/kg)": [silos_data.BIOGEN_HLM_FLOOR, *ramp[1:]],
            "LOG MDR1-MDCK ER (B-A/A-B)": ramp,
            "LOG SOLUBILITY PH 6.8 (ug/mL)": [np.nan, *ramp[1:]],
        },
    )
    write(
        root / "expansionrx/expansion_data_train.csv",
        SMILES=MOLECULES,
        LogD=ramp,
        KSOL=[0.0, *10 ** ramp[1:]],
        **{"Molecule Name": [f"E-{number:07}" for number in reversed(range(count))]},
        **{"HLM CLint": [0.0, *10 ** ramp[1:]], "MLM CLint": 10**ramp},
        **{"Caco-2 Permeability Papp A>B": 10**ramp, "Caco-2 Permeability Efflux": 10**ramp},
        **dict.fromkeys(("MPPB", "MBPB", "MGMB"), 10**ramp),
    )
    half = count // 2
    for part, rows in (("train_val", slice(0, half)), ("test", slice(half, half + 5))):
        folder = root / "tdc_admet_group"
        write(folder / f"lipophilicity_astrazeneca/{part}.csv", Drug=MOLECULES[rows], Y=ramp[rows])
        limited = np.clip(10 ** ramp[rows], 6.0, 140.0)
        limited[:2] = 3.0, 150.0
        write(folder / f"clearance_microsome_az/{part}.csv", Drug=MOLECULES[rows], Y=limited)
    bench = root / "pharmabench/final_datasets"
    write(bench / "logd_reg_final_data.csv", Smiles_unify=MOLECULES, value=ramp)
    write(bench / "hum_mic_cl_reg_final_data.csv", Smiles_unify=MOLECULES, value=[6.4, *ramp[1:]])
    values = [f"{10**at:g}" for at in np.linspace(2.5, 5.5, count)]
    relations = [">" if at % 3 == 0 and at > half else "=" for at in range(count)]
    write(
        root / "pharmabench/raw/chembl_cyp_raw_data.csv",
        Smiles=MOLECULES,
        **{
            "Assay Description": ["Inhibition of CYP3A4"] * count,
            "Standard Units": ["nM"] * count,
            "Standard Relation": [f"'{relation}'" for relation in relations],
            "Standard Value": values,
        },
    )
    for name in ("cyp_2c9", "cyp_2d6", "cyp_3a4", "mou_mic_cl", "rat_mic_cl", "water_sol"):
        write(bench / f"{name}_reg_final_data.csv", Smiles_unify=MOLECULES, value=ramp)
    write(bench / "ppb_reg_final_data.csv", Smiles_unify=MOLECULES, value=ramp / 2.6)
    for part, rows in (("train_val", slice(0, count - 8)), ("test", slice(count - 8, count))):
        write(root / f"tdc_admet_group/caco2_wang/{part}.csv", Drug=MOLECULES[rows], Y=ramp[rows])
        for number, name in enumerate(("cyp2c9_veith", "cyp2d6_veith", "cyp3a4_veith")):
            classes = (np.arange(count) + number) % 2
            write(root / f"tdc_admet_group/{name}/{part}.csv", Drug=MOLECULES[rows], Y=classes[rows])
    return root
