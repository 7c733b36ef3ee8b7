"""Exporting models: a copy of the model directory without what must stay at the site, and ONNX graphs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule, descriptor_constants
from kmel_p2p.chem.structures.table import MAX_COUNT
from kmel_p2p.files import BY_UMASK, write_whole
from kmel_p2p.learn.evaluate.comparison import PREDICTED
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import private_layout, trunk_layout
from kmel_p2p.learn.models.registry import KINDS, kind_of
from kmel_p2p.learn.predict.model_directory import STORED, Card, read_card, read_parameters, write_model

OPSET = 17


def export_model(source: Path, target: Path) -> Card:
    """Check and copy card and parameters; the files with the neighbours and the stack stay behind.

    So the copy predicts with the networks alone, and its card says with which, and how well.

    Raises:
        ConfigError: there is no complete model in `source`, or `target` cannot be written.
    """
    card = read_card(source)
    result = {**card.result, "endpoints": [_by_network(told) for told in card.result.get("endpoints", ())]}
    copy = replace(card, stack_digest="", result=result if card.result else card.result)
    return write_model(target, copy, read_parameters(source, card))


def _by_network(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a result tells of an assay endpoint, for who has no stack: the chosen network answers for all compounds."""
    network = told.get("network", told.get("chosen"))
    kept = {key: value for key, value in told.items() if key != "stacked"}
    if "stacked" not in told or network not in told.get("models", {}):
        return kept
    return kept | {"chosen": network, PREDICTED: told["models"][network]}


def require_onnx(source: Path) -> Card:
    """The card of a model that `export_onnx` can export.

    Raises:
        ConfigError: the extra `onnx` is not installed, there is no complete model in `source`, or its trunk is not a
            multilayer perceptron.
    """
    if importlib.util.find_spec("onnx") is None:
        raise ConfigError("ONNX needs the package onnx: pip install 'kmel-p2p[onnx]'")
    card = read_card(source)
    if not kind_of(card.architecture).perceptron:
        able = " and ".join(kind.name for kind in KINDS.values() if kind.perceptron)
        raise ConfigError(
            f"{source}: ONNX is for {able} trunks; this model's is {card.architecture.trunk}. Export it without --onnx"
        )
    return card


def export_onnx(source: Path, target: Path) -> list[Path]:
    """One graph per stored model: `features` float32[n, width] to `outputs` float32[n, E], in labels or logits.

    Features are log2(1 + count) of the fingerprint, then the descriptors; the metadata describes them.

    Raises:
        ConfigError: as `require_onnx`, or `target` cannot be written.
    """
    card = require_onnx(source)
    paths = []
    for name, (trunk, private) in read_parameters(source, card).items():
        path = target / f"{name}.onnx"
        write_whole(path, _graph(card, trunk, private).SerializeToString(), mode=BY_UMASK)
        paths.append(path)
    assert len(paths) == len(STORED)
    return paths


def _graph(card: Card, trunk: np.ndarray, private: np.ndarray) -> Any:
    from onnx import TensorProto, checker, helper, numpy_helper

    shape = card.architecture
    constants = trunk_layout(shape).split(trunk) | private_layout(shape).split(private)
    nodes: list[Any] = []
    heads = _members(shape, constants, nodes, _read(shape, constants, nodes))
    if "calibration.gain" in constants:
        constants["calibration.gain"] = 1 + constants["calibration.gain"]
        nodes.append(helper.make_node("Mul", [heads[0], "calibration.gain"], ["gained"]))
        nodes.append(helper.make_node("Add", ["gained", "calibration.shift"], ["calibrated"]))
        heads[0] = "calibrated"
    nodes.append(helper.make_node("Concat", heads, ["by_head"], axis=1))
    constants["order"] = _order(shape)
    nodes.append(helper.make_node("Gather", ["by_head", "order"], ["outputs"], axis=1))
    graph = helper.make_graph(
        nodes,
        "kmel_p2p",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", shape.inputs])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["n", len(shape.endpoints)])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    helper.set_model_props(model, _facts(card))
    checker.check_model(model)
    return model


def _read(shape: Architecture, constants: dict[str, np.ndarray], nodes: list[Any]) -> str:
    """Add nodes for what comes before the perceptron. Returns the name of what it reads."""
    from onnx import helper

    projection = kind_of(shape).projection(shape)
    if projection is None:
        return "features"
    constants |= {"projection": projection, "parts": np.array([len(projection), shape.descriptors], np.int64)}
    parts = ["fingerprint", "descriptors"] if shape.descriptors else ["fingerprint"]
    constants["parts"] = constants["parts"][: len(parts)]
    nodes.append(helper.make_node("Split", ["features", "parts"], parts, axis=1))
    nodes.append(helper.make_node("MatMul", ["fingerprint", "projection"], ["projected"]))
    nodes.append(helper.make_node("Concat", ["projected", *parts[1:]], ["read"], axis=1))
    return "read"


def _members(shape: Architecture, constants: dict[str, np.ndarray], nodes: list[Any], read: str) -> list[str]:
    """Add nodes for trunk and heads, from what is read.

    Returns:
        The outputs' names (means over the members), shared first.
    """
    from onnx import helper

    if shape.members > 1:
        # An ONNX graph has plain matrices, so the members' are separated.
        for name in [name for name in constants if name.startswith(("trunk.", "head."))]:
            stacked = constants.pop(name)
            constants |= {f"{member}.{name}": stacked[member] for member in range(shape.members)}
    heads: dict[str, list[str]] = {}
    for member in range(shape.members):
        prefix = f"{member}." if shape.members > 1 else ""
        present = read
        for layer in range(len(shape.hidden)):
            nodes.append(_linear(present, f"{prefix}trunk.{layer}", f"{prefix}linear.{layer}"))
            present = f"{prefix}hidden.{layer}"
            nodes.append(helper.make_node("Relu", [f"{prefix}linear.{layer}"], [present]))
        for whose, places in (("shared", shape.shared), ("private", shape.private)):
            if places:
                output = f"{prefix}outputs.{whose}"
                nodes.append(_linear(present, f"{prefix}head.{whose}", output))
                heads.setdefault(whose, []).append(output)
    if shape.members > 1:
        for whose, outputs in heads.items():
            nodes.append(helper.make_node("Mean", outputs, [f"outputs.{whose}"]))
    return [f"outputs.{whose}" for whose in heads]


def _linear(source: str, parameters: str, target: str) -> Any:
    from onnx import helper

    return helper.make_node("Gemm", [source, f"{parameters}.weight", f"{parameters}.bias"], [target], transB=1)


def _order(shape: Architecture) -> np.ndarray:
    order = [*shape.shared, *shape.private]
    return np.array([order.index(place) for place in range(len(order))], np.int64)


def described_features(policy: FeatureRule) -> dict[str, Any]:
    """How features are made from a structure, with every constant: enough to make them with RDKit alone."""
    return {
        "structure": "RDKit clean-up, largest organic fragment, neutral, no isotopes, by canonical SMILES",
        "stereo": policy.stereo, "tautomers": policy.tautomers,
        "fingerprint": {"kind": "Morgan count", "radius": policy.radius, "bits": policy.bits,
                        "stereo": policy.stereo, "transform": "log2(1 + count)", "count_limit": MAX_COUNT},
        "descriptors": [asdict(constant) for constant in descriptor_constants()],
        "descriptor_transform": "asinh((value - center) / scale), cut at 6, 0 where RDKit gives no number",
    }  # fmt: skip


def _facts(card: Card) -> dict[str, str]:
    """What a user needs to know about the graph's inputs and outputs."""
    return {
        "digest": card.digest,
        "reference_hash": card.reference_hash,
        "features": json.dumps(described_features(card.features)),
        "assay_endpoints": json.dumps(
            [{"name": e.name, "kind": e.kind, "unit": e.unit, "transform": e.transform, "center": e.center,
              "scale": e.scale} for e in card.architecture.endpoints]
        ),
    }  # fmt: skip
