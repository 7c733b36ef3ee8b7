"""Awkward structures against what a registry would make of them, and public data sets against the former rules.

`cases` are the structures of `--cases` (the project's shared list) and of parts/awkward_structures.csv, each with its
source; `wrong` counts those that did not become what is expected. `identity_changed` says for each data set how many of
its structures have another identity than by the rules before counter_ions.csv (parts/former_rules.py), and why.
`changed` lists the reasons with examples.

    python benchmarks/structures.py [DATA] [--cases FILE] [--json [FILE]] [--examples 3]

DATA holds tdc_admet_group, biogen, expansionrx and melloddy_tuner (see docs/benchmarks.md); without it, only the cases
are run.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from rdkit import Chem

from benchmarks.parts.former_rules import former_structure, identity
from benchmarks.parts.measure import ROOT, at_most, parse, publish, say, this_machine
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.structures.parallel import map_chunks, usable_cores
from kmel_p2p.chem.structures.parent import StructureError
from kmel_p2p.chem.structures.series import skeleton
from kmel_p2p.chem.structures.standardise import standardise

POLICY = FeatureRule()
GOALS = {"wrong": at_most(0)}
SMOKE: dict[str, Any] = {"workers": 1}
SHARED_CASES = ROOT.parent / "shared" / "cases" / "structures.csv"
DATA_SETS = {
    "tdc": "tdc_admet_group/*/*.csv",
    "biogen": "biogen/*.csv",
    "expansionrx": "expansionrx/*.csv",
    "melloddy_tuner": "melloddy_tuner/*.csv",
}
NAMED = {
    "the amine (memantine)": "CC12CC3CC(C)(C1)CC(N)(C3)C2",
    "the guanidine (metformin); never the same compound as the row above": "CN(C)C(=N)NC(N)=N",
    "olanzapine": "CN1CCN(CC1)C1=Nc2ccccc2Nc2sc(C)cc12",
    "nicotine": "CN1CCCC1c1cccnc1",
    "acetic acid": "CC(O)=O",
    "choline cation": "C[N+](C)(C)CCO",
    "anisole; counted as merged isotope": "COc1ccccc1",
}
"""Expected structures that the shared list gives by name."""


def own_cases() -> list[dict[str, Any]]:
    """parts/awkward_structures.csv, judged.

    `expected` is a SMILES; `as: SMILES`, the same compound as that one; `refused: text`, refused with that in the
    reason; or `not another substance`: kept with its heavy atoms, bonds and hydrogens less charge, or refused.
    """
    path = Path(__file__).parent / "parts" / "awkward_structures.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [_judge(row["name"], row["smiles"], row["expected"]) for row in csv.DictReader(file)]


def shared_cases(path: Path) -> list[dict[str, Any]]:
    """The shared list, judged; its words are understood by `NAMED` and a few beginnings."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_judge(row["case"], row["smiles"], _in_our_words(row["expected"])) for row in csv.DictReader(file)]


def _in_our_words(expected: str) -> str:
    if expected == "refused as a mixture":
        return "refused: mixture"
    if expected.startswith("kept"):
        return "kept"
    return NAMED.get(expected, expected)


def _judge(name: str, smiles: str, expected: str) -> dict[str, Any]:
    try:
        structure, molecule = standardise(smiles, POLICY)
    except StructureError as error:
        got = f"refused: {error}"
        ok = expected == "not another substance" or (
            expected.startswith("refused:") and expected.removeprefix("refused:").strip() in str(error)
        )
        return {"name": name, "got": got, "expected": expected, "ok": ok}
    got = structure.smiles
    if expected in ("kept", "not another substance"):
        ok = any(
            skeleton(part) == skeleton(molecule)
            for part in Chem.GetMolFrags(Chem.MolFromSmiles(smiles.split(" ")[0]), asMols=True)
        )
    elif expected.startswith("as: "):
        ok = standardise(expected.removeprefix("as: "), POLICY)[0].identity == structure.identity
    else:
        wanted = Chem.MolFromSmiles(expected)
        ok = wanted is not None and Chem.MolToSmiles(wanted) == got
    return {"name": name, "got": got, "expected": expected, "ok": ok}


def compare_chunk(smiles: Sequence[str]) -> list[tuple[str, str]]:
    """(SMILES, why its identity changed; empty where it did not) of each."""
    return [(text, _why(text)) for text in smiles]


def _why(smiles: str) -> str:
    before = former_structure(smiles)
    try:
        structure, _ = standardise(smiles, POLICY, identify=False)
    except StructureError as error:
        return f"refused: {error}".split(" (", 1)[0] if before else ""
    # Equal structures have one identity; only for others is InChI asked, which takes half of the time.
    if structure.smiles == before or (before and identity(structure.smiles) == identity(before)):
        return ""
    changes = "; ".join(dict.fromkeys(change.kind for change in structure.changes)) or "kept as drawn"
    return f"another compound than before: {changes}" if before else f"refused before: {changes}"


def _lost(smiles: str) -> list[tuple[str, str]]:
    return [(smiles, "the process ended")]


def structures_of(data: Path, pattern: str) -> Iterator[str]:
    """Distinct SMILES of the tables that match."""
    seen: set[str] = set()
    for path in sorted(data.glob(pattern)):
        columns = pd.read_csv(path, nrows=0).columns
        column = next((name for name in columns if name.lower() in ("smiles", "drug")), None)
        if column is not None:
            for text in pd.read_csv(path, usecols=[column], dtype=str)[column].dropna():
                if text not in seen:
                    seen.add(text)
                    yield text


def compare(data: Path, workers: int, examples: int) -> dict[str, Any]:
    """Structures with another identity than by the former rules, by data set."""
    figures: dict[str, Any] = {"structures": {}, "identity_changed": {}, "changed": {}}
    for name, pattern in DATA_SETS.items():
        smiles = list(structures_of(data, pattern))
        found: dict[str, list[str]] = {}
        counts: Counter[str] = Counter()
        for _, parts in map_chunks(compare_chunk, smiles, chunk=256, workers=workers, lost=_lost):
            for text, why in chain.from_iterable(parts):
                if why:
                    counts[why] += 1
                    found.setdefault(why, []).append(text)
        figures["structures"][name] = len(smiles)
        figures["identity_changed"][name] = counts.total()
        figures["changed"][name] = {
            why: {"structures": count, "examples": sorted(found[why])[:examples]} for why, count in counts.most_common()
        }
        say(f"{name}: {counts.total()} of {len(smiles)} structures have another identity")
    return figures


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--cases", type=Path, default=SHARED_CASES if SHARED_CASES.exists() else None)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--examples", type=int, default=3)
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    cases = (shared_cases(arguments.cases) if arguments.cases else []) + own_cases()
    wrong = [case for case in cases if not case["ok"]]
    for case in wrong:
        say(f"wrong: {case['name']}: {case['got']}, expected {case['expected']}")
    figures: dict[str, Any] = {"cases": cases, "cases_run": len(cases), "wrong": len(wrong)}
    figures |= (
        compare(arguments.data, arguments.workers, arguments.examples) if arguments.data else {"identity_changed": {}}
    )
    publish("Awkward structures, and identities by the former rules", machine, figures, GOALS, arguments.json)


if __name__ == "__main__":
    main()
