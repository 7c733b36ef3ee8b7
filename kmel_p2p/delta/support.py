"""The sections of a payload that say which values are sent."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta import golomb
from kmel_p2p.delta.bits import BitReader, pack_unary, pack_varint
from kmel_p2p.delta.chunks import ChunkPlan
from kmel_p2p.delta.structure import (
    LEVELS,
    MAX_LEVEL,
    Axis,
    Cells,
    MatrixStructure,
    Order,
    classes_of,
    describe,
    may_be_structured,
)

_ROWS = 1
_COLUMNS = 2


@dataclass(slots=True)
class Support:
    """A support as the format has it: a structure per tensor, and the gaps between sent cells per class."""

    structures: list[MatrixStructure] = field(default_factory=list)
    gaps: list[NDArray[np.int64]] = field(default_factory=list)

    def pack(self) -> bytes:
        """Directory, levels of rows and columns, gaps."""
        counts = np.array([gaps.size for gaps in self.gaps], np.int64)
        gaps = np.concatenate([np.empty(0, np.int64), *self.gaps])
        parameters = golomb.parameters(gaps, counts)
        directory = bytearray()
        classes = zip(counts.tolist(), parameters.tolist(), strict=True)
        ranks: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        for structure in self.structures:
            directory.append(_ROWS * (structure.rows is not None) + _COLUMNS * (structure.columns is not None))
            for axis in (structure.rows, structure.columns):
                if axis is not None:
                    directory += _pack_order(axis.order)
                    ranks.append(axis.ranks())
            for _ in structure.classes:
                count, parameter = next(classes)
                directory += pack_varint(count)
                if count:
                    directory.append(parameter)
        levels = pack_unary(np.concatenate(ranks))
        return bytes(directory) + levels + golomb.pack_golomb(gaps, counts, parameters)


def describe_support(
    positions: NDArray[np.int64], sent: NDArray[np.bool_], active: NDArray[np.int64], plan: ChunkPlan
) -> Support:
    """The support of increasing positions, which lie in the chunks marked in `sent` and in all `active` tensors."""
    support = Support()
    edges = np.searchsorted(positions, plan.offsets)
    for tensor in active.tolist():
        local = positions[edges[tensor] : edges[tensor + 1]] - plan.offsets[tensor]
        structure = describe(local, *plan.shapes[tensor])
        support.structures.append(structure)
        cells = _cells(tensor, sent, structure, plan)
        support.gaps += [np.diff(numbers, prepend=-1) - 1 for numbers in cells.numbers(local)]
    return support


def max_directory_bytes(rows: int, columns: int, kept: int) -> int:
    """Most bytes that one tensor can take in the directory."""
    both = may_be_structured(rows, columns)
    return 1 + 3 * 2 * both + len(classes_of(both, both)) * (len(pack_varint(kept)) + 1)


def read_support(
    reader: BitReader, sent: NDArray[np.bool_], active: NDArray[np.int64], plan: ChunkPlan
) -> NDArray[np.int64]:
    """The positions, int64[n], increasing.

    Raises:
        WireError: cut off, out of bounds, more values than the sent chunks may have, or not the one spelling.
    """
    room = np.bincount(plan.tensor[sent], weights=plan.kept[sent], minlength=plan.tensors)
    listed = [_read_directory(reader, plan.shapes[tensor], int(room[tensor])) for tensor in active.tolist()]
    structures = _read_levels(reader, listed, [plan.shapes[tensor] for tensor in active.tolist()])
    counts = np.array([count for item in listed for count in item.counts], np.int64)
    parameters = np.array([parameter for item in listed for parameter in item.parameters], np.int64)
    gaps = golomb.read_golomb(reader, counts, parameters)
    numbers = iter(np.split(gaps + 1, np.cumsum(counts)[:-1]))
    parts = [np.empty(0, np.int64)]
    for tensor, structure in zip(active.tolist(), structures, strict=True):
        mine = [np.cumsum(next(numbers)) - 1 for _ in structure.classes]
        local = _cells(tensor, sent, structure, plan).positions(mine)
        if describe(local, *plan.shapes[tensor]) != structure:
            raise WireError("a tensor's structure is not that of its support")
        parts.append(local + plan.offsets[tensor])
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class _Listed:
    """One tensor's part of the directory: orders of levels (rows, columns), counts and Golomb parameters by class."""

    orders: tuple[Order | None, Order | None]
    counts: list[int]
    parameters: list[int]


def _read_directory(reader: BitReader, shape: tuple[int, int], room: int) -> _Listed:
    described = int(reader.octets(1)[0])
    if described > _ROWS | _COLUMNS or (described and not may_be_structured(*shape)):
        raise WireError("a tensor of this shape cannot have a structure")
    rows = _read_order(reader) if described & _ROWS else None
    columns = _read_order(reader) if described & _COLUMNS else None
    counts, parameters = [], []
    for _ in classes_of(rows is not None, columns is not None):
        count = reader.varint(room)
        room -= count
        counts.append(count)
        parameters.append(int(reader.octets(1)[0]) if count else 0)
    return _Listed((rows, columns), counts, parameters)


def _read_levels(reader: BitReader, listed: list[_Listed], shapes: list[tuple[int, int]]) -> list[MatrixStructure]:
    pairs = [
        (o, n) for item, shape in zip(listed, shapes, strict=True) for o, n in zip(item.orders, shape, strict=True)
    ]
    ranks = reader.unary(sum(lines for order, lines in pairs if order is not None))
    if int(ranks.max(initial=0)) >= LEVELS:
        raise WireError("a level is out of range")
    axes: list[Axis | None] = []
    start = 0
    for order, lines in pairs:
        if order is None:
            axes.append(None)
            continue
        axes.append(Axis(np.array(order)[ranks[start : start + lines]] - MAX_LEVEL, order))
        start += lines
    return [MatrixStructure(rows, columns) for rows, columns in zip(axes[::2], axes[1::2], strict=True)]


def _pack_order(order: Order) -> bytes:
    """Seven numbers of three bits, then three zero bits."""
    packed = 0
    for place in order:
        packed = packed << 3 | place
    return (packed << 3).to_bytes(3, "big")


def _read_order(reader: BitReader) -> Order:
    packed = int.from_bytes(reader.octets(3).tobytes(), "big")
    order = tuple(packed >> 3 * (LEVELS - place) & 7 for place in range(LEVELS))
    if sorted(order) != list(range(LEVELS)) or packed & 7:
        raise WireError("an order of levels is not a permutation")
    return order


def _cells(tensor: int, sent: NDArray[np.bool_], structure: MatrixStructure, plan: ChunkPlan) -> Cells:
    rows, columns = plan.shapes[tensor]
    chunks = sent[plan.first[tensor] : plan.first[tensor + 1]]
    return Cells(rows * columns, columns, plan.parameters.chunk, chunks, structure)
