"""The charter's `[model.package]`: a trunk that comes as a Python package, exactly which one, and its tensors.

The tensors are written out, so that a peer knows what may leave it without running a line of the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import pydantic

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.strict import StrictModel

_NUMBER = r"-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?"

TensorText = Annotated[
    str,
    worded_pattern(
        rf"^[A-Za-z0-9_.-]{{1,200}} (-|[0-9]+(x[0-9]+){{0,7}}) {_NUMBER} {_NUMBER}$",
        "NAME SHAPE CENTER BOUND, as in 'layers.0.weight 64x32 0 0.125' (shape - of a single number)",
        max_length=320,
    ),
]
"""One tensor: its name in the module, its shape, and the middle and half-width of its uniform initial values."""


@dataclass(frozen=True, slots=True)
class PackagedTensor:
    """What a `TensorText` says.

    Attributes:
        name: of the parameter in the package's module.
        center, bound: initial values are uniform within center ± bound.
    """

    name: str
    shape: tuple[int, ...]
    center: float
    bound: float

    @classmethod
    def parse(cls, text: str) -> PackagedTensor:
        """From a text that matches the pattern."""
        name, shape, center, bound = text.split(" ")
        sizes = () if shape == "-" else tuple(int(size) for size in shape.split("x"))
        return cls(name, sizes, float(center), float(bound))

    @property
    def text(self) -> str:
        """What `parse` reads back to an equal tensor.

        Raises:
            ConfigError: the name or the number of dimensions cannot be written.
        """
        shape = "x".join(map(str, self.shape)) or "-"
        text = f"{self.name} {shape} {_number(self.center)} {_number(self.bound)}"
        try:
            pydantic.TypeAdapter(TensorText).validate_python(text)
        except pydantic.ValidationError:
            raise ConfigError(
                f"tensor {self.name!r:.80} of shape {list(self.shape)}: a name has at most 200 letters, digits, dots, "
                "- and _, a shape at most 8 dimensions, and initial values are finite"
            ) from None
        return text


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))


class TrunkPackage(StrictModel):
    """A trunk that comes as a Python package, and exactly which one: `kmel-peer trunk draft` writes this."""

    name: Annotated[
        str,
        worded_pattern(
            r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$", "the name of a Python package, as pip takes it"
        ),
    ]
    """The Python package, as pip installs it. Its entry point in the group kmel_p2p.trunks is `model.trunk`."""
    version: Annotated[str, worded_pattern(r"^[A-Za-z0-9.+!_-]{1,64}$", "a version, as pip shows it")]
    """The one version that every site installs."""
    sha256: Annotated[str, worded_pattern(r"^[0-9a-f]{64}$", "64 hex digits, as kmel-peer trunk check prints")]
    """Of the files that are installed, as `kmel-peer trunk check` prints it. A site with others does not start."""
    options: Annotated[
        tuple[Annotated[str, worded_pattern(r"^[a-z][a-z0-9_]{0,31}=[!-~]{0,200}$", "KEY=VALUE")], ...],
        pydantic.Field(max_length=32),
    ] = ()
    """Settings of the package's own, each as KEY=VALUE; its documentation says which there are."""
    tensors: Annotated[tuple[TensorText, ...], pydantic.Field(min_length=1, max_length=4000)]
    """Everything of the trunk that is trained and leaves a site, in this order: name, shape, and the middle and
    half-width of the initial values."""

    @pydantic.model_validator(mode="after")
    def _options_differ(self) -> TrunkPackage:
        keys = [option.partition("=")[0] for option in self.options]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise ValueError(f"option {repeated[0]!r} is given twice")
        return self

    @property
    def settings(self) -> dict[str, str]:
        """`options` by key."""
        return {key: value for key, _, value in (option.partition("=") for option in self.options)}

    @property
    def parsed(self) -> list[PackagedTensor]:
        """`tensors`, read."""
        return [PackagedTensor.parse(text) for text in self.tensors]
