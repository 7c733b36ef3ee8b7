"""One entry of the charter's `[[assay_endpoints]]`: a measured property and the scale all sites agree on for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import pydantic

from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.shown import CONTROL, PRINTABLE, PRINTABLE_WORDS
from kmel_p2p.agreement.strict import StrictModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABEL = rf"^[\p{{L}}\p{{N}}][^{CONTROL}]*$"
"""Of the name of an assay endpoint: it heads columns and stands in tables, reports and logs."""

MAX_ENDPOINTS = 1024
"""Assay endpoints of a federation, those that were retired included."""

Kind: TypeAlias = Literal["regression", "classification"]

EndpointName: TypeAlias = Annotated[
    str,
    worded_pattern(LABEL, "a text that begins with a letter or digit, in one line", min_length=1, max_length=64),
]


class AssayEndpoint(StrictModel):
    """A measured property: unit, transform, the label normalisation all sites use, and whose its head is.

    Three scales occur. *Native* values carry `unit`. *Transformed* values are what errors are reported in (log10 of
    the native value where `transform` says so). *Labels* are what the network is trained on:
    (transformed - center) / scale, with constants from the charter, never from a site's data.
    """

    name: EndpointName
    """Begins with a letter or digit; no control characters."""
    kind: Kind = "regression"
    """`regression` for numbers, `classification` for classes 0 and 1."""
    unit: Annotated[str, worded_pattern(PRINTABLE, PRINTABLE_WORDS, max_length=32)] = ""
    """Of native values; each site's are converted to it."""
    transform: Literal["identity", "log10"] = "identity"
    """`log10`: trained on, and scored, as logarithms."""
    valid_range: tuple[float, float] = (-1e9, 1e9)
    """Lowest and highest credible native value, inclusive; sites refuse values outside it."""
    center: float = 0.0
    """A usual transformed value; keep it and `scale` so that labels lie mostly between -3 and 3."""
    scale: Annotated[float, pydantic.Field(gt=0.0)] = 1.0
    """Usual spread of transformed values. Errors beyond one scale count linearly in the loss."""
    head: Literal["shared", "private"] = "private"
    """`shared` parameters travel with the trunk, `private` ones stay at the site."""
    weight: Annotated[float, pydantic.Field(ge=0.0)] = 1.0
    """Of its terms in the loss."""
    positive_weight: Annotated[float, pydantic.Field(gt=0.0, le=1000.0)] = 1.0
    """Of class 1 in the loss; above 1 where it is rare."""
    beyond_bound: Annotated[float, pydantic.Field(ge=0.0, le=1.0)] = 0.0
    """Cost of predicting beyond a bound (40 for >30), relative to short of it. With 0 a prediction of 400 for ">30" is
    as good as one of 31; above 0 predictions are drawn back towards the bound; 1 takes the bound as a value."""

    @pydantic.model_validator(mode="after")
    def _scale_fits(self) -> AssayEndpoint:
        if not self.valid_range[0] < self.valid_range[1]:
            raise ValueError("valid_range must be (lowest, highest) with lowest < highest")
        if self.kind == "classification" and (self.transform, self.center, self.scale) != ("identity", 0.0, 1.0):
            raise ValueError("a classification has no transform, center or scale")
        return self

    @property
    def reported_unit(self) -> str:
        """Unit of transformed values, for tables and reports."""
        return f"log10({self.unit})" if self.transform == "log10" and self.unit else self.unit

    def refusal(self, native: float) -> str | None:
        """Why a native value cannot be used, or None when it can."""
        if not math.isfinite(native):
            return "not a finite number"
        if self.transform == "log10" and native <= 0:
            return f"{native:g} has no logarithm; {self.name} is used as log10"
        low, high = self.valid_range
        if not low <= native <= high:
            return f"{native:g} {self.unit} is outside the charter's valid range {low:g} to {high:g}"
        return None

    def label(self, native: NDArray[np.float64]) -> NDArray[np.float64]:
        """Native values (any shape, checked by `refusal`) to labels."""
        import numpy as np  # here, so that commands that only read settings start without it

        transformed = np.log10(native) if self.transform == "log10" else native
        return (transformed - self.center) / self.scale

    def transformed(self, labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Labels to the scale errors are reported in."""
        return labels * self.scale + self.center

    def native(self, labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Labels back to `unit`."""
        import numpy as np

        transformed = self.transformed(labels)
        if self.transform == "log10":
            # A wild prediction must not overflow to infinity in the user's table.
            return np.power(10.0, np.clip(transformed, -300.0, 300.0))
        return transformed


def endpoint_name(names: Sequence[str], place: int) -> str:
    """Name of an assay endpoint by its place in the charter, for people. Others say the place: it may be of none."""
    return names[place] if place < len(names) else f"assay endpoint {place + 1}"
