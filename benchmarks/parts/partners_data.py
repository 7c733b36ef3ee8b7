"""The further sites of `partners.py`: public collections of other chemistry and assay endpoints than the four silos'.

They join in the order in which they stand here, which was fixed before anything was measured. PharmaBench's and TDC's
collections come from many laboratories; each stands for a partner that measures something else on something else.
Compounds may occur at two sites, as in life; the fold of a compound is the same at all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.parts import silos_data
from benchmarks.parts.silos_data import SILOS, Table, in_range, labelled, log10, tdc_reader
from kmel_p2p.agreement.endpoint import AssayEndpoint


def _bench(name: str, label: Callable[[pd.Series], pd.Series]) -> Callable[[Path], Table]:
    path = f"pharmabench/final_datasets/{name}_reg_final_data.csv"
    return lambda data: labelled(pd.read_csv(data / path), "Smiles_unify", "value", label)


def _clearance(name: str) -> Callable[[Path], Table]:
    read = _bench(name, lambda values: values)
    return lambda data: in_range(read(data))


def _unbound(values: pd.Series) -> pd.Series:
    """log10 of the percentage unbound, from the share bound."""
    return np.log10((100 * (1 - values)).clip(lower=0.1))


def _barrier(data: Path) -> Table:
    """Whether compounds cross the blood-brain barrier."""
    return labelled(pd.read_csv(data / "pharmabench/final_datasets/bbb_cls_final_data.csv"), "Smiles_unify", "value")


PARTNERS: dict[str, dict[str, Callable[[Path], Table]]] = {
    "cyp": {name: _bench(f"cyp_{name}", log10) for name in ("2c9", "2d6", "3a4")},
    "rodent": {"mlm": _clearance("mou_mic_cl"), "rlm": _clearance("rat_mic_cl")},
    "ppb": {"ppb": _bench("ppb", _unbound)},
    "aqueous": {"solubility": _bench("water_sol", lambda values: values - 3)},
    "caco2": {"papp": tdc_reader("caco2_wang", lambda values: values + 6)},
    "kinetics": {"vdss": tdc_reader("vdss_lombardo", log10), "half_life": tdc_reader("half_life_obach", log10)},
    "toxicity": {"ld50": tdc_reader("ld50_zhu", lambda values: -values)},
    "barrier": {"bbb": _barrier},
}
"""Site -> assay endpoint -> reader of its measurements. Solubility in nmol/L becomes umol/L, as in the silos."""

_FURTHER = {
    "2c9": (1.0, 0.8), "2d6": (1.0, 0.8), "3a4": (1.0, 0.8), "mlm": (1.5, 0.7), "rlm": (1.5, 0.7), "ppb": (0.8, 0.8),
    "papp": (0.7, 0.7),
    "vdss": (0.1, 0.6), "half_life": (0.7, 0.7), "ld50": (-2.5, 0.9),
}  # fmt: skip
ENDPOINTS = (
    silos_data.ENDPOINTS
    + tuple(
        AssayEndpoint(name=name, center=center, scale=scale, head="shared")
        for name, (center, scale) in _FURTHER.items()
    )
    + (AssayEndpoint(name="bbb", kind="classification", head="shared"),)
)
"""The silos' four, then those that only partners have; center and scale are the catalogue's or of its order."""

_AT_MOST = [*SILOS, *PARTNERS]
FEDERATIONS: dict[int, tuple[tuple[str, ...], ...]] = {
    2: (("az", "chembl"), ("biogen", "expansion")),
    4: (SILOS,),
    8: (tuple(_AT_MOST[:8]),),
    12: (tuple(_AT_MOST),),
}
"""Number of sites -> the federations of that size; together they have the four silos."""


SPARE = 1.4
"""Partners are not scored: of their measurements so many times those to train on are read, the rest is the test fold
and what is refused."""


def read_partners(data: Path, names: Collection[str], per_site: int) -> dict[str, dict[str, Table]]:
    """Site -> assay endpoint -> measurements, in the order of `PARTNERS`."""

    def some(table: Table) -> Table:
        return table.sample(min(len(table), round(SPARE * per_site)), random_state=0).reset_index(drop=True)

    return {
        name: {endpoint: some(read(data)) for endpoint, read in assays.items()}
        for name, assays in PARTNERS.items()
        if name in names
    }
