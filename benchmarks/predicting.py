"""Predicting many molecules, beside a plain script of RDKit and torch.

The plain script does for each molecule what has to be done to ask the same network: parse, clean up, largest fragment,
neutralise, drop stereo, canonical SMILES, count Morgan fingerprint, all descriptors, normalise; torch for a batch; a
CSV row. It judges nothing, and gives neither interval nor similarity. Ours is what the command does with `--model
federated` between reading and writing, in one process. Both take turns on slices of the same molecules in one run, so
other load meets both, and `cpu_ratio` compares processor time. `stack_cpu_ratio` is ours with a site's whole stack
(fitted to `--stack` of the molecules with made-up values: the time does not depend on them), intervals and
similarities, over ours with one network.

`peak_mb_10k` and `peak_mb_100k` are the resident memory of the process of the real command at its peak, for `--rows`
rows: the molecules, and when they are used up, random enumerations of their SMILES. With `--distinct N` they repeat N
molecules, which takes a fraction of the time; a block describes each of them once. `rows_per_second` is that of the
larger run from start to end, on all cores.

    python benchmarks/predicting.py DATA [--molecules 2000] [--rows 10000 100000] [--stack 300] [--distinct N]
        [--json]

DATA: public tables below it with a SMILES column (see docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rdkit.Chem.MolStandardize import rdMolStandardize

from benchmarks.featurise import gather
from benchmarks.parts.measure import ROOT, at_most, parse, publish, say, this_machine
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.chem.read.structure_file import InputForm, StructureFile
from kmel_p2p.chem.read.table_file import InputFile
from kmel_p2p.chem.structures.described import describe_all
from kmel_p2p.chem.structures.features import normalise, reference_hash
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.cli.prediction_output import CsvOutput
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.networks import Network
from kmel_p2p.learn.predict.model_directory import STORED, Card, write_model
from kmel_p2p.learn.predict.neighbours import Neighbours
from kmel_p2p.learn.predict.predict import Model, load_model
from kmel_p2p.learn.predict.stack_file import StoredStack, write_stack
from kmel_p2p.learn.predict.uncertainty import calibrate_stack
from kmel_p2p.learn.stack.fit import fit_stack
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.learn.train.dataset import LEVELS, Dataset, Inputs

POLICY = FeatureRule()
ENDPOINTS = tuple(AssayEndpoint(name=name, head="shared") for name in ("logD", "solubility", "clearance", "binding"))
SHAPE = Architecture(inputs=POLICY.width, hidden=(256, 128), endpoints=ENDPOINTS, dropout=0.0)
SLICE = 250
FLAT = 1.1
"""Peak memory for ten times the rows, over that for fewer."""

WITH_PEAK = """
import sys
from kmel_p2p.cli.main import invoke

code = invoke(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""
"""Prints the command's own peak in kB. `ru_maxrss` would begin with that of the process that started it."""

GOALS = {"cpu_ratio": at_most(1.25), "peak_growth": at_most(FLAT)}
SMOKE: dict[str, Any] = {"molecules": 40, "rows": [20, 40], "stack": 0}


def networks(seed: int) -> dict[str, Parameters]:
    """Untrained networks: they take as long as trained ones."""
    found = {}
    for place, name in enumerate(STORED):
        torch.manual_seed(seed + place)
        found[name] = Parameters.of(Network(SHAPE))
    return found


def write_models(folder: Path, models: dict[str, Parameters], smiles: Sequence[str]) -> Path:
    """A model directory, with a stack and neighbours fitted to `smiles` where there are any."""
    labels = {"site": "benchmark"}
    digest = ""
    if smiles:
        table = describe_all(smiles, POLICY, workers=usable_cores()).table
        usable = table.take([row for row, reason in enumerate(table.reasons) if not reason])
        rng = np.random.default_rng(0)
        values = rng.normal(size=(len(usable), len(ENDPOINTS))).astype(np.float32)
        fold = rng.permutation(len(usable))
        half = len(fold) // 2
        data = Dataset(
            ENDPOINTS, Inputs(usable.counts, usable.descriptors), values, np.zeros(values.shape, np.int8),
            np.sort(fold[:half]), np.sort(fold[half:]), np.empty(0, np.int64), tuple(usable.smiles),
        )  # fmt: skip
        fitted = fit_stack(SHAPE, data, models, 0)
        neighbours = Neighbours.of(data)
        digest = write_stack(folder, StoredStack(fitted.stack, calibrate_stack(data, fitted, neighbours)))
        neighbours.write(folder)
    chosen = dict.fromkeys((endpoint.name for endpoint in ENDPOINTS), "federated")
    card = Card(SHAPE, POLICY, reference_hash(POLICY), chosen, labels, {}, stack_digest=digest)
    write_model(folder, card, {name: (model.trunk, model.private) for name, model in models.items()})
    return folder


def plain_script(model: Parameters) -> Callable[[Sequence[str]], object]:
    """What the module's description says, with everything made once that can be."""
    network = Network(SHAPE)
    model.load_into(network)
    uncharger = rdMolStandardize.Uncharger()
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=POLICY.radius, fpSize=POLICY.bits)
    known = dict(Descriptors.descList)
    functions = [known[constant.name] for constant in descriptor_constants()]

    def predict(smiles: Sequence[str]) -> str:
        names, rows = [], []
        with rdBase.BlockLogs():
            for text in smiles:
                molecule = rdMolStandardize.Cleanup(Chem.MolFromSmiles(text))
                molecule = uncharger.uncharge(rdMolStandardize.FragmentParent(molecule, skipStandardize=True))
                Chem.SanitizeMol(molecule)
                Chem.RemoveStereochemistry(molecule)
                names.append(Chem.MolToSmiles(molecule))
                counts = generator.GetCountFingerprintAsNumPy(molecule)
                values = np.array([function(molecule) for function in functions])
                rows.append(np.concatenate([LEVELS[np.minimum(counts, len(LEVELS) - 1)], normalise(values)]))
        outputs = network.predict(np.stack(rows).astype(np.float32))
        out = io.StringIO()
        csv.writer(out).writerows([text, *values] for text, values in zip(names, outputs.tolist(), strict=True))
        return out.getvalue()

    return predict


def our_way(folder: Path, scratch: Path, model: str | None) -> Callable[[Sequence[str]], object]:
    """What the command does between reading and writing, in this process."""
    loaded: Model = load_model(folder)

    def predict(smiles: Sequence[str]) -> bytes:
        path = scratch / "slice.csv"
        path.write_text("smiles\n" + "\n".join(smiles) + "\n", encoding="utf-8")
        file = StructureFile(InputFile(path), InputForm())
        made = CsvOutput(file, loaded)
        (rows,) = file.blocks(0, file.count, len(smiles))
        (predictions,) = loaded.predict_blocks([[row[0] for row in rows.rows]], model=model)
        return made.block(rows, predictions)

    return predict


def usable(smiles: Sequence[str]) -> list[str]:
    """Those that both ways predict: the plain script stops at the first that RDKit refuses."""
    found = []
    for text in smiles:
        try:
            with rdBase.BlockLogs():
                rdMolStandardize.Cleanup(Chem.MolFromSmiles(text))
            found.append(text)
        except (ValueError, RuntimeError):
            continue
    return found


def turns(smiles: Sequence[str], ways: dict[str, Callable[[Sequence[str]], object]]) -> dict[str, float]:
    """Seconds of processor time that each way takes, in alternating slices."""
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        way(smiles[:10])  # what is made once
    order = list(ways)
    for start in range(0, len(smiles), SLICE):
        part = smiles[start : start + SLICE]
        for name in order:
            began = time.process_time()
            ways[name](part)
            seconds[name] += time.process_time() - began
        order.reverse()
    return seconds


def command(folder: Path, scratch: Path, smiles: Sequence[str]) -> tuple[float, float]:
    """(peak resident memory in MB, seconds) of the real command."""
    source, output = scratch / "in.csv", scratch / "out.csv"
    source.write_text("smiles\n" + "\n".join(smiles) + "\n", encoding="utf-8")
    began = time.perf_counter()
    arguments = ["predict", str(source), "-o", str(output), "--model", "federated", "--model-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", WITH_PEAK, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    taken = time.perf_counter() - began
    if len(output.read_text(encoding="utf-8").splitlines()) != len(smiles) + 1:
        raise SystemExit("kmel-peer predict lost rows")
    return int(done.stdout) / 1024, taken


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--molecules", type=int, default=2000, help="that the two ways take turns on")
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 100_000], help="of the two runs of the command")
    parser.add_argument("--distinct", type=int, default=0, help="molecules in those runs; 0: as many as rows")
    parser.add_argument("--stack", type=int, default=300, help="compounds that the stack is fitted to; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    models = networks(arguments.seed)
    wanted = arguments.distinct or max(arguments.rows)
    smiles, enumerated = gather(arguments.data, max(arguments.molecules, wanted), arguments.seed)
    chosen = usable(smiles[: arguments.molecules])
    figures: dict[str, Any] = {"molecules": len(chosen), "rows": arguments.rows, "distinct": wanted}
    figures["enumerated"] = enumerated
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        folder = write_models(scratch / "model", models, ())
        ways = {"plain": plain_script(models["federated"]), "ours": our_way(folder, scratch, "federated")}
        if arguments.stack:
            stacked = write_models(scratch / "stacked", models, chosen[: arguments.stack])
            ways["stack"] = our_way(stacked, scratch, None)
        seconds = turns(chosen, ways)
        figures["cpu_ratio"] = seconds["ours"] / seconds["plain"]
        figures["ms_per_molecule"] = 1e3 * seconds["ours"] / len(chosen)
        figures["plain_ms_per_molecule"] = 1e3 * seconds["plain"] / len(chosen)
        if arguments.stack:
            figures["stack_cpu_ratio"] = seconds["stack"] / seconds["ours"]
        say(f"cpu_ratio {figures['cpu_ratio']:.3f}")
        peaks = [
            command(folder, scratch, list(itertools.islice(itertools.cycle(smiles[:wanted]), count)))
            for count in arguments.rows
        ]
    (figures["peak_mb_10k"], _), (figures["peak_mb_100k"], taken) = peaks
    figures["peak_growth"] = figures["peak_mb_100k"] / figures["peak_mb_10k"]
    figures["rows_per_second"] = arguments.rows[1] / taken
    publish("Predicting", machine, figures, GOALS, arguments.json)


if __name__ == "__main__":
    main()
