"""The byte format of a payload (docs/delta.md): one spelling per delta, everything else is a `WireError`."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta import golomb
from kmel_p2p.delta.bits import BitReader, pack_fixed, pack_flags
from kmel_p2p.delta.chunks import ChunkPlan
from kmel_p2p.delta.scale import MAX_SCALE_INDEX, SCALES, TABLES, lowest_table
from kmel_p2p.delta.structure import LEVELS, may_be_structured
from kmel_p2p.delta.support import describe_support, max_directory_bytes, read_support

FORMAT = 1
_HEADER = struct.Struct(">BBHH8s")
_SECTIONS = 16
"""Bytes that padding may take: at most one per section."""

_MAX_STEP_PARAMETER = 15
"""Largest Golomb parameter of scale steps: it shares a byte with the level table."""


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a payload.

    Attributes:
        counts: int64[chunks], values sent; 0 for a zero chunk.
        scales: int64[non-zero chunks], scale numbers.
        tables: int64[tensors], table numbers; 0 for a tensor that sends nothing.
        positions: int64[n], increasing positions in the flat trunk.
        codes: int64[n], level numbers.
        negative: bool[n].
    """

    counts: NDArray[np.int64]
    scales: NDArray[np.int64]
    tables: NDArray[np.int64]
    positions: NDArray[np.int64]
    codes: NDArray[np.int64]
    negative: NDArray[np.bool_]

    def units(self, plan: ChunkPlan) -> NDArray[np.int64]:
        """The values, int64[n] in units of 2**-24."""
        sent = np.flatnonzero(self.counts)
        levels = TABLES[plan.parameters.bits][self.tables[plan.tensor[sent]]] * SCALES[self.scales][:, None]
        row = np.repeat(np.arange(sent.size), self.counts[sent])
        magnitudes = levels[row, self.codes]
        return np.where(self.negative, -magnitudes, magnitudes)


def header(plan: ChunkPlan, layout_hash: bytes) -> bytes:
    """The first bytes of every payload of this layout with these parameters."""
    p = plan.parameters
    return _HEADER.pack(FORMAT, p.bits, p.chunk - 1, p.kept - 1, layout_hash[:8])


def max_bytes(plan: ChunkPlan) -> int:
    """Length of the longest valid payload, or more: the sum of the worst cases of all sections."""
    octets = _HEADER.size + _SECTIONS
    bits = plan.tensors + plan.chunks + plan.parameters.bits * int(plan.kept.sum())
    for tensor, (rows, columns) in enumerate(plan.shapes):
        part = slice(int(plan.first[tensor]), int(plan.first[tensor + 1]))
        kept = int(plan.kept[part].sum())
        chunks = part.stop - part.start
        bits += golomb.worst_bits(kept, rows * columns - kept)
        bits += golomb.worst_bits(chunks - 1, 2 * MAX_SCALE_INDEX * (chunks - 1))
        octets += 2 + max_directory_bytes(rows, columns, kept)
        if may_be_structured(rows, columns):
            bits += LEVELS * (rows + columns)
    return octets + -(-bits // 8)


def pack(body: Body, plan: ChunkPlan, layout_hash: bytes) -> bytes:
    """The payload of `body`. It is the one spelling of the delta if `body` has its canonical tables."""
    sent = body.counts > 0
    tensor = plan.tensor[sent]
    chunks_sent = np.bincount(tensor, minlength=plan.tensors)
    active = np.flatnonzero(chunks_sent)
    support = describe_support(body.positions, sent, active, plan)
    first = np.diff(tensor, prepend=-1) != 0
    steps = _zigzag(np.diff(body.scales, prepend=0))[~first]
    step_counts = chunks_sent[active] - 1
    parameter = golomb.parameters(steps, step_counts, _MAX_STEP_PARAMETER)
    table = np.zeros((active.size, 2), np.uint8)
    table[:, 0] = body.tables[active] << 4 | parameter
    table[:, 1] = body.scales[first]
    return b"".join(
        (
            header(plan, layout_hash),
            pack_flags(chunks_sent > 0),
            pack_flags(sent[(chunks_sent > 0)[plan.tensor]]),
            table.tobytes(),
            golomb.pack_golomb(steps, step_counts, parameter),
            support.pack(),
            pack_flags(body.negative),
            pack_fixed(body.codes, np.array([body.codes.size]), np.array([plan.parameters.bits - 1])),
        )
    )


def parse(payload: bytes, plan: ChunkPlan, layout_hash: bytes) -> Body:
    """Read a payload whose length is within `max_bytes`.

    Raises:
        WireError: not the one spelling of a delta for this layout and these parameters.
    """
    body = _read(BitReader(payload), plan, layout_hash)
    _check_levels(body, plan)
    return body


def canonical_table(codes: NDArray[np.int64], table: int, plan: ChunkPlan) -> int:
    """The lowest table that contains the levels which `codes` name in `table`."""
    bits = plan.parameters.bits
    used = np.bincount(codes, minlength=TABLES[bits].shape[1]) > 0
    return lowest_table(used, table, bits)


def _read(reader: BitReader, plan: ChunkPlan, layout_hash: bytes) -> Body:
    """Every section in order."""
    _check_header(reader.octets(_HEADER.size).tobytes(), header(plan, layout_hash))
    is_active = reader.flags(plan.tensors)
    active = np.flatnonzero(is_active)
    chunk = np.flatnonzero(is_active[plan.tensor])
    sent = np.zeros(plan.chunks, np.bool_)
    sent[chunk] = reader.flags(chunk.size)
    chunks_sent = np.bincount(plan.tensor[sent], minlength=plan.tensors)[active]
    if not chunks_sent.all():
        raise WireError("a tensor is marked as sent but all its chunks are zero")
    table = reader.octets(2 * active.size).reshape(active.size, 2).astype(np.int64)
    tables = np.zeros(plan.tensors, np.int64)
    tables[active] = table[:, 0] >> 4
    if int(tables.max(initial=0)) >= TABLES[plan.parameters.bits].shape[0]:
        raise WireError(f"level table {int(tables.max())} does not exist")
    scales = _read_scales(reader, table[:, 1], table[:, 0] & 15, chunks_sent)
    positions = read_support(reader, sent, active, plan)
    counts = np.diff(np.searchsorted(positions, plan.start), append=positions.size)
    if (counts > plan.kept).any() or ((counts > 0) != sent).any():
        raise WireError("a chunk has more values than may be sent, or none although it is marked as sent")
    negative = reader.flags(positions.size)
    codes = reader.fixed(np.array([positions.size]), np.array([plan.parameters.bits - 1]))
    reader.finish()
    return Body(counts, scales, tables, positions, codes, negative)


def _read_scales(
    reader: BitReader, first: NDArray[np.int64], parameter: NDArray[np.int64], chunks_sent: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Scale numbers, from the first one of each tensor and the Golomb-coded steps to its further ones."""
    steps = golomb.read_golomb(reader, chunks_sent - 1, parameter, _MAX_STEP_PARAMETER)
    starts = np.cumsum(chunks_sent) - chunks_sent
    change = np.zeros(int(chunks_sent.sum()), np.int64)
    is_step = np.ones(change.size, np.bool_)
    is_step[starts] = False
    change[is_step] = (steps >> 1) ^ -(steps & 1)
    walk = np.cumsum(change)
    scales: NDArray[np.int64] = walk + np.repeat(first - walk[starts], chunks_sent)
    if scales.size and not 0 <= int(scales.min()) <= int(scales.max()) <= MAX_SCALE_INDEX:
        raise WireError(f"a scale number is outside [0, {MAX_SCALE_INDEX}]")
    return scales


def _check_levels(body: Body, plan: ChunkPlan) -> None:
    """Every chunk must use the lowest level, and every tensor the lowest table that contains its levels."""
    count = body.counts[body.counts > 0]
    if count.size and not np.logical_or.reduceat(body.codes == 0, np.cumsum(count) - count).all():
        raise WireError("a chunk does not use the lowest level")
    for tensor in np.flatnonzero(body.tables).tolist():
        part = slice(*np.searchsorted(body.positions, plan.offsets[tensor : tensor + 2]).tolist())
        table = int(body.tables[tensor])
        if table != canonical_table(body.codes[part], table, plan):
            raise WireError("a tensor's levels fit a lower table")


def _check_header(found: bytes, expected: bytes) -> None:
    if found == expected:
        return
    names = ("format", "bits", "chunk - 1", "kept - 1", "layout")
    pairs = zip(names, _HEADER.unpack(found), _HEADER.unpack(expected), strict=True)
    name, theirs, ours = next(pair for pair in pairs if pair[1] != pair[2])
    if isinstance(theirs, bytes) and isinstance(ours, bytes):
        theirs, ours = theirs.hex(), ours.hex()
    raise WireError(f"the payload's header says {name} {theirs}; this trunk has {ours}")


def _zigzag(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return (steps << 1) ^ (steps >> 63)
