"""Federations under drafted charters: public data as a few sites would hold them, and what `charter new` drafts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click.testing
import numpy as np
import pandas as pd

from benchmarks.parts.silos_data import Table, aggregated, log10, tdc_reader
from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.split import Fold, SplitRule
from kmel_p2p.chem.dataset.partition import series_partition
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.cli.charter import new
from kmel_p2p.learn.train.dataset import Dataset, Inputs

ACTIVE_BELOW_NM = 1e4
"""10 umol/L: the catalogue's border for inhibition."""


@dataclass(frozen=True)
class Case:
    """One federation.

    Attributes:
        endpoint: its assay endpoint, as the catalogue calls it.
        laboratories: each reads its own measurements; labels are transformed values, or classes.
        sites: of each laboratory, with different chemistry (`chem.dataset.partition`).
        compounds: of each site at most, and what is announced to `charter new`.
    """

    name: str
    endpoint: str
    laboratories: tuple[Callable[[Path], Table], ...]
    sites: int
    compounds: int


def _literature_cyp3a4(data: Path) -> Table:
    """ChEMBL's CYP3A4 IC50s as classes; bounds that lie across the border are left out."""
    raw = pd.read_csv(data / "pharmabench/raw/chembl_cyp_raw_data.csv", low_memory=False)
    chosen = raw[raw["Assay Description"].astype(str).str.contains("3A4") & (raw["Standard Units"] == "nM")]
    value = pd.to_numeric(chosen["Standard Value"], errors="coerce")
    relation = chosen["Standard Relation"].fillna("=").str.strip("'\" ")
    told = ((relation == "=") | (relation.str.startswith(">") & (value >= ACTIVE_BELOW_NM))) & value.notna()
    classes = (value[told] < ACTIVE_BELOW_NM).astype(float)
    return pd.DataFrame({"smiles": chosen["Smiles"][told], "label": classes, "relation": 0}).reset_index(drop=True)


CASES = (
    Case("dili", "dili", (tdc_reader("dili"),), 4, 100),
    Case("caco2", "caco2_papp", (tdc_reader("caco2_wang", lambda values: values + 6),), 4, 200),
    Case("vdss", "vdss", (tdc_reader("vdss_lombardo", log10),), 4, 250),
    Case("herg", "herg_block", (tdc_reader("herg"),), 2, 300),
    Case("cyp3a4, two laboratories", "cyp3a4_inhibitor", (tdc_reader("cyp3a4_veith"), _literature_cyp3a4), 2, 400),
    Case("logd", "logd", (tdc_reader("lipophilicity_astrazeneca"),), 4, 1000),
    Case("ames", "ames", (tdc_reader("ames"),), 4, 1500),
    Case("solubility", "solubility", (tdc_reader("solubility_aqsoldb"),), 2, 5000),
)


def drafted(case: Case) -> Charter:
    """What `kmel-peer charter new` writes for the case, unedited."""
    return drafted_for([case.endpoint], case.sites * len(case.laboratories), case.compounds)


def drafted_for(endpoints: Sequence[str], count: int, compounds: int) -> Charter:
    """What `kmel-peer charter new` writes, unedited.

    Args:
        endpoints: as the catalogue calls them; their heads are shared.
        count: of sites.
        compounds: announced of each site.
    """
    sites = [f"--site=site-{at}={Identity(bytes([at + 1]) * 32).key.hex()}" for at in range(count)]
    wanted = [f"--endpoint={endpoint},head=shared" for endpoint in endpoints]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "charter.toml"
        arguments = ["--federation=drafted", *sites, *wanted]
        done = click.testing.CliRunner().invoke(
            new, [*arguments, f"--compounds={compounds}", f"--output={path}"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return CharterDocument.parse(path.read_text(encoding="utf-8"), str(path)).charter


def site_datasets(
    data: Path, case: Case, charter: Charter, seed: int, cache: StructureCache, workers: int = 1
) -> list[Dataset]:
    """One dataset for each site. A compound that several laboratories measured stays with the first.

    Args:
        seed: of the folds, the partition and the draw.
    """
    made: list[Dataset] = []
    taken: set[str] = set()
    split = charter.split.changed(fold_key=f"drafted {seed}")
    rng = np.random.default_rng([seed, case.compounds])
    for laboratory in case.laboratories:
        measured = laboratory(data)
        # Twice what is needed: some are refused, some known already.
        measured = measured.sample(min(len(measured), 2 * case.sites * case.compounds), random_state=rng)
        described = describe_all(list(measured["smiles"]), charter.features, cache=cache, workers=workers)
        measured["identity"] = [described.table.identities[row] for row in described.row_of]
        first = dict(zip(measured["identity"], described.row_of, strict=True))
        values = aggregated(measured[(measured["identity"] != "") & ~measured["identity"].isin(taken)])
        values = values.iloc[rng.permutation(len(values))[: case.sites * case.compounds]]
        taken |= set(values.index)
        table = described.table.take(np.array([first[identity] for identity in values.index]))
        site_of = series_partition(table, case.sites, seed) if case.sites > 1 else np.zeros(len(table), np.int64)
        for site in range(case.sites):
            rows = np.flatnonzero(site_of == site)
            labels = values["label"].to_numpy(np.float64)[rows]
            made.append(_dataset(charter.assay_endpoints[0], table.take(rows), labels, split))
    return made


def _dataset(endpoint: AssayEndpoint, table: StructureTable, transformed: np.ndarray, split: SplitRule) -> Dataset:
    folds = split.folds(table.series)
    train, valid, test = (np.flatnonzero(folds == fold) for fold in (Fold.TRAIN, Fold.VALID, Fold.TEST))
    classes = endpoint.kind == "classification"
    # Replicates that contradict each other have a median between the classes: any occurrence counts.
    labels = (transformed > 0).astype(float) if classes else (transformed - endpoint.center) / endpoint.scale
    labels = labels.astype(np.float32)[:, None]
    dataset = Dataset(
        (endpoint,), Inputs(table.counts, table.descriptors), labels, np.zeros(labels.shape, np.int8),
        train, valid, test, tuple(table.smiles),
    )  # fmt: skip
    return dataset.with_calibration(split.apart(table.series))
