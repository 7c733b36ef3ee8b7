"""The public files of `silos.py` as measurements of four silos: one unit per assay endpoint, assay limits declared.

HLM clearance is in uL/min/mg everywhere: Biogen and ExpansionRx report mL/min/kg of body weight, which is the same
times 45 mg of protein per g of liver (Houston 1994) and 25.7 g of liver per kg (Davies and Morris 1993). Of Biogen's
values 31 % lie on one number, the lowest the assay can tell, with no qualifier; 34 % of AstraZeneca's on 3 or 150;
ExpansionRx writes 0. They are bounds, and as everywhere in the product bounds are trained on with a one-sided loss and
not scored. Solubility is in umol/L.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import Chem
from rdkit.Chem.Descriptors import MolWt  # type: ignore[attr-defined]

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.learn.train.dataset import Dataset, Inputs

SILOS = ("az", "biogen", "expansion", "chembl")
ENDPOINTS = (
    AssayEndpoint(name="logd", center=2.0, scale=1.3, head="shared"),
    AssayEndpoint(name="hlm", center=1.3, scale=0.6, head="shared"),
    AssayEndpoint(name="efflux", center=0.5, scale=0.6, head="shared"),
    AssayEndpoint(name="solubility", center=1.5, scale=0.8, head="shared"),
)
"""Labels are log10 values (logD: as it is); centers and scales are the catalogue's or of its order."""

POLICY = FeatureRule()
VALID_FRACTION, TEST_FRACTION = 0.16, 0.2
MAX_TEST = 1000

BODY_PER_PROTEIN = np.log10(45 * 25.7 / 1000)
"""log10 of (mL/min/kg of body weight) / (uL/min/mg of protein)."""

BIOGEN_HLM_FLOOR = 0.675686709
AZ_HLM_LIMITS = (3.0, 150.0)
HLM_RANGE = (-1.0, 4.0)
"""log10 of the catalogue's valid range; PharmaBench holds values up to 10^6.4, which no microsome reaches."""

Table = pd.DataFrame
"""Columns `smiles`, `label` (not yet centered) and `relation` (-1, 0 or 1; see `Dataset.relations`)."""


def fold_key(seed: int) -> str:
    """Key of the split of one seed."""
    return f"silos {seed}"


def read_silos(data: Path) -> dict[str, dict[str, Table]]:
    """Silo -> assay endpoint -> measurements."""
    biogen = data / "biogen/ADME_public_set_3521.csv"
    expansion = data / "expansionrx/expansion_data_train.csv"
    bench = data / "pharmabench/final_datasets"
    solubility = labelled(pd.read_csv(biogen), "SMILES", "LOG SOLUBILITY PH 6.8 (ug/mL)")
    weights = [MolWt(Chem.MolFromSmiles(smiles)) for smiles in solubility["smiles"]]
    solubility["label"] += 3 - np.log10(weights)
    return {
        "az": {"logd": labelled(tdc_rows(data, "lipophilicity_astrazeneca"), "Drug", "Y"), "hlm": _az_hlm(data)},
        "biogen": {
            "hlm": _biogen_hlm(biogen),
            "efflux": labelled(pd.read_csv(biogen), "SMILES", "LOG MDR1-MDCK ER (B-A/A-B)"),
            "solubility": solubility,
        },
        "expansion": {
            "logd": labelled(pd.read_csv(expansion), "SMILES", "LogD"),
            "hlm": _expansion_hlm(expansion),
            "efflux": labelled(pd.read_csv(expansion), "SMILES", "Caco-2 Permeability Efflux", log10),
            "solubility": labelled(pd.read_csv(expansion), "SMILES", "KSOL", log10),
        },
        "chembl": {
            "logd": labelled(pd.read_csv(bench / "logd_reg_final_data.csv"), "Smiles_unify", "value"),
            "hlm": in_range(labelled(pd.read_csv(bench / "hum_mic_cl_reg_final_data.csv"), "Smiles_unify", "value")),
        },
    }


def log10(values: pd.Series) -> pd.Series:
    """NaN where there is no logarithm."""
    return np.log10(values.where(values > 0))


def labelled(
    frame: pd.DataFrame, smiles: str, column: str, label: Callable[[pd.Series], pd.Series] = lambda values: values
) -> Table:
    """The measured rows of a file, none of them a bound.

    Args:
        label: from the column's values to labels; what it makes NaN is left out.
    """
    values = pd.to_numeric(frame[column], errors="coerce")
    made = pd.DataFrame({"smiles": frame[smiles], "label": label(values.where(np.isfinite(values))), "relation": 0})
    return made.dropna().reset_index(drop=True)


def tdc_rows(data: Path, name: str) -> pd.DataFrame:
    """Both files of a TDC split, one after the other."""
    return pd.concat(pd.read_csv(data / f"tdc_admet_group/{name}/{part}.csv") for part in ("train_val", "test"))


def tdc_reader(name: str, label: Callable[[pd.Series], pd.Series] = lambda values: values) -> Callable[[Path], Table]:
    """What reads a TDC split, given the directory of all data."""
    return lambda data: labelled(tdc_rows(data, name), "Drug", "Y", label)


def in_range(table: Table) -> Table:
    """The clearances that a microsome can reach."""
    return table[table["label"].between(*HLM_RANGE)].reset_index(drop=True)


def _az_hlm(data: Path) -> Table:
    table = labelled(tdc_rows(data, "clearance_microsome_az"), "Drug", "Y")
    low, high = AZ_HLM_LIMITS
    table["relation"] = np.select([table["label"] <= low, table["label"] >= high], [-1, 1], 0)
    table["label"] = np.log10(table["label"])
    return table


def _biogen_hlm(path: Path) -> Table:
    table = labelled(pd.read_csv(path), "SMILES", "LOG HLM_CLint (mL/min/kg)")
    table["relation"] = np.where(table["label"] <= BIOGEN_HLM_FLOOR + 1e-6, -1, 0)
    table["label"] -= BODY_PER_PROTEIN
    return in_range(table)


def _expansion_hlm(path: Path) -> Table:
    """Zero means below what the assay can tell, which is the smallest value it ever gave."""
    frame = pd.read_csv(path)
    values = pd.to_numeric(frame["HLM CLint"], errors="coerce")
    lowest = max(float(values[values > 0].min()), 10 ** (HLM_RANGE[0] + BODY_PER_PROTEIN))
    frame["HLM CLint"] = values.clip(lower=lowest)
    table = labelled(frame, "SMILES", "HLM CLint", log10)
    table["relation"] = np.where(table["label"] <= np.log10(lowest) + 1e-6, -1, 0)
    table["label"] -= BODY_PER_PROTEIN
    return in_range(table)


def datasets(
    silos: dict[str, dict[str, Table]],
    per_silo: int,
    pool: int,
    seed: int,
    cache: StructureCache,
    workers: int = 1,
    endpoints: tuple[AssayEndpoint, ...] = ENDPOINTS,
) -> list[Dataset]:
    """One dataset per silo, in the order of `silos`. Compounds of AstraZeneca are no compounds of ChEMBL's.

    Args:
        per_silo: compounds per silo and assay endpoint in the training and validation folds together (four to one; of
            the latter the product keeps a part for calibration).
        pool: compounds per silo and assay endpoint to draw from.
        seed: of the split and of the draw.
    """
    split = SplitRule(fold_key=fold_key(seed), valid_fraction=VALID_FRACTION, test_fraction=TEST_FRACTION)
    made: list[Dataset] = []
    taken: set[str] = set()
    for silo in silos:
        everything = pd.concat(
            [frame.sample(min(pool, len(frame)), random_state=0).assign(endpoint=name)
             for name, frame in silos[silo].items()]
        )  # fmt: skip
        described = describe_all(list(everything["smiles"]), POLICY, cache=cache, workers=workers)
        table = described.table
        everything["row"] = described.row_of
        everything["identity"] = [table.identities[row] for row in described.row_of]
        everything = everything[everything["identity"] != ""]
        if silo == "chembl":
            everything = everything[~everything["identity"].isin(taken)]
        if silo == "az":
            taken = set(everything["identity"])
        everything["fold"] = split.folds([table.series[row] for row in everything["row"]])
        rng = np.random.default_rng([seed, len(made)])
        made.append(_dataset(everything, table, per_silo, split, rng, endpoints))
    return made


def _dataset(
    everything: pd.DataFrame,
    table: StructureTable,
    per_silo: int,
    split: SplitRule,
    rng: np.random.Generator,
    endpoints: tuple[AssayEndpoint, ...],
) -> Dataset:
    sizes = {0: per_silo - per_silo // 5, 1: per_silo // 5, 2: MAX_TEST}
    rows = everything.drop_duplicates("identity").set_index("identity")
    place = {identity: at for at, identity in enumerate(rows.index)}
    labels = np.full((len(rows), len(endpoints)), np.nan, np.float32)
    relations = np.zeros((len(rows), len(endpoints)), np.int8)
    for column, endpoint in enumerate(endpoints):
        values = aggregated(everything[everything["endpoint"] == endpoint.name])
        folds = rows.loc[values.index, "fold"]
        for number, size in sizes.items():
            members = values[folds == number]
            chosen = members.iloc[rng.permutation(len(members))[:size]]
            cells = [place[identity] for identity in chosen.index]
            labels[cells, column] = (chosen["label"] - endpoint.center) / endpoint.scale
            relations[cells, column] = chosen["relation"]
    used = np.flatnonzero(np.isfinite(labels).any(axis=1))
    part = table.take(rows["row"].to_numpy()[used])
    fold = rows["fold"].to_numpy()[used]
    train, valid, test = (np.flatnonzero(fold == number) for number in (0, 1, 2))
    inputs = Inputs(part.counts, part.descriptors)
    dataset = Dataset(endpoints, inputs, labels[used], relations[used], train, valid, test, tuple(part.smiles))
    return dataset.with_calibration(split.apart(part.series))


def aggregated(measurements: Table) -> pd.DataFrame:
    """Median of replicates by identity; a bound only where every replicate is one."""
    groups = measurements.groupby("identity")
    low, high = groups["relation"].min(), groups["relation"].max()
    return pd.DataFrame({"label": groups["label"].median(), "relation": low.where(low == high, 0)})
