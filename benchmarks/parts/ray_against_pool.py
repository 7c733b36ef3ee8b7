"""`kmel-peer predict` on a local Ray cluster against its own pool: the same file, and what both cost.

Processor time of all processes, sampled, so that other load meets both alike; Ray's start and its own processes count.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from benchmarks.parts.made_up_molecules import made_up_molecules
from benchmarks.parts.measure import ROOT, say
from benchmarks.predicting import networks, write_models

SAMPLE_S = 0.1

BILLION = 10**9


def ray_against_pool(molecules: int, stack: int, folder: Path) -> dict[str, Any]:
    """Figures of so many different molecules.

    Args:
        stack: molecules that the site's stack is fitted to; 0: there is none.
    """
    source, models = folder / "in.csv", folder / "model"
    smiles = list(islice(made_up_molecules(), molecules))
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "smiles"), *enumerate(smiles)])
    models.mkdir()
    write_models(models, networks(0), smiles[:: max(1, molecules // stack)] if stack else ())
    found, outputs = {}, []
    for name, options in (("pool", ()), ("ray", ("--ray", "local"))):
        say(f"predict: {name}")
        outputs.append(folder / f"{name}.csv")
        began = time.perf_counter()
        command = ["predict", source, "-o", outputs[-1], "--model-dir", models, *options]
        found[name] = processor_seconds([sys.executable, "-m", "kmel_p2p.cli.main", *map(str, command)])
        found[f"{name}_wall"] = time.perf_counter() - began
    return {
        "molecules": molecules,
        "ray_equal": outputs[0].read_bytes() == outputs[1].read_bytes(),
        "ray_over_pool": found["ray"] / found["pool"],
        "ray_cpu_s": found["ray"],
        "pool_cpu_s": found["pool"],
        "ray_wall_s": found["ray_wall"],
        "pool_wall_s": found["pool_wall"],
        "ray_core_hours_1e9": found["ray"] / molecules * BILLION / 3600,
    }


def processor_seconds(command: Sequence[str]) -> float:
    """User and system time of a command and of everything that it starts.

    Raises:
        CalledProcessError: it failed.
    """
    spent: dict[int, float] = {}
    with subprocess.Popen(command, cwd=ROOT) as running:
        known = {running.pid: psutil.Process(running.pid)}
        while running.poll() is None:
            for process in list(known.values()):
                try:
                    # Some of Ray's processes outlive their parents: each is followed on its own.
                    known.update({child.pid: child for child in process.children()} | known)
                    times = process.cpu_times()
                    spent[process.pid] = times.user + times.system
                except psutil.Error:
                    del known[process.pid]
            time.sleep(SAMPLE_S)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return sum(spent.values())
