"""The shape of a model: a trunk with one output per assay endpoint."""

from __future__ import annotations

from typing import Annotated

import pydantic

from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.training import ModelRule


class Architecture(ModelRule):
    """A trunk with one output per assay endpoint: the charter's `[model]`, what it reads and what it predicts.

    `trunk` names one of `registry.KINDS`, which also says which keys it takes.
    """

    inputs: Annotated[int, pydantic.Field(ge=1)]
    """Width of the features (`FeatureRule.width`)."""
    endpoints: Annotated[tuple[AssayEndpoint, ...], pydantic.Field(min_length=1)]
    """The charter's assay endpoints, in its order."""
    descriptors: Annotated[int, pydantic.Field(ge=0)] = 0
    """How many of the inputs, at their end, are descriptors."""

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
