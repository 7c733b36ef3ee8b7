"""Trunks that come as packages (`[model.package]` of the charter); docs/models.md has what such a package has to be.

All that the daemon asks is answered from the charter. Code of the package is imported where networks are computed: in
the trainer's process, and in commands that draft, check, predict or evaluate.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import descriptor_constants
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.agreement.trunk_package import TrunkPackage
from kmel_p2p.delta.layout import TensorSpec
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.graph_rows import GraphRows
from kmel_p2p.learn.models.package_files import check_installed, entry_point, own_files
from kmel_p2p.learn.models.supplied import SuppliedTrunk, TrunkShape

if TYPE_CHECKING:
    from torch import Tensor

    from kmel_p2p.learn.models.module_body import ModuleBody

PREFIX = "trunk."
"""Before a module's own names of its parameters, in the layout."""


@dataclass(frozen=True, slots=True)
class PackagedTrunk:
    """A kind of trunk from a package; see `registry.TrunkKind`."""

    name: str
    rule: TrunkPackage
    extra: str = ""
    keys: frozenset[str] = frozenset()
    by_input: frozenset[str] = frozenset()
    perceptron: bool = False
    compound_gradients: bool = False
    drafted: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        return f"what the package {self.rule.name} {self.rule.version} makes of it"

    @property
    def packages(self) -> tuple[str, ...]:
        return (self.rule.name,)

    def check(self, architecture: Architecture) -> None:
        """Any shape will do here; the package says whether it is one of its own when its module is made."""

    def tensors(self, architecture: Architecture) -> list[TensorSpec]:
        return [
            TensorSpec(PREFIX + tensor.name, tensor.shape, tensor.bound, center=tensor.center)
            for tensor in self.rule.parsed
        ]

    def cost(self, architecture: Architecture) -> int:
        """As if each value were multiplied once; a package may do more."""
        return sum(math.prod(tensor.shape) for tensor in self.rule.parsed)

    def body(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> ModuleBody:
        from kmel_p2p.learn.models.module_body import ModuleBody, made_module

        supplied = self._supplied()
        module = made_module(supplied, shape_of(architecture, architecture.inputs, architecture.descriptors), self.name)
        self._require_same_tensors(module)
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        return ModuleBody(module, own, architecture.hidden[-1], described=hasattr(supplied, "describe"))

    def projection(self, architecture: Architecture) -> None:
        return None

    def molecules(self, smiles: Sequence[str]) -> Descriptions | None:
        describe = getattr(self._supplied(), "describe", None)
        return None if describe is None else Descriptions(describe, smiles)

    def reference_hash(self, smiles: Sequence[str], model: ModelRule, bits: int) -> str:
        """Of what no site trains (frozen parameters and buffers) and of what the package describes molecules by."""
        from kmel_p2p.learn.models.module_body import constants_of, made_module

        supplied, descriptors = self._supplied(), len(descriptor_constants())
        module = made_module(supplied, shape_of(model, bits + descriptors, descriptors), self.name)
        self._require_same_tensors(module)
        state = hashlib.blake2b(digest_size=32, person=b"kmel packaged 1")
        _hash_into(state, constants_of(module))
        if describe := getattr(supplied, "describe", None):
            _hash_into(state, [describe(text) for text in smiles])
        return state.hexdigest()

    def _supplied(self) -> SuppliedTrunk:
        return supplied_by(check_installed(self.rule, self.name), self.name)

    def _require_same_tensors(self, module: Any) -> None:
        """Raises ConfigError: the module's tensors are not the charter's."""
        from kmel_p2p.learn.models.module_body import trained_parameters

        has = [(name, tuple(parameter.shape)) for name, parameter in trained_parameters(module).items()]
        agreed = [(tensor.name, tensor.shape) for tensor in self.rule.parsed]
        if has == agreed:
            return
        at = next((at for at, pair in enumerate(zip(has, agreed, strict=False)) if pair[0] != pair[1]), None)
        differs = (
            f"{len(has)} tensors where the charter has {len(agreed)}"
            if at is None
            else f"tensor {at + 1} is {has[at][0]} {list(has[at][1])}, in the charter {agreed[at][0]} "
            f"{list(agreed[at][1])}"
        )
        raise ConfigError(
            f"the package {self.rule.name} {self.rule.version} makes other tensors than model.package.tensors lists: "
            f"{differs}. If [model] was edited since, draft it anew with kmel-peer trunk draft {self.rule.name}"
        )


class Descriptions:
    """What a package describes n molecules by, each made when first asked for and kept; see `registry.Molecules`."""

    def __init__(self, describe: Callable[[str], Any], smiles: Sequence[str]) -> None:
        self._describe, self._smiles = describe, smiles
        self._made: dict[int, Any] = {}

    def attach(self, features: NDArray[np.float32], rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return GraphRows.of(features, [self._of(int(row)) for row in rows])

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        for row in range(len(self._smiles)):
            self._of(row)
            progress(row + 1, len(self._smiles))

    def _of(self, row: int) -> Any:
        if row not in self._made:
            self._made[row] = self._describe(self._smiles[row])
        return self._made[row]


def shape_of(model: ModelRule, inputs: int, descriptors: int) -> TrunkShape:
    """What the package is told of a charter."""
    options = model.package.settings if model.package is not None else {}
    return TrunkShape(inputs, descriptors, model.hidden, model.dropout, options)


def supplied_by(distribution: Distribution, trunk: str) -> SuppliedTrunk:
    """What a package's entry point names, imported. The caller has checked that it is the package meant.

    Raises:
        ConfigError: it cannot be imported, comes from other files than the package's own, or is no trunk.
    """
    return _supplied(distribution.name, distribution.version, trunk)


@functools.cache
def _supplied(package: str, version: str, trunk: str) -> SuppliedTrunk:
    distribution = importlib.metadata.distribution(package)
    point, what = entry_point(distribution, trunk), f"trunk {trunk} of the package {package} {version}"
    try:
        found = point.load()
    except Exception as error:
        raise ConfigError(f"{what} ({point.value}) cannot be imported: {error!r:.300}") from error
    # What was hashed has to be what was imported: another directory on Python's path may come first.
    origin = Path(getattr(sys.modules[point.module], "__file__", None) or ".").resolve()
    if origin not in own_files(distribution):
        raise ConfigError(
            f"{what}: {point.module} was imported from {origin}, which is no file of that package; remove it from "
            "Python's path"
        )
    if not callable(getattr(found, "module", None)):
        raise ConfigError(f"{what}: {point.value} has no function module(shape); docs/models.md says what a trunk is")
    supplied: SuppliedTrunk = found
    return supplied


def _hash_into(state: Any, value: Any) -> None:
    """Feed numbers, texts, arrays, and lists and tables of such into a hash, each with its kind."""
    match value:
        case np.ndarray() if value.dtype.kind in "biuf":
            state.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        case Mapping():
            state.update(f"table {len(value)}".encode())
            for key in sorted(value):
                state.update(f" {key} ".encode())
                _hash_into(state, value[key])
        case list() | tuple():
            state.update(f"list {len(value)}".encode())
            for item in value:
                _hash_into(state, item)
        case bool() | int() | float() | str() | None:
            state.update(f"{type(value).__name__} {value!r} ".encode())
        case _:
            raise ConfigError(
                f"a trunk's describe gave {type(value).__name__}: it may give numpy arrays of numbers, numbers, texts, "
                "and lists and dictionaries of such"
            )
