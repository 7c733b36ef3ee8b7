"""Four real silos (`silos.py`): what the projected trunk and sealed sums cost, against the full trunk and the ledger.

    found = sealed_against_clear(Path("public"), seeds=3, cache=Path("/tmp/cache"))
    found["silos_stack_change_vs_clear_points"]

Stacks are compared by their change of MAE against the best local stack of the clear federation, in percent, mean of the
pairs of silo and assay endpoint and of seeds: points above 0 are what sealing costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import silos
from benchmarks.parts.measure import say
from benchmarks.parts.silos_data import datasets, read_silos
from benchmarks.parts.stacked import change_pct
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.learn.stack.sides import BEST_LOCAL, STACK

PROJECTED = ["--trunk", "projected", "--hidden", "128", "64"]
EXCHANGES = {"clear": [], "projected": PROJECTED, "sealed": [*PROJECTED, "--sealed"]}
"""Options of `silos.py`; `projected` tells the trunk's part from that of the sums."""

Pairs = Mapping[tuple[str, str], Mapping[str, float]]


def sealed_against_clear(data: Path, seeds: int, cache: Path, *, smoke: bool = False) -> dict[str, Any]:
    """Figures, and the stacks' changes by seed.

    Args:
        data: directory of the public files.
        seeds: from 0 on.
        cache: of structures.
        smoke: at the smallest size.
    """
    given = {
        name: silos.command_line([str(data), "--lean", *(["--smoke"] if smoke else []), *options])
        for name, options in EXCHANGES.items()
    }
    about, files, structures = given["clear"], read_silos(data), StructureCache(cache)
    changes: dict[str, list[float]] = {name: [] for name in EXCHANGES}
    for seed in range(seeds):
        parts = datasets(files, about.per_silo, about.pool, seed, structures, about.workers)
        pairs = {name: silos.run(options, seed, parts)["pairs"] for name, options in given.items()}
        for name in EXCHANGES:
            changes[name].append(_change(pairs[name], pairs["clear"]))
        say(f"seed {seed}: " + ", ".join(f"{name} {found[-1]:+.2f} %" for name, found in changes.items()))
    means = {name: float(np.mean(found)) for name, found in changes.items()}
    return {
        "silos_stack_change_vs_clear_points": means["sealed"] - means["clear"],
        "silos_projected_change_vs_clear_points": means["projected"] - means["clear"],
        "silos_stack_change_pct": changes,
    }


def _change(pairs: Pairs, clear: Pairs) -> float:
    """Of the stacks against the best local ones of the clear federation, %, mean of the pairs."""
    return float(np.mean([change_pct(pairs[key][STACK], clear[key][BEST_LOCAL]) for key in clear]))
