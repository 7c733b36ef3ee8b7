"""How the flat trunk is divided into chunks, and how many values of each may be sent.

Chunks never span two tensors. The last chunk of a tensor may be short and keeps proportionally fewer values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.delta.layout import Layout

MIN_CHUNK = 16
MAX_CHUNK = 65536


@dataclass(frozen=True)
class CodecParameters:
    """What all sites of a charter agree on.

    Attributes:
        chunk: values per chunk, 16 to 65536.
        kept: values sent per chunk, 1 to `chunk`.
        bits: bits per value, 1, 2 or 4: a sign and 1, 2 or 8 magnitudes.

    Raises:
        ConfigError: out of range.
    """

    chunk: int = 4096
    kept: int = 64
    bits: int = 2

    def __post_init__(self) -> None:
        if type(self.chunk) is not int or not MIN_CHUNK <= self.chunk <= MAX_CHUNK:
            raise ConfigError(f"chunk is {self.chunk!r}; it must be an integer in [{MIN_CHUNK}, {MAX_CHUNK}]")
        if type(self.kept) is not int or not 1 <= self.kept <= self.chunk:
            raise ConfigError(f"kept is {self.kept!r}; it must be an integer in [1, chunk = {self.chunk}]")
        if self.bits not in (1, 2, 4):
            raise ConfigError(f"bits is {self.bits!r}; it must be 1, 2 or 4")


class ChunkPlan:
    """The chunks of a layout. Empty tensors have none and are left out of the tensor numbering.

    Attributes:
        tensors: number of non-empty tensors.
        shapes: (rows, columns) of each: its first dimension and the others multiplied; a vector is one row.
        offsets: int64[tensors + 1], position of each tensor's first value; the last item is the trunk's size.
        first: int64[tensors + 1], number of each tensor's first chunk; the last item is the number of chunks.
        tensor: int64[chunks], the tensor each chunk belongs to.
        start: int64[chunks], position of each chunk's first value.
        length: int64[chunks], its values.
        kept: int64[chunks], at most this many of them are sent.
    """

    __slots__ = ("first", "kept", "length", "offsets", "parameters", "shapes", "start", "tensor", "tensors")

    def __init__(self, layout: Layout, parameters: CodecParameters) -> None:
        specs = [spec for spec in layout.specs if spec.size]
        sizes = np.array([spec.size for spec in specs], np.int64)
        per_tensor = -(-sizes // parameters.chunk)
        self.parameters = parameters
        self.tensors: int = len(specs)
        self.shapes = [(s.shape[0], s.size // s.shape[0]) if len(s.shape) > 1 else (1, s.size) for s in specs]
        self.offsets: NDArray[np.int64] = _offsets(sizes)
        self.first: NDArray[np.int64] = _offsets(per_tensor)
        self.tensor: NDArray[np.int64] = np.repeat(np.arange(self.tensors), per_tensor)
        within = np.arange(self.first[-1]) - self.first[:-1][self.tensor]
        self.start: NDArray[np.int64] = self.offsets[self.tensor] + within * parameters.chunk
        self.length: NDArray[np.int64] = np.minimum(sizes[self.tensor] - within * parameters.chunk, parameters.chunk)
        self.kept: NDArray[np.int64] = -(-self.length * parameters.kept // parameters.chunk)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return int(self.first[-1])


def interval_of(positions: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which interval each position lies in, int64[positions].

    Args:
        positions: increasing.
        starts: non-decreasing starts of adjoining intervals, the first one not above the first position. Looking the
            starts up among the positions is far quicker than the other way round.
    """
    counts = np.diff(np.searchsorted(positions, starts), append=positions.size)
    return np.repeat(np.arange(starts.size), counts)


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
