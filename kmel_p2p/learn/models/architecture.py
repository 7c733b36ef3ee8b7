"""Which tensors a model has and which of them are exchanged. Imports no torch, so that the daemon may use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.delta.layout import Layout, TensorSpec

FIRST_LAYER_GAIN = 1.0
"""Half-width of the first layer's initial values, relative to 1/sqrt(fan-in)."""

MAX_MEMBERS = 32

UNMOVED = 1e-6
"""What averaging trunks (mode `pushsum`) may round a value by that nobody changes."""

ATOM_FEATURES, BOND_FEATURES = 72, 14
"""Numbers that chemprop 2's default featuriser gives for an atom and for a bond."""

GRAPH_TENSORS = ("W_i.weight", "W_h.weight", "W_o.weight", "W_o.bias")
"""Parameters of chemprop's bond message passing, in the order of the layout."""

Trunk = Literal["mlp", "dmpnn"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A trunk with one output per assay endpoint.

    `mlp` is a multilayer perceptron over fingerprint and descriptors. `dmpnn` passes messages along the bonds of the
    molecular graph, and a multilayer perceptron reads the mean over the atoms and the descriptors.

    Attributes:
        inputs: width of the features (`FeaturePolicy.width`).
        hidden: widths of the layers of the (last) perceptron.
        endpoints: the charter's assay endpoints, in its order.
        dropout: probability, after each layer of the trunk while training.
        calibrate: whether each site has a private gain and shift for every shared head.
        members: networks of this shape, trained side by side and averaged (an ensemble). Trunk and heads are that
            many times larger, and so is what is exchanged.
        trunk: kind of the trunk.
        descriptors: how many of the inputs, at their end, are descriptors; only `dmpnn` needs to know.
        message_width: `dmpnn`: numbers that a message has.
        depth: `dmpnn`: rounds of messages.
    """

    inputs: int
    hidden: tuple[int, ...]
    endpoints: tuple[AssayEndpoint, ...]
    dropout: float = 0.0
    calibrate: bool = False
    members: int = 1
    trunk: Trunk = "mlp"
    descriptors: int = 0
    message_width: int = 300
    depth: int = 3

    def __post_init__(self) -> None:
        if self.inputs < 1 or not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"a trunk needs inputs and hidden layers, not {self.inputs} and {self.hidden}")
        if not self.endpoints:
            raise ConfigError("the charter lists no assay endpoint")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if not 1 <= self.members <= MAX_MEMBERS:
            raise ConfigError(f"model.members is {self.members}; it must be 1 to {MAX_MEMBERS}")
        if self.trunk == "dmpnn":
            self._check_graph()

    def _check_graph(self) -> None:
        if self.members > 1:
            raise ConfigError("model.members: a dmpnn trunk has no ensemble; set members = 1 or trunk = 'mlp'")
        if not 0 <= self.descriptors <= self.inputs:
            raise ConfigError(f"a dmpnn trunk cannot read {self.descriptors} descriptors of {self.inputs} inputs")
        if self.message_width < 1 or self.depth < 1:
            raise ConfigError(
                f"model.message_width and model.depth are {self.message_width} and {self.depth}; both must be above 0"
            )

    @property
    def shared(self) -> tuple[int, ...]:
        """Places (in `endpoints`) of the assay endpoints whose heads travel with the trunk."""
        return tuple(i for i, endpoint in enumerate(self.endpoints) if endpoint.head == "shared")

    @property
    def private(self) -> tuple[int, ...]:
        """Places of the assay endpoints whose heads stay at the site."""
        return tuple(i for i, endpoint in enumerate(self.endpoints) if endpoint.head == "private")


def unlearned(architecture: Architecture, trunk: NDArray[np.float32], initial: NDArray[np.float32]) -> list[str]:
    """Assay endpoints whose shared head is as the charter began it: nobody had measurements to train it on.

    Args:
        trunk, initial: float32[d], the shared trunk now and at the start.
    """
    layout = trunk_layout(architecture)
    return [
        architecture.endpoints[place].name
        for head, place in enumerate(architecture.shared)
        if all(np.abs(trunk[at] - initial[at]).max() <= UNMOVED for at in layout.places_of_head(head))
    ]


def trunk_layout(architecture: Architecture) -> Layout:
    """The only tensors that may leave a site: the trunk, then the shared heads, in a fixed order.

    Weights are [outputs, inputs], those of an ensemble [members, outputs, inputs]. Initial half-widths are
    1/sqrt(fan-in), as in LeCun et al. 1998 and in torch's default for linear layers; biases start at zero.
    """
    specs: list[TensorSpec] = []
    each = _each(architecture)
    read = architecture.inputs
    if architecture.trunk == "dmpnn":
        specs += _graph_tensors(architecture.message_width)
        read = architecture.message_width + architecture.descriptors
    widths = (read, *architecture.hidden)
    for layer, (fan_in, fan_out) in enumerate(zip(widths, architecture.hidden, strict=False)):
        gain = FIRST_LAYER_GAIN if layer == 0 else 1.0
        specs.append(TensorSpec(f"trunk.{layer}.weight", (*each, fan_out, fan_in), gain / math.sqrt(fan_in)))
        specs.append(TensorSpec(f"trunk.{layer}.bias", (*each, fan_out), 0.0))
    specs += _heads(architecture, "shared", len(architecture.shared))
    return Layout(specs)


def private_layout(architecture: Architecture) -> Layout:
    """What never leaves a site: private heads, and the calibration of shared ones.

    A calibrated output is (1 + gain) * output + shift; both start at zero, so an untrained calibration changes nothing.
    """
    specs = _heads(architecture, "private", len(architecture.private))
    shared = len(architecture.shared)
    if architecture.calibrate and shared:
        specs += [TensorSpec("calibration.gain", (shared,), 0.0), TensorSpec("calibration.shift", (shared,), 0.0)]
    return Layout(specs)


def _heads(architecture: Architecture, whose: str, outputs: int) -> list[TensorSpec]:
    if not outputs:
        return []
    each, fan_in = _each(architecture), architecture.hidden[-1]
    return [
        TensorSpec(f"head.{whose}.weight", (*each, outputs, fan_in), 1 / math.sqrt(fan_in), heads_along=len(each)),
        TensorSpec(f"head.{whose}.bias", (*each, outputs), 0.0, heads_along=len(each)),
    ]


def _graph_tensors(width: int) -> list[TensorSpec]:
    """Message passing: from atom and bond to message, message to message, atom and messages to atom."""
    shapes = ((width, ATOM_FEATURES + BOND_FEATURES), (width, width), (width, ATOM_FEATURES + width), (width,))
    return [
        TensorSpec(f"trunk.graph.{name}", shape, 1 / math.sqrt(shape[1]) if len(shape) == 2 else 0.0)
        for name, shape in zip(GRAPH_TENSORS, shapes, strict=True)
    ]


def _each(architecture: Architecture) -> tuple[int, ...]:
    """Leading dimension of an ensemble's tensors; a single network has none, as before there were ensembles."""
    return (architecture.members,) if architecture.members > 1 else ()
