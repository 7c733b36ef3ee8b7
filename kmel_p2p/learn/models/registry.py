"""The kinds of trunk that a charter can choose. To add one, write its module and list it in `KINDS`.

Others come as packages: see `packaged`.

Importing a kind must be cheap: the daemon does it. Only `body`, `molecules` and `reference_hash` may load torch, RDKit
and packages of an extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import TensorSpec
from kmel_p2p.learn.models import dmpnn, mlp, projected
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.packaged import PackagedTrunk

if TYPE_CHECKING:
    from torch import Tensor


class TrunkKind(Protocol):
    """One kind of trunk: the layers below the heads.

    Attributes:
        name: what the charter's `model.trunk` says.
        summary: what the trunk reads, for help texts.
        extra: optional dependencies that every site installs (`pip install 'kmel-p2p[EXTRA]'`); empty for none.
        packages: installed packages, beside RDKit, whose versions decide what the trunk sees of a molecule.
        keys: keys of the charter's `[model]` that not every kind has. Set for another kind, they are an error.
        by_input: weights whose memory a network orders by input, so that those of one input lie together.
        perceptron: whether it is a perceptron over the features, or over a fixed projection of them.
        compound_gradients: whether it is small and simple enough for the gradient of every compound by itself, which
            differential privacy clips: a perceptron over what `TrunkBody.read` gives.
        drafted: keys of the charter's `[model]` that a draft sets for this kind, whatever the size of the sites.
    """

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def extra(self) -> str: ...
    @property
    def packages(self) -> tuple[str, ...]: ...
    @property
    def keys(self) -> frozenset[str]: ...
    @property
    def by_input(self) -> frozenset[str]: ...
    @property
    def perceptron(self) -> bool: ...
    @property
    def compound_gradients(self) -> bool: ...
    @property
    def drafted(self) -> Mapping[str, Any]: ...

    def check(self, architecture: Architecture) -> None:
        """Raises:
        ConfigError: this kind cannot have that shape.
        """

    def tensors(self, architecture: Architecture) -> list[TensorSpec]:
        """Parameters in the order of the layout, without heads. Names start with `trunk.`."""

    def cost(self, architecture: Architecture) -> int:
        """Multiplications for one typical compound in one pass, without heads.

        A training step costs about three passes for each compound of its batch.
        """

    def body(self, architecture: Architecture, tensors: Mapping[str, Tensor]) -> TrunkBody:
        """The trunk over given parameters.

        Args:
            tensors: parameters by name; their memory is the network's flat vector, and `.grad` the flat gradient.

        Raises:
            ConfigError: a package is missing or of another version.
        """

    def projection(self, architecture: Architecture) -> NDArray[np.float32] | None:
        """What fingerprints are multiplied by before a perceptron reads them, float32[bits, k]; None: nothing."""

    def molecules(self, smiles: Sequence[str]) -> Molecules | None:
        """What the trunk reads of these standardised structures beside their features; None where that is nothing."""

    def reference_hash(self, smiles: Sequence[str], model: ModelRule, bits: int) -> str:
        """BLAKE2b-256 (hex) of what the trunk makes of these structures beside their features; empty: nothing.

        Args:
            model: of the charter.
            bits: length of the fingerprint.

        Raises:
            ConfigError: a package is missing or of another version.
        """


class TrunkBody(Protocol):
    """A trunk with parameters, inside one network."""

    def parts(self, rows: NDArray[np.float32], most: int) -> Iterator[NDArray[np.float32]]:
        """All rows in order, at most `most` at a time, fewer where a batch would take too much memory."""

    def read(self, rows: NDArray[np.float32]) -> Any:
        """The input of a pass, on the network's device, from rows of `Inputs.rows`."""

    def __call__(self, reading: Any, /, training: bool) -> Tensor:
        """Activations of the last layer, float32[members, n, hidden[-1]]."""


class Molecules(Protocol):
    """What a kind of trunk reads of n molecules beside their features."""

    def attach(self, features: NDArray[np.float32], rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """The features of these rows, with what belongs to their molecules attached for `TrunkBody.read`."""

    def prepare(self, progress: Callable[[int, int], None]) -> None:
        """Compute for all molecules now what `attach` would compute when first asked.

        Args:
            progress: called with (molecules done, molecules in all); may raise to interrupt.
        """


KINDS: Mapping[str, TrunkKind] = {kind.name: kind for kind in (mlp.KIND, dmpnn.KIND, projected.KIND)}


GRAPH_TRUNK = dmpnn.KIND.name
"""The kind that reads molecular graphs."""

GRAPH_MODEL = ModelRule(trunk=GRAPH_TRUNK)
"""A model of that kind."""


def trunk_kind(name: str) -> TrunkKind:
    """The kind of that name that is this program's own.

    Raises:
        ConfigError: there is none.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise ConfigError(
            f"model.trunk is {name!r:.40}; this version has: {', '.join(KINDS)}. One that comes as a package needs the "
            "section [model.package], which kmel-peer trunk draft writes"
        )
    return kind


def kind_of(model: ModelRule) -> TrunkKind:
    """The kind of trunk of a charter's `[model]`. Where a package brings it, the package need not be installed.

    Raises:
        ConfigError: the trunk is unknown, or both this program's and a package's.
    """
    if model.package is None:
        return trunk_kind(model.trunk)
    if model.trunk in KINDS:
        raise ConfigError(
            f"model.trunk is {model.trunk!r}, which this program has itself, and model.package names "
            f"{model.package.name}: remove the section [model.package], or name the trunk as the package does"
        )
    return PackagedTrunk(model.trunk, model.package)


def check_model(architecture: Architecture) -> TrunkKind:
    """The architecture's kind of trunk, once it is known that the two fit.

    Raises:
        ConfigError: the trunk is unknown or cannot have that shape, or a key is set that belongs to another trunk.
    """
    kind = kind_of(architecture)
    for other in KINDS.values():
        for key in sorted(other.keys - kind.keys):
            usual = ModelRule.model_fields[key].default
            if getattr(architecture, key) != usual:
                raise ConfigError(
                    f"model.{key} belongs to trunk {other.name}; with trunk {kind.name} it has no effect: "
                    f"remove it, or set it to {usual}"
                )
    kind.check(architecture)
    return kind
