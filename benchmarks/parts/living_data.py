"""The public files of `living.py` as what companies measure in the course of a year: a start, and drops of new data.

ExpansionRx measures in the order of its molecule numbers; the three other silos of `silos_data.py`, and the site that
joins later, in a seeded order. What is measured with units, limits and bounds is said there.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import Chem
from rdkit.rdBase import BlockLogs

from benchmarks.parts.partners_data import read_partners
from benchmarks.parts.silos_data import Table, aggregated, read_silos

NEWCOMER = "aqueous"
"""PharmaBench's aqueous solubilities: a company that joins later, and measures one of the four assay endpoints."""

BOUNDS = {-1: "<", 0: "", 1: ">"}
"""How a relation is written before its value."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Compounds that a site makes and measures at one time.

    Attributes:
        smiles: of each compound.
        cells: assay endpoint -> what is measured of each, as a file has it; empty where nothing is. Of every assay
            endpoint of the charter, also those that this site does not measure.
    """

    smiles: Sequence[str]
    cells: Mapping[str, Sequence[str]]

    def write(self, path: Path, *, append: bool = False) -> None:
        """Write a wide CSV file, or add to one."""
        with path.open("a" if append else "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if not append:
                writer.writerow(["smiles", *self.cells])
            for smiles, *cells in zip(self.smiles, *self.cells.values(), strict=True):
                writer.writerow([smiles, *cells])

    def write_structures(self, path: Path) -> None:
        """Write the compounds alone: what is asked before anything is measured."""
        path.write_text("\n".join(["smiles", *self.smiles, ""]), encoding="utf-8")


def year(
    data: Path, seed: int, start: int, drop: int, drops: int, sites: Collection[str], endpoints: Sequence[str]
) -> dict[str, list[Drop]]:
    """Site -> what it has at the start, then each drop; the newcomer last.

    Args:
        sites: founders.
        endpoints: those of the charter; what else is measured is left out.
        seed: of every order but ExpansionRx's.
        start, drop: compounds.
        drops: after the start.
    """
    silos = read_silos(data)
    places = {name: at for at, name in enumerate((*silos, NEWCOMER))}
    silos |= read_partners(data, [NEWCOMER], start + drops * drop)
    with BlockLogs():
        taken = {_canonical(smiles) for table in silos["az"].values() for smiles in table["smiles"]}
        found = {}
        for name in (*sites, NEWCOMER):
            wide = _wide(silos[name], endpoints)
            order = np.random.default_rng([seed, places[name]]).permutation(len(wide))
            if name == "expansion":
                order = _by_number(data, wide, start + drops * drop)
            elif name == "chembl":
                order = np.array([row for row in order if _canonical(wide.index[row]) not in taken])
            found[name] = [_drop(wide.iloc[rows]) for rows in _parts(order, start, drop, drops)]
    return found


def _parts(order: np.ndarray, start: int, drop: int, drops: int) -> list[np.ndarray]:
    """As many parts as asked for, none of them empty: small files give smaller ones."""
    scale = min(1.0, len(order) / (start + drops * drop))
    ends = np.floor(scale * (start + drop * np.arange(drops + 1))).astype(int)
    return [order[first:last] for first, last in zip([0, *ends[:-1]], ends, strict=True)]


def _wide(tables: Mapping[str, Table], endpoints: Sequence[str]) -> pd.DataFrame:
    """Cells by SMILES and assay endpoint; those of a silo that measures only some of them are empty for the rest."""
    columns = {}
    for endpoint in endpoints:
        if endpoint in tables:
            values = aggregated(tables[endpoint].rename(columns={"smiles": "identity"}))
            cells = [
                f"{BOUNDS[relation]}{label:.7g}"
                for relation, label in zip(values["relation"].tolist(), values["label"].tolist(), strict=True)
            ]
            columns[endpoint] = pd.Series(cells, values.index)
    return pd.DataFrame(columns).fillna("").reindex(columns=list(endpoints), fill_value="").sort_index()


def _by_number(data: Path, wide: pd.DataFrame, count: int) -> np.ndarray:
    """Rows in the order of molecule numbers, thinned evenly over all of it."""
    frame = pd.read_csv(data / "expansionrx/expansion_data_train.csv")
    numbers = frame["Molecule Name"].str.extract(r"(\d+)", expand=False).astype(int)
    number = dict(zip(frame["SMILES"], numbers, strict=True))
    order = np.argsort([number[smiles] for smiles in wide.index], kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).astype(int))]


def _drop(rows: pd.DataFrame) -> Drop:
    return Drop(list(rows.index), {name: list(rows[name]) for name in rows.columns})


def _canonical(smiles: str) -> str:
    molecule = Chem.MolFromSmiles(smiles)
    return smiles if molecule is None else Chem.MolToSmiles(molecule)
