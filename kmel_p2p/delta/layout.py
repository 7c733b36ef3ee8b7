"""The shape table of the trunk: ordered tensors laid end to end in one flat float32 vector.

Everything that leaves a site is indexed by this vector, so order, names and shapes are part of the protocol:
`Layout.hash` covers them, and every payload carries its first bytes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError, LocalError

MAX_TENSORS = 4096
MAX_VALUES = 2**32
"""Values one trunk may have: 16 GiB as float32. Positions stay far inside int64."""

MAX_BOUND = 1024.0
"""Largest half-width of initial values; keeps them well within the accumulator's range."""

NO_HEAD = -1
"""In place of a head's number: the value belongs to no head."""

_HASH_CONTEXT = b"kmel layout 1"
_GRID_BITS = 30

_BLOCK = 1 << 16
"""Initial values drawn at once: what they are made from stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the trunk.

    Attributes:
        name: unique within the layout; part of the layout's hash.
        shape: dimensions; `()` is a scalar, a zero makes the tensor empty.
        bound: half-width of the uniform initial values; 0.0 starts at `center`. Not part of the hash.
        heads_along: the dimension that counts shared heads: slice h along it belongs to head h. None: the tensor
            belongs to no head. Not part of the hash.
    """

    name: str
    shape: tuple[int, ...]
    bound: float = 0.0
    heads_along: int | None = None
    center: float = 0.0

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def heads(self) -> tuple[int, int]:
        """Number of shared heads in it, and adjacent values of one head; zeros where there are none."""
        if self.heads_along is None or not self.size:
            return 0, 0
        return self.shape[self.heads_along], math.prod(self.shape[self.heads_along + 1 :])


class Layout:
    """Ordered tensors in one flat float32 vector.

    Attributes:
        specs: the tensors in order.
        size: length of the flat vector.
        slices: name -> where the tensor lies in the flat vector.
        hash: BLAKE2b-256 (RFC 7693) of names and shapes, 32 bytes.

    Raises:
        ConfigError: a name is missing, repeated or too long, or a shape or bound is out of range.
    """

    __slots__ = ("_heads", "hash", "size", "slices", "specs")

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        self.specs: tuple[TensorSpec, ...] = tuple(specs)
        if len(self.specs) > MAX_TENSORS:
            raise ConfigError(f"the trunk has {len(self.specs)} tensors; at most {MAX_TENSORS} are possible")
        slices: dict[str, slice] = {}
        start = 0
        for spec in self.specs:
            _check_spec(spec)
            if spec.name in slices:
                raise ConfigError(f"the trunk has two tensors called {spec.name!r}; names must differ")
            slices[spec.name] = slice(start, start + spec.size)
            start += spec.size
        if start > MAX_VALUES:
            raise ConfigError(f"the trunk has {start} values; at most {MAX_VALUES} are possible")
        self.size: int = start
        self.slices: Mapping[str, slice] = MappingProxyType(slices)
        self.hash: bytes = _layout_hash(self.specs)
        self._heads = _head_runs(self.specs, self.slices)

    def __repr__(self) -> str:
        return f"Layout({len(self.specs)} tensors, {self.size} values, {self.hash[:4].hex()})"

    def heads_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Number of the shared head that each position belongs to, int64[positions]; `NO_HEAD` outside.

        None where no tensor of this layout is divided by heads.
        """
        if self._heads is None:
            return None
        starts, owners = self._heads
        found: NDArray[np.int64] = owners[np.searchsorted(starts, positions, side="right") - 1]
        return found

    def places_of_head(self, head: int) -> list[slice]:
        """Where the values of a shared head lie in the flat vector."""
        places: list[slice] = []
        for spec in self.specs:
            heads, width = spec.heads
            if head < heads:
                first = self.slices[spec.name].start + head * width
                starts = range(first, self.slices[spec.name].stop, heads * width)
                places += [slice(start, start + width) for start in starts]
        return places

    def split(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Views of the tensors in `flat` (float32[size]), by name, each in its own shape.

        Raises:
            LocalError: `flat` is not a contiguous float32 vector of this layout's size.
        """
        check_flat(flat, self.size, "flat vector")
        return {spec.name: flat[self.slices[spec.name]].reshape(spec.shape) for spec in self.specs}

    def join(
        self, tensors: Mapping[str, NDArray[np.float32]], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Copy tensors into one flat float32[size] vector; the inverse of `split`.

        Args:
            tensors: exactly this layout's names, each float32 in its own shape.
            out: where to write; None: a new vector.

        Raises:
            LocalError: a name, shape or type differs, or `out` does not fit; `out` is then unchanged.
        """
        if tensors.keys() != self.slices.keys():
            odd = sorted(tensors.keys() ^ self.slices.keys())
            raise LocalError(f"tensors do not match the layout; differing names: {', '.join(map(repr, odd[:5]))}")
        for spec in self.specs:
            tensor = tensors[spec.name]
            if tensor.shape != spec.shape or tensor.dtype != np.float32:
                raise LocalError(
                    f"tensor {spec.name!r} is {tensor.dtype}{list(tensor.shape)}, "
                    f"the layout says float32{list(spec.shape)}"
                )
        if out is None:
            out = np.empty(self.size, np.float32)
        check_flat(out, self.size, "output vector")
        for spec in self.specs:
            out[self.slices[spec.name]] = tensors[spec.name].reshape(-1)
        return out


def check_flat(flat: NDArray[np.float32], size: int, what: str) -> None:
    """Require a contiguous float32 vector of `size` values in this machine's byte order.

    Raises:
        LocalError: it is something else; says what was found.
    """
    if not isinstance(flat, np.ndarray) or flat.dtype != np.float32 or flat.shape != (size,):
        found = f"{flat.dtype}{list(flat.shape)}" if isinstance(flat, np.ndarray) else type(flat).__name__
        raise LocalError(f"{what} is {found}; float32[{size}] is needed")
    if not flat.flags.c_contiguous or not flat.flags.aligned:
        raise LocalError(f"{what} is not contiguous in memory; pass a copy (numpy.ascontiguousarray)")


def initial_trunk(layout: Layout, seed: int) -> NDArray[np.float32]:
    """The trunk every site starts from: uniform in center ± bound per tensor, float32[layout.size].

    Made from the raw 64-bit words of Philox4x64-10 (Salmon et al., SC 2011), whose stream numpy guarantees, with exact
    or correctly rounded arithmetic only: the same bits on every machine and in every version. Each tensor has its own
    stream, keyed by seed and position, so adding a tensor at the end leaves the others unchanged. Values are multiples
    of 2**-30, which the accumulator holds exactly.

    Args:
        layout: shapes, centers and bounds.
        seed: 0 <= seed < 2**64; the charter's.

    Raises:
        ConfigError: the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise ConfigError(f"the model seed is {seed}; it must lie in [0, 2**64)")
    flat = np.zeros(layout.size, np.float32)
    for index, spec in enumerate(layout.specs):
        place = layout.slices[spec.name]
        if spec.bound == 0.0 or spec.size == 0:
            flat[place] = on_grid(np.float64(spec.center))
            continue
        generator = np.random.Philox(key=seed + (index << 64))
        for start in range(place.start, place.stop, _BLOCK):
            block = slice(start, min(start + _BLOCK, place.stop))
            words = generator.random_raw(block.stop - start)
            # The upper 24 bits, centred: odd multiples of 2**-24 in (-1, 1), exact in float64.
            unit = ((words >> np.uint64(40)).astype(np.float64) * 2.0 - (2.0**24 - 1.0)) * 2.0**-24
            flat[block] = on_grid(unit * spec.bound + spec.center)
    return flat


def on_grid(values: Any) -> Any:
    """float64 to float32 multiples of 2**-30, which the ledger's sum holds exactly."""
    return (np.rint(values * 2.0**_GRID_BITS) * 2.0**-_GRID_BITS).astype(np.float32)


def _head_runs(
    specs: tuple[TensorSpec, ...], slices: Mapping[str, slice]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Where each run of values of one head, or of none, starts in the flat vector, and the head it belongs to."""
    if not any(spec.heads[0] for spec in specs):
        return None
    starts, owners = [0], [NO_HEAD]
    for spec in specs:
        place = slices[spec.name]
        heads, width = spec.heads
        if heads:
            runs = range(place.start, place.stop, width)
            starts += runs
            owners += [at % heads for at in range(len(runs))]
        else:
            starts.append(place.start)
            owners.append(NO_HEAD)
    return np.array(starts, np.int64), np.array(owners, np.int64)


def _check_spec(spec: TensorSpec) -> None:
    if not 1 <= len(spec.name.encode()) <= 255:
        raise ConfigError(f"tensor name {spec.name!r:.80} must have 1 to 255 bytes")
    if len(spec.shape) > 8 or any(type(n) is not int or not 0 <= n <= MAX_VALUES for n in spec.shape):
        raise ConfigError(f"tensor {spec.name!r} has shape {spec.shape}; at most 8 non-negative integers are possible")
    if spec.heads_along is not None and not 0 <= spec.heads_along < len(spec.shape):
        raise ConfigError(f"tensor {spec.name!r} has no dimension {spec.heads_along} to be divided along by heads")
    if not 0.0 <= spec.bound <= MAX_BOUND:
        raise ConfigError(f"tensor {spec.name!r} has bound {spec.bound}; it must lie in [0, {MAX_BOUND}]")
    if not abs(spec.center) <= MAX_BOUND:
        raise ConfigError(f"tensor {spec.name!r} has center {spec.center}; it must lie within ±{MAX_BOUND}")


def _layout_hash(specs: tuple[TensorSpec, ...]) -> bytes:
    h = hashlib.blake2b(_HASH_CONTEXT, digest_size=32)
    for spec in specs:
        name = spec.name.encode()
        h.update(struct.pack(f">B{len(name)}sB{len(spec.shape)}Q", len(name), name, len(spec.shape), *spec.shape))
    return h.digest()
