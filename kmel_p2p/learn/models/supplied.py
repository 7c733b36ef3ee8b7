"""What a package brings as a trunk (docs/models.md, "A trunk of your own"): a protocol, and what it is told.

A supplier imports nothing of this program. What the entry point names, a Python module or an object, has these
functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class TrunkShape:
    """What a package's `module` is made for.

    Attributes:
        inputs: width of the features: log2(1 + count) of the fingerprint, then the descriptors.
        descriptors: how many of the inputs, at their end, are descriptors.
        hidden: the charter's; the module gives hidden[-1] numbers for each compound.
        dropout: the charter's.
        options: settings of the package's own, as texts.
    """

    inputs: int
    descriptors: int
    hidden: tuple[int, ...]
    dropout: float
    options: Mapping[str, str] = field(default_factory=dict)


class SuppliedTrunk(Protocol):
    """What an entry point of the group `kmel_p2p.trunks` names.

    It may have two functions more:

    - `describe(smiles)`: what the module reads of one standardised structure beside its features. numpy arrays of
      numbers, numbers, texts, and lists and dictionaries of such; the same on every machine. `forward` then takes a
      list of what it gave for each compound of a batch as its second argument.
    - `initial(name, shape)`: (center, bound) of the uniform initial values of a parameter, or None for the usual ones
      (`trunk_draft.usual_start`).
    """

    def module(self, shape: TrunkShape) -> nn.Module:
        """A module with `forward(features)`: float32[n, inputs] to float32[n, hidden[-1]], each row by itself."""
