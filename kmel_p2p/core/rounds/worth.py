"""What a site measures the contributions of authors by: a stretch of the trunk's way, and who moved it how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.types import Vector


@dataclass(frozen=True, slots=True)
class StretchPart:
    """What entries `first` to `number` of an author added to the trunk.

    Attributes:
        weight: of these entries together, in whole deltas.
        payload_bytes: of these entries together.
        copies: entries that are nearly equal to another author's, which their author knew when it made them.
        alike: entries that are nearly equal to another author's, neither of which names the other as known.
        positions, values: int64[n] and float32[n]: the sum of its entries, weighted; a position may occur repeatedly.
    """

    author: SiteKey
    first: int
    number: int
    weight: float
    payload_bytes: int
    copies: int
    alike: int
    positions: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The trunk half-way between two vectors, float32[d], and each author's part of the way."""

    until: Vector
    half_way: NDArray[np.float32]
    parts: tuple[StretchPart, ...]


StretchWork = Callable[[], Stretch]
"""Work for another thread."""
