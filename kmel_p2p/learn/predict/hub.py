"""An exported model as model hubs show it: a card with YAML front matter, a configuration, and an example.

The layout is Hugging Face's: README.md, config.json, model.safetensors. Nothing is uploaded.
"""

from __future__ import annotations

import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

from kmel_p2p.delta.layout import Layout
from kmel_p2p.files import BY_UMASK, write_whole
from kmel_p2p.learn.evaluate.comparison import HYBRID_OF, PREDICTED
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.registry import kind_of
from kmel_p2p.learn.predict.export import described_features
from kmel_p2p.learn.predict.model_directory import STORED, TENSORS, Card
from kmel_p2p.version import VERSION

README, CONFIG, EXAMPLE = "README.md", "config.json", "example.py"

LIBRARY = "kmel_p2p"

METRICS = {"rmse": "RMSE", "log_loss": "log loss"}

WITH_LIBRARY = '''"""Predict with an exported model, whose trunk needs kmel_p2p: pip install kmel-p2p."""

import sys
from pathlib import Path

import kmel_p2p

print(kmel_p2p.load(Path(__file__).resolve().parent).predict(sys.argv[1:]))
'''


def write_hub_files(folder: Path, card: Card) -> list[Path]:
    """Write the three files beside an exported model; ONNX graphs, where `has_graphs`, are the caller's.

    Raises:
        ConfigError: the folder cannot be written.
    """
    example = WITH_LIBRARY
    if has_graphs(card):
        example = resources.files("kmel_p2p.learn.predict").joinpath("example_of_export.py").read_text("utf-8")
    texts = {README: _readme(card), CONFIG: json.dumps(_config(card), indent=1) + "\n", EXAMPLE: example}
    for name, text in texts.items():
        write_whole(folder / name, text.encode(), mode=BY_UMASK)
    return [folder / name for name in texts]


def has_graphs(card: Card) -> bool:
    """Whether ONNX has what the trunk computes with."""
    return kind_of(card.architecture).perceptron


def _config(card: Card) -> dict[str, Any]:
    """What a program needs to read the parameters and to feed the graphs."""
    shape = card.architecture
    return {
        "model_type": LIBRARY,
        "library_version": VERSION,
        "digest": card.digest,
        "trunk": shape.trunk,
        "inputs": shape.inputs,
        "hidden": list(shape.hidden),
        "members": shape.members,
        "models": list(STORED),
        "hybrid_of": list(HYBRID_OF),
        "features": described_features(card.features),
        "assay_endpoints": [
            {
                "name": endpoint.name,
                "kind": endpoint.kind,
                "unit": endpoint.unit,
                "transform": endpoint.transform,
                "center": endpoint.center,
                "scale": endpoint.scale,
                "head": endpoint.head,
                "chosen": card.chosen[endpoint.name],
            }
            for endpoint in shape.endpoints
        ],
        # NAME.trunk and NAME.private of the tensor file are flat: values[begin:end].reshape(shape) is a tensor.
        "tensors": [*_places("trunk", trunk_layout(shape)), *_places("private", private_layout(shape))],
    }


def _places(part: str, layout: Layout) -> list[dict[str, Any]]:
    slices = layout.slices
    return [
        {
            "name": spec.name,
            "part": part,
            "begin": slices[spec.name].start,
            "end": slices[spec.name].stop,
            "shape": list(spec.shape),
        }
        for spec in layout.specs
    ]


def _readme(card: Card) -> str:
    head = {
        "library_name": LIBRARY,
        "license": "other",
        "tags": ["chemistry", "admet", "federated-learning", *(["onnx"] if has_graphs(card) else [])],
        "pipeline_tag": "tabular-regression",
        "model-index": [{"name": f"{LIBRARY}-{card.digest[:12]}", "results": _results(card)}],
    }
    # JSON is YAML, whatever a name in the card contains.
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    return f"---\n{front}\n---\n\n{_text(card)}"


def _results(card: Card) -> list[dict[str, Any]]:
    found = []
    for told in card.result.get("endpoints", ()):
        score = told.get(PREDICTED, {}).get("test")
        if isinstance(score, (int, float)) and math.isfinite(score):
            found.append(
                {
                    "task": {"type": "tabular-regression", "name": told["name"]},
                    "dataset": {"type": "private", "name": "test fold of the site that trained it"},
                    "metrics": [{"type": told["metric"], "value": float(score), "name": _metric(told)}],
                }
            )
    return found


def _metric(told: dict[str, Any]) -> str:
    unit = f", {told['unit']}" if told.get("unit") and told["metric"] == "rmse" else ""
    return f"{METRICS.get(told['metric'], told['metric'])}{unit}"


def _text(card: Card) -> str:
    rows = []
    scored = {result["task"]["name"]: result["metrics"][0] for result in _results(card)}
    for endpoint in card.architecture.endpoints:
        score = scored.get(endpoint.name)
        told = f"{score['value']:.3f} ({score['name']})" if score else ""
        kind = "probability of class 1" if endpoint.kind == "classification" else endpoint.unit or "no unit"
        rows.append(f"| {_cell(endpoint.name)} | {_cell(kind)} | {card.chosen[endpoint.name]} | {_cell(told)} |")
    facts = "\n".join(f"- {_cell(key)}: {_cell(value)}" for key, value in sorted(card.labels.items()))
    untrained = ", ".join(_cell(name) for name in card.untrained)
    return f"""# ADMET networks {card.digest[:12]}

Networks that predict {len(rows)} assay endpoints of a small molecule from its structure. Several sites trained them
together without exchanging measurements (kmel_p2p {VERSION}); the parameters here are those of one of these sites.

| assay endpoint | prediction | network | score on the site's test fold |
|---|---|---|---|
{chr(10).join(rows)}

{f"Without training measurements of the site's own: {untrained}." if untrained else ""}

## Use

`python example.py "CCO"`{"" if has_graphs(card) else " (needs `pip install kmel-p2p`)"} prints a line of JSON for each
structure. `{TENSORS}` holds the parameters as flat float32 vectors, and `{CONFIG}` says where each tensor lies in them
and how features are made. With this folder, `kmel_p2p.load(FOLDER).predict(["CCO"])` also gives intervals.

## Limits

Predictions are for compounds like those that the sites measured, and say nothing by themselves about others. The
parameters were trained on confidential measurements: whoever has them may draw conclusions from these, so publish them
only if all who contributed agree. No licence was chosen by the program that wrote this card; state yours above.

## Origin

{facts}
"""


def _cell(text: object) -> str:
    """Text of a card that may come from anywhere, without a meaning in Markdown or HTML."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{each}" if each in "\\`*_[]|#" else each for each in plain)
