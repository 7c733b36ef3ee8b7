"""What one site holds of the federation's weighted sum: integer mass and, per value, an integer sum.

A value of the sum is (trunk - initial trunk) * mass * 2**12, int64. The range is closed: the total mass stays below
2**44 and the trunk within 2**6 of the initial one, so sums stay below 2**62. Everything that crosses sites is an
integer, so mass is conserved exactly, not to rounding. Push-sum: Kempe, Dobra and Gehrke (FOCS 2003); with gradients:
Assran et al. (ICML 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug, LocalError
from kmel_p2p.agreement.identity import digest
from kmel_p2p.delta.layout import check_flat

DIGEST_CONTEXT = b"kmel pushsum state 1"

VALUE_BITS = 12
"""The sum is counted in 2**-12 of trunk value times mass: a mass of 2**20 resolves the trunk to 2**-32."""

MASS_BITS = 10
"""The weight of one measurement is a mass of 2**10, so that halving a small site's mass stays exact enough."""

MAX_MASS = 2**44
"""Mass of the whole federation: 2**10 sites of the largest weight."""

MAX_DISTANCE = 64.0
"""Largest change of a trunk value since the initial trunk that a transfer may carry."""

OWN_DISTANCE = MAX_DISTANCE / 2
"""The same for what is trained here; the rest is room for quantisation and mixing."""

_BLOCK = 1 << 16

Sums = NDArray[np.int64]


class Holding:
    """Sum and mass of one site. Single-threaded.

    Attributes:
        sums: int64[d].
        mass: 0 while nothing was minted or received; then `sums` is zero.
        revision: rises with every change; not stored.
    """

    __slots__ = ("_base", "mass", "revision", "sums")

    def __init__(self, base: NDArray[np.float32], sums: Sums | None = None, mass: int = 0) -> None:
        """Args: `base` is the initial trunk, float32[d]."""
        check_flat(base, base.size, "initial trunk")
        self._base = base
        self.sums: Sums = np.zeros(base.size, np.int64) if sums is None else sums
        self.mass = mass
        self.revision = 0
        if self.sums.shape != base.shape or not 0 <= mass <= MAX_MASS:
            raise Bug("sum and mass of a holding do not fit the trunk")

    def __len__(self) -> int:
        return int(self.sums.size)

    def trunk(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Initial trunk + sum / mass, float32[d]; the initial trunk while there is no mass.

        Raises:
            LocalError: `out` is not a float32 vector of this size.
        """
        if out is None:
            out = np.empty(len(self), np.float32)
        check_flat(out, len(self), "output vector")
        unit = 2.0**-VALUE_BITS / self.mass if self.mass else 0.0
        for block in _blocks(len(self)):
            out[block] = self._base[block] + self.sums[block] * unit
        return out

    def digest_work(self, context: bytes) -> Callable[[], bytes]:
        """Work for another thread, on a copy: BLAKE2b-256 of context, mass (8 bytes) and sum (little-endian int64)."""
        sums, mass = self.sums.copy(), self.mass.to_bytes(8, "big")
        return lambda: digest(DIGEST_CONTEXT, context, mass, sums.astype("<i8", copy=False).tobytes())

    def mint(self, mass: int) -> None:
        """Add own starting mass at the present trunk, so that it moves nobody's mean but by its weight."""
        self._make_room(mass)
        if self.mass:
            self.sums += _scaled(self.sums, mass, self.mass)
        self.mass += mass

    def moved(self, change: NDArray[np.float32]) -> Sums:
        """The sum with the trunk moved by `change`, float32[d], with all the mass held. Alters nothing.

        Raises:
            LocalError: not finite, or the trunk would leave its range.
        """
        if not self.mass:
            raise Bug("a trunk without mass cannot move")
        check_flat(change, len(self), "change of the trunk")
        factor = float(self.mass) * 2.0**VALUE_BITS
        sums = np.empty_like(self.sums)
        for block in _blocks(len(self)):
            way = change[block].astype(np.float64) * factor
            # Testing `<=` and not `>` also catches NaN.
            if not bool((np.abs(self.sums[block] + way) <= OWN_DISTANCE * factor).all()):
                raise LocalError(f"training moved a trunk value by more than {OWN_DISTANCE:.0f}, or to no number")
            np.add(self.sums[block], np.rint(way).astype(np.int64), out=sums[block])
        return sums

    def replace(self, sums: Sums) -> None:
        """Take what `moved` gave."""
        self.sums = sums
        self.revision += 1

    def share(self, mass: int, block: slice) -> NDArray[np.float64]:
        """The part of the sum that belongs to `mass`, before quantisation, float64[block]."""
        return np.multiply(self.sums[block], mass / self.mass, dtype=np.float64)

    def take(self, sums: Sums, mass: int) -> None:
        """Debit what was quantised: the rest, with its error, stays here."""
        if not 0 < mass < self.mass:
            raise Bug(f"{mass} cannot be taken from a mass of {self.mass}")
        self.sums -= sums
        self.mass -= mass
        self.revision += 1

    def put(self, sums: Sums, mass: int) -> None:
        """Credit what another site was debited."""
        self._make_room(mass)
        self.sums += sums
        self.mass += mass

    def put_replacing(self, sums: Sums, mass: int) -> None:
        """Credit, and revalue the mass held before at the received trunk: what was here is too old to count."""
        self._make_room(mass)
        self.sums = sums + _scaled(sums, self.mass, mass)
        self.mass += mass

    def put_revalued(self, mass: int) -> None:
        """Credit mass at the trunk held here: what came with it is too old to count."""
        self._make_room(mass)
        if self.mass:
            self.sums += _scaled(self.sums, mass, self.mass)
        self.mass += mass

    def reset(self, mass: int) -> None:
        """Hold so much mass, whatever was held before, at the same trunk."""
        self.sums = _scaled(self.sums, mass, self.mass) if self.mass else self.sums
        self.mass = mass
        self.revision += 1

    def has_room(self, mass: int) -> bool:
        """Whether `mass` more keeps the total within bounds."""
        return self.mass + mass <= MAX_MASS

    def _make_room(self, mass: int) -> None:
        if mass <= 0 or not self.has_room(mass):
            raise Bug(f"mass {mass} does not fit above {self.mass}")
        self.revision += 1


def within_distance(sums: Sums, mass: int) -> bool:
    """Whether every value of a transfer lies within `MAX_DISTANCE` of the initial trunk."""
    limit = min(int(MAX_DISTANCE) * mass << VALUE_BITS, 2**62)
    return sums.size == 0 or (int(sums.max()) <= limit and int(sums.min()) >= -limit)


def _scaled(sums: Sums, numerator: int, denominator: int) -> Sums:
    """`sums` * numerator / denominator, rounded; the same bits on every machine (one IEEE product per value)."""
    out = np.empty_like(sums)
    ratio = numerator / denominator
    for block in _blocks(sums.size):
        out[block] = np.rint(sums[block] * ratio)
    return out


def _blocks(size: int) -> Iterator[slice]:
    """Slices that keep temporary arrays inside the processor's cache."""
    for start in range(0, size, _BLOCK):
        yield slice(start, min(start + _BLOCK, size))
