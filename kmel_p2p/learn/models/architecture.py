"""The shape of a model: a trunk with one output per assay endpoint."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import ConfigError

MAX_MEMBERS = 32


@dataclass(frozen=True, slots=True)
class Architecture:
    """A trunk with one output per assay endpoint, in the charter's order.

    Attributes:
        inputs: width of the features (`FeaturePolicy.width`).
        hidden: widths of the layers of the (last) perceptron.
        endpoints: the charter's assay endpoints, in its order.
        dropout: probability, after each layer of the trunk while training.
        calibrate: whether each site has a private gain and shift for every shared head.
        members: networks of this shape, trained side by side and averaged (an ensemble). Trunk and heads are that
            many times larger.
        trunk: kind of the trunk (`registry.KINDS`), which also says which of the following it takes.
        descriptors: how many of the inputs, at their end, are descriptors.
        message_width: numbers in a message along a bond.
        depth: rounds of messages.
    """

    inputs: int
    hidden: tuple[int, ...]
    endpoints: tuple[AssayEndpoint, ...]
    dropout: float = 0.0
    calibrate: bool = False
    members: int = 1
    trunk: str = "mlp"
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

    @property
    def shared(self) -> tuple[int, ...]:
        """Places (in `endpoints`) of the assay endpoints whose heads travel with the trunk."""
        return tuple(i for i, endpoint in enumerate(self.endpoints) if endpoint.head == "shared")

    @property
    def private(self) -> tuple[int, ...]:
        """Places of the assay endpoints whose heads stay at the site."""
        return tuple(i for i, endpoint in enumerate(self.endpoints) if endpoint.head == "private")

    @property
    def ensemble(self) -> tuple[int, ...]:
        """Leading dimension of an ensemble's tensors; a single network has none."""
        return (self.members,) if self.members > 1 else ()
