"""Predict with an exported model: onnxruntime, RDKit and NumPy, nothing else.

    pip install onnxruntime rdkit numpy
    python example.py "CCO" "CC(=O)Nc1ccc(O)cc1"

Salts are stripped and charges neutralised in RDKit's simplest way. For mixtures, tautomers and odd structures treated
exactly as in training, and for intervals: pip install kmel-p2p, then kmel_p2p.load(FOLDER).predict([...]).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from rdkit.Chem.MolStandardize import rdMolStandardize

FOLDER = Path(__file__).resolve().parent


def standardised(smiles: str, stereo: bool) -> Any:
    """The molecule that is described; None where the text is no structure."""
    molecule: Any = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    molecule = rdMolStandardize.Uncharger().uncharge(rdMolStandardize.FragmentParent(molecule))
    if not stereo:
        Chem.RemoveStereochemistry(molecule)
    return Chem.MolFromSmiles(Chem.MolToSmiles(molecule))


def described(molecule: Any, rule: dict[str, Any]) -> Any:
    """float32[width]: log2(1 + count) of the Morgan fingerprint, then descriptors."""
    fingerprint = rule["fingerprint"]
    generator = rdFingerprintGenerator.GetMorganGenerator(
        radius=fingerprint["radius"], fpSize=fingerprint["bits"], includeChirality=fingerprint["stereo"] == "keep"
    )
    counts = np.minimum(generator.GetCountFingerprintAsNumPy(molecule), fingerprint["count_limit"])
    known: dict[str, Any] = dict(Descriptors.descList)
    raw = [(known[each["name"]](molecule) - each["center"]) / each["scale"] for each in rule["descriptors"]]
    squashed = np.nan_to_num(np.clip(np.arcsinh(raw), -6, 6), nan=0.0)
    return np.concatenate([np.log2(1.0 + counts), squashed]).astype(np.float32)


def predict(structures: list[str]) -> list[dict[str, float]]:
    """For each structure, assay endpoint -> value in the endpoint's unit, or probability of class 1; empty where the
    text is no structure."""
    config = json.loads((FOLDER / "config.json").read_text("utf-8"))
    rule = config["features"]
    molecules = [standardised(smiles, rule["stereo"] == "keep") for smiles in structures]
    rows = [described(molecule, rule) for molecule in molecules if molecule is not None]
    features = np.array(rows, np.float32).reshape(len(rows), config["inputs"])
    outputs = {
        name: onnxruntime.InferenceSession(str(FOLDER / f"{name}.onnx")).run(None, {"features": features})[0]
        for name in config["models"]
    }
    found: list[dict[str, float]] = [{} for _ in rows]
    for place, endpoint in enumerate(config["assay_endpoints"]):
        # A hybrid is the mean of two networks.
        networks = config["hybrid_of"] if endpoint["chosen"] == "hybrid" else [endpoint["chosen"]]
        labels = np.mean([outputs[name][:, place] for name in networks], axis=0)
        values = labels * endpoint["scale"] + endpoint["center"]
        if endpoint["transform"] == "log10":
            values = 10.0**values
        if endpoint["kind"] == "classification":
            values = 1 / (1 + np.exp(-labels))
        for row, value in zip(found, values, strict=True):
            row[endpoint["name"]] = float(value)
    filled = iter(found)
    return [{} if molecule is None else next(filled) for molecule in molecules]


if __name__ == "__main__":
    for smiles, values in zip(sys.argv[1:], predict(sys.argv[1:]), strict=True):
        print(json.dumps({"smiles": smiles, **values}))  # noqa: T201
