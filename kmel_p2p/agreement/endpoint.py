"""One measured property and the scale all sites agree on for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError

Kind = Literal["regression", "classification"]
Transform = Literal["identity", "log10"]
Head = Literal["shared", "private"]


@dataclass(frozen=True, slots=True)
class AssayEndpoint:
    """A measured property, as the charter defines it.

    Three scales occur. *Native* values carry `unit`. *Transformed* values are what errors are reported in (log10 of
    the native value where `transform` says so). *Labels* are what the network is trained on:
    (transformed - center) / scale, with constants from the charter, never from a site's data.

    Attributes:
        valid_range: lowest and highest credible native value, inclusive.
        head: `shared` parameters travel with the trunk, `private` ones stay at the site.
        weight: of its terms in the loss.
        positive_weight: of class 1 relative to class 0.
        beyond_bound: what lying beyond a bound costs, relative to lying short of it (0 to 1). With 0 a prediction of
            400 for ">30" is as good as one of 31; above 0 predictions are drawn back towards the bound.
    """

    name: str
    kind: Kind = "regression"
    unit: str = ""
    transform: Transform = "identity"
    valid_range: tuple[float, float] = (-math.inf, math.inf)
    center: float = 0.0
    scale: float = 1.0
    head: Head = "private"
    weight: float = 1.0
    positive_weight: float = 1.0
    beyond_bound: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.beyond_bound <= 1:
            raise ConfigError(f"assay endpoint {self.name!r}: beyond_bound is {self.beyond_bound}; it must be 0 to 1")
        if not self.scale > 0:
            raise ConfigError(f"assay endpoint {self.name!r}: scale is {self.scale}; it must be above 0")
        if not self.valid_range[0] < self.valid_range[1]:
            raise ConfigError(f"assay endpoint {self.name!r}: valid_range must be (lowest, highest)")
        if self.kind == "classification" and (self.transform, self.center, self.scale) != ("identity", 0.0, 1.0):
            raise ConfigError(f"assay endpoint {self.name!r}: a classification has no transform, center or scale")

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
        transformed = np.log10(native) if self.transform == "log10" else native
        return (transformed - self.center) / self.scale

    def transformed(self, labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Labels to the scale errors are reported in."""
        return labels * self.scale + self.center

    def native(self, labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Labels back to `unit`."""
        transformed = self.transformed(labels)
        if self.transform == "log10":
            # A wild prediction must not overflow to infinity in the user's table.
            return np.power(10.0, np.clip(transformed, -300.0, 300.0))
        return transformed
