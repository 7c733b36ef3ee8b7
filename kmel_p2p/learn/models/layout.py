"""Which tensors a model has, and which of them leave a site. Imports no torch, so that the daemon may use it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug
from kmel_p2p.delta.layout import Layout, TensorSpec
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.registry import check_model

UNMOVED = 1e-6
"""Rounding that averaging trunks may add to a value that no site changes."""


def trunk_layout(architecture: Architecture) -> Layout:
    """The only tensors that may leave a site: the trunk, then the shared heads, in a fixed order.

    Weights are [outputs, inputs], those of an ensemble [members, outputs, inputs].

    Raises:
        ConfigError: the trunk is unknown or does not fit (`registry.check_model`).
    """
    kind = check_model(architecture)
    return Layout([*kind.tensors(architecture), *_heads(architecture, "shared", len(architecture.shared))])


def check_layout(layout: Layout, expected: bytes) -> None:
    """Raises:
    Bug: daemon and trainer build different trunks.
    """
    if layout.hash != expected:
        raise Bug(f"layout is {layout.hash.hex()[:16]}, the daemon says {expected.hex()[:16]}")


def private_layout(architecture: Architecture, heads: int | None = None) -> Layout:
    """What never leaves a site: private heads, and the calibration of shared ones.

    A calibrated output is (1 + gain) * output + shift; both start at zero, so an untrained calibration changes nothing.

    Args:
        heads: how many of the private ones; None: one for each assay endpoint whose head is private.
    """
    specs = _heads(architecture, "private", len(architecture.private) if heads is None else heads)
    shared = len(architecture.shared)
    if architecture.calibrate and shared:
        specs += [TensorSpec("calibration.gain", (shared,), 0.0), TensorSpec("calibration.shift", (shared,), 0.0)]
    return Layout(specs)


def unlearned(architecture: Architecture, trunk: NDArray[np.float32], initial: NDArray[np.float32]) -> list[str]:
    """Assay endpoints whose shared head still has its initial values: no site had measurements to train it on.

    Args:
        trunk, initial: float32[d], the shared trunk now and at the start.
    """
    layout = trunk_layout(architecture)
    return [
        architecture.endpoints[place].name
        for head, place in enumerate(architecture.shared)
        if all(np.abs(trunk[at] - initial[at]).max() <= UNMOVED for at in layout.places_of_head(head))
    ]


def _heads(architecture: Architecture, whose: str, outputs: int) -> list[TensorSpec]:
    if not outputs:
        return []
    each, fan_in = architecture.ensemble, architecture.hidden[-1]
    return [
        TensorSpec(f"head.{whose}.weight", (*each, outputs, fan_in), 1 / math.sqrt(fan_in), heads_along=len(each)),
        TensorSpec(f"head.{whose}.bias", (*each, outputs), 0.0, heads_along=len(each)),
    ]
