"""100,000 structures standardised and described on all cores, beside RDKit's own calls in a plain process pool.

The plain pool (`multiprocessing.Pool` over the same chunks) makes the same RDKit calls for each molecule: parse, clean
up, largest fragment, neutralise, sanitise, InChIKey, scaffold, count Morgan fingerprint, all descriptors; it keeps
nothing, judges nothing, and gives no reason for a failure. Ours (`chem.structures.described.describe_all`) also parses
its own canonical SMILES again, keeps the order, normalises, collects everything in one table and writes the cache.
Both are timed in one run from start of the pool to its end, in alternating slices, so that other load on the machine
meets both. `ratio` is the plain pool's time over ours; `cached_per_second` is the rate of a second run, from the cache.

    python benchmarks/featurise.py DATA --molecules 100000 [--workers N] [--json]

DATA: public tables below it with a SMILES column (see docs/benchmarks.md). Distinct structures come first; if there are
fewer than asked for, random enumerations of their SMILES follow (`enumerated` says how many): the same molecules, but
neither cache nor pool can tell.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, inchi, rdFingerprintGenerator
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold

from benchmarks.parts.measure import at_least, parse, publish, this_machine
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.chem.structures.cache import StructureCache
from kmel_p2p.chem.structures.cell import MAX_SMILES
from kmel_p2p.chem.structures.described import CHUNK, describe_all
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.chem.structures.standardise import MAX_HEAVY_ATOMS

POLICY = FeatureRule()
GOALS = {"ratio": at_least(0.9)}
SMOKE: dict[str, Any] = {"molecules": 60, "workers": 1, "slices": 1}
SLICES = 4
"""Turns that the two take; each starts its pool anew, which is what a site does once."""


def gather(data: Path, wanted: int, seed: int) -> tuple[list[str], int]:
    """(SMILES, how many of them are enumerations of another one)."""
    distinct: dict[str, None] = {}
    for path in sorted(data.rglob("*.csv")):
        header = pd.read_csv(path, nrows=0).columns
        for column in header:
            if column.lower() in ("smiles", "drug", "smiles_structure_parent", "canonical_smiles"):
                cells = pd.read_csv(path, usecols=[column], dtype=str)[column].dropna()
                distinct.update(dict.fromkeys(text.strip() for text in cells))
                break
    rng = np.random.default_rng(seed)
    texts = [text for text in distinct if 0 < len(text) <= MAX_SMILES and _usable(text)]
    chosen = [texts[at] for at in rng.permutation(len(texts))[:wanted]]
    known = set(chosen)
    enumerated = 0
    while len(chosen) < wanted:
        molecule = Chem.MolFromSmiles(texts[int(rng.integers(len(texts)))])
        text = Chem.MolToRandomSmilesVect(molecule, 1, randomSeed=int(rng.integers(2**31)))[0]
        if text not in known:
            known.add(text)
            chosen.append(text)
            enumerated += 1
    return chosen, enumerated


def _usable(smiles: str) -> bool:
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    return molecule is not None and 0 < molecule.GetNumHeavyAtoms() <= MAX_HEAVY_ATOMS


def plain_chunk(smiles: Sequence[str]) -> int:
    """RDKit's calls for each molecule, results thrown away; the number that went well."""
    uncharger = rdMolStandardize.Uncharger()
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=POLICY.radius, fpSize=POLICY.bits)
    known = dict(Descriptors.descList)
    functions = [known[constant.name] for constant in descriptor_constants()]
    done = 0
    with rdBase.BlockLogs():
        for text in smiles:
            try:
                molecule = rdMolStandardize.Cleanup(Chem.MolFromSmiles(text))
                molecule = uncharger.uncharge(rdMolStandardize.FragmentParent(molecule, skipStandardize=True))
                Chem.SanitizeMol(molecule)  # a fragment has no ring information
                Chem.RemoveStereochemistry(molecule)
                Chem.MolToSmiles(molecule)
                inchi.MolToInchiKey(molecule)
                Chem.MolToSmiles(MurckoScaffold.GetScaffoldForMol(molecule))
                generator.GetCountFingerprintAsNumPy(molecule)
                np.array([function(molecule) for function in functions])
                done += 1
            except (ValueError, RuntimeError):
                continue
    return done


def plain(smiles: Sequence[str], workers: int) -> None:
    chunks = [smiles[start : start + CHUNK] for start in range(0, len(smiles), CHUNK)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(plain_chunk, chunks):
            pass


def compare(smiles: list[str], workers: int, slices: int = SLICES) -> dict[str, Any]:
    """Rates of both over the same molecules, in alternating slices."""
    seconds = {"ours": 0.0, "plain": 0.0}
    step = -(-len(smiles) // slices)
    with tempfile.TemporaryDirectory() as folder:
        cache = StructureCache(Path(folder))
        for turn in range(slices):
            part = smiles[turn * step : (turn + 1) * step]
            # Who goes first alternates too: the machine's other load may rise or fall within a turn.
            for who in ("ours", "plain") if turn % 2 else ("plain", "ours"):
                started = time.perf_counter()
                if who == "ours":
                    describe_all(part, POLICY, cache=cache, workers=workers, progress=_show)
                else:
                    plain(part, workers)
                seconds[who] += time.perf_counter() - started
        started = time.perf_counter()
        again = describe_all(smiles, POLICY, cache=cache, workers=workers)
        cached = time.perf_counter() - started
    return {
        "molecules": len(smiles),
        "refused": sum(1 for reason in again.table.reasons if reason),
        "workers": workers,
        "per_second": len(smiles) / seconds["ours"],
        "rdkit_per_second": len(smiles) / seconds["plain"],
        "ratio": seconds["plain"] / seconds["ours"],
        "cached_per_second": len(smiles) / cached,
        "computed_again": again.computed,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--molecules", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--slices", type=int, default=SLICES, help="turns that the two take")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    smiles, enumerated = gather(arguments.data, arguments.molecules, arguments.seed)
    figures = compare(smiles, arguments.workers, arguments.slices) | {"enumerated": enumerated}
    publish("Standardising and describing", machine, figures, GOALS, arguments.json)


def _show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
