"""The byte format of a payload (docs/delta.md): one spelling per delta, everything else is a `WireError`."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.core.errors import WireError
from kmel_p2p.delta.bits import BitReader, pack_fixed, pack_flags, pack_unary, rice_parameters
from kmel_p2p.delta.chunks import ChunkPlan
from kmel_p2p.delta.scale import MAX_SCALE_INDEX, SCALES, TABLES, lowest_table

FORMAT = 1
_HEADER = struct.Struct(">BBHH8s")
_MAX_INDEX_RICE = 15
_MAX_SCALE_RICE = 8


@dataclass(frozen=True, slots=True)
class Body:
    """What a payload says.

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
    """The first bytes of every payload of this layout and these parameters."""
    p = plan.parameters
    return _HEADER.pack(FORMAT, p.bits, p.chunk - 1, p.kept - 1, layout_hash[:8])


def max_bytes(plan: ChunkPlan) -> int:
    """No valid payload is longer.

    The Rice parameter of a tensor is the cheapest, so any fixed one gives a bound; quotients of a chunk add up to at
    most (length - kept) >> r.
    """
    p = plan.parameters
    index_bits = 0
    for tensor in range(plan.tensors):
        part = slice(int(plan.first[tensor]), int(plan.first[tensor + 1]))
        length, kept = plan.length[part], plan.kept[part]
        index_bits += min(int(((1 + r) * kept + ((length - kept) >> r)).sum()) for r in range(_MAX_INDEX_RICE + 1))
    flags_counts_scales = plan.chunks * (2 + _count_width(plan) + 1 + 8 + (2 * MAX_SCALE_INDEX >> 8))
    bits = index_bits + flags_counts_scales + p.bits * int(plan.kept.sum())
    return _HEADER.size + -(-plan.tensors // 8) + 3 * plan.tensors + -(-bits // 8) + 8


def pack(body: Body, plan: ChunkPlan, layout_hash: bytes) -> bytes:
    """The payload of `body`, which must follow the format's rules."""
    sent = np.flatnonzero(body.counts)
    count = body.counts[sent]
    tensor = plan.tensor[sent]
    chunks_sent = np.bincount(tensor, minlength=plan.tensors)
    active = np.flatnonzero(chunks_sent)
    short = count < plan.kept[sent]
    short_tensors = np.bincount(tensor[short], minlength=plan.tensors)[active] > 0
    values_sent = np.bincount(tensor, weights=count, minlength=plan.tensors).astype(np.int64)[active]

    gaps = _gaps(body.positions, count, plan.start[sent])
    gap_rice = rice_parameters(gaps, values_sent, _MAX_INDEX_RICE)
    first = np.concatenate([[True], tensor[1:] != tensor[:-1]])[: sent.size]
    steps = _zigzag(np.diff(body.scales, prepend=0))[~first]
    step_counts = chunks_sent[active] - 1
    step_rice = rice_parameters(steps, step_counts, _MAX_SCALE_RICE)
    table = np.zeros((active.size, 3), np.uint8)
    table[:, 0] = body.scales[first]
    table[:, 1] = gap_rice << 4 | step_rice
    table[:, 2] = body.tables[active] << 4 | short_tensors
    short_bits = short[np.repeat(short_tensors, chunks_sent[active])]
    number_short = np.array([short.sum()])
    return b"".join(
        (
            header(plan, layout_hash),
            pack_flags(chunks_sent > 0),
            table.tobytes(),
            pack_flags(body.counts[(chunks_sent > 0)[plan.tensor]] > 0),
            pack_flags(short_bits),
            pack_fixed(count[short] - 1, number_short, np.array([_count_width(plan)])),
            pack_unary(steps >> np.repeat(step_rice, step_counts)),
            pack_fixed(_low_bits(steps, step_rice, step_counts), step_counts, step_rice),
            pack_unary(gaps >> np.repeat(gap_rice, values_sent)),
            pack_fixed(_low_bits(gaps, gap_rice, values_sent), values_sent, gap_rice),
            pack_flags(body.negative),
            pack_fixed(body.codes, np.array([body.codes.size]), np.array([plan.parameters.bits - 1])),
        )
    )


def parse(payload: bytes | bytearray | memoryview, plan: ChunkPlan, layout_hash: bytes) -> Body:
    """Read a payload.

    Raises:
        WireError: not the one spelling of a delta for this layout and these parameters.
    """
    limit = max_bytes(plan)
    if len(payload) > limit:
        raise WireError(f"payload of {len(payload)} bytes; this trunk needs at most {limit}")
    reader = BitReader(payload)
    _check_header(reader.octets(_HEADER.size).tobytes(), header(plan, layout_hash))
    is_active = reader.flags(plan.tensors)
    active = np.flatnonzero(is_active)
    table = reader.octets(3 * active.size).reshape(active.size, 3).astype(np.int64)
    gap_rice, step_rice = table[:, 1] >> 4, table[:, 1] & 15
    tables = np.zeros(plan.tensors, np.int64)
    tables[active] = table[:, 2] >> 4
    if active.size and (table[:, 2] & 14).any():
        raise WireError("reserved bits are not zero")
    if active.size and int(tables.max()) >= TABLES[plan.parameters.bits].shape[0]:
        raise WireError(f"level table {int(tables.max())} does not exist")

    counts, chunks_sent = _read_counts(reader, plan, is_active, (table[:, 2] & 1) > 0)
    sent = np.flatnonzero(counts)
    values_sent = np.add.reduceat(counts, plan.first[:-1])[active] if active.size else counts[:0]

    step_counts = chunks_sent - 1
    steps = _read_rice(reader, step_counts, step_rice, _MAX_SCALE_RICE, 2 * MAX_SCALE_INDEX)
    scales = _scales(steps, table[:, 0], chunks_sent)
    gaps = _read_rice(reader, values_sent, gap_rice, _MAX_INDEX_RICE, plan.parameters.chunk - 1)
    positions = _positions(gaps, counts[sent], plan.start[sent], plan.length[sent])
    negative = reader.flags(gaps.size)
    codes = reader.fixed(np.array([gaps.size]), np.array([plan.parameters.bits - 1]))
    reader.finish()
    body = Body(counts, scales, tables, positions, codes, negative)
    _check_levels(body, plan, active, values_sent)
    return body


def _read_counts(
    reader: BitReader, plan: ChunkPlan, is_active: NDArray[np.bool_], has_short: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Values per chunk, int64[chunks], and non-zero chunks per active tensor."""
    active = np.flatnonzero(is_active)
    chunk = np.flatnonzero(is_active[plan.tensor])
    sent = chunk[reader.flags(chunk.size)]
    chunks_sent = np.bincount(plan.tensor[sent], minlength=plan.tensors)[active]
    if not chunks_sent.all():
        raise WireError("a tensor is marked as sent but all its chunks are zero")
    may_be_short = sent[np.repeat(has_short, chunks_sent)]
    short = may_be_short[reader.flags(may_be_short.size)]
    if not (np.bincount(plan.tensor[short], minlength=plan.tensors)[active] > 0)[has_short].all():
        raise WireError("a tensor is marked as having short chunks but has none")
    fewer = reader.fixed(np.array([short.size]), np.array([_count_width(plan)])) + 1
    if (fewer >= plan.kept[short]).any():
        raise WireError("a short chunk is not shorter than a full one")
    counts = np.zeros(plan.chunks, np.int64)
    counts[sent] = plan.kept[sent]
    counts[short] = fewer
    return counts, chunks_sent


def _read_rice(
    reader: BitReader, counts: NDArray[np.int64], rice: NDArray[np.int64], largest_rice: int, largest: int
) -> NDArray[np.int64]:
    """Rice-coded numbers of all segments; each must be at most `largest`, each parameter the cheapest."""
    if rice.size and int(rice.max()) > largest_rice:
        raise WireError(f"Rice parameter {int(rice.max())} is above {largest_rice}")
    quotients = reader.unary(int(counts.sum()))
    values = (quotients << np.repeat(rice, counts)) + reader.fixed(counts, rice)
    if values.size and int(values.max()) > largest:
        raise WireError(f"Rice-coded number {int(values.max())} is above {largest}")
    if (rice_parameters(values, counts, largest_rice) != rice).any():
        raise WireError("a Rice parameter is not the cheapest one")
    return values


def _scales(steps: NDArray[np.int64], first: NDArray[np.int64], chunks_sent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scale numbers from each tensor's first one and the steps between its further ones."""
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


def _gaps(positions: NDArray[np.int64], counts: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values skipped before each sent one, counted from the chunk's start or the sent one before."""
    previous = np.concatenate([[0], positions[:-1] + 1])[: positions.size]
    previous[np.cumsum(counts) - counts] = starts
    gaps: NDArray[np.int64] = positions - previous
    return gaps


def _positions(
    gaps: NDArray[np.int64], counts: NDArray[np.int64], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    walk = np.cumsum(gaps + 1)
    ends = np.cumsum(counts)
    before = np.concatenate([[0], walk])[ends - counts]
    if (walk[ends - 1] - before > lengths).any():
        raise WireError("a position is outside its chunk")
    positions: NDArray[np.int64] = walk - 1 + np.repeat(starts - before, counts)
    return positions


def _check_levels(body: Body, plan: ChunkPlan, active: NDArray[np.int64], values_sent: NDArray[np.int64]) -> None:
    """Every chunk uses the lowest level, and every tensor the lowest table that holds its levels."""
    count = body.counts[body.counts > 0]
    if count.size and not np.logical_or.reduceat(body.codes == 0, np.cumsum(count) - count).all():
        raise WireError("a chunk does not use the lowest level")
    ends = np.cumsum(values_sent)
    for tensor, end, number in zip(active.tolist(), ends.tolist(), values_sent.tolist(), strict=True):
        table = int(body.tables[tensor])
        if table and table != canonical_table(body.codes[end - number : end], table, plan):
            raise WireError("a tensor's levels fit a lower table")


def canonical_table(codes: NDArray[np.int64], table: int, plan: ChunkPlan) -> int:
    """The lowest table number that says the same as `codes` of `table`."""
    bits = plan.parameters.bits
    used = np.bincount(codes, minlength=TABLES[bits].shape[1]) > 0
    return lowest_table(used, table, bits)


def _check_header(found: bytes, expected: bytes) -> None:
    if found == expected:
        return
    names = ("format", "bits", "chunk - 1", "kept - 1", "layout")
    pairs = zip(names, _HEADER.unpack(found), _HEADER.unpack(expected), strict=True)
    name, theirs, ours = next(pair for pair in pairs if pair[1] != pair[2])
    if isinstance(theirs, bytes) and isinstance(ours, bytes):
        theirs, ours = theirs.hex(), ours.hex()
    raise WireError(f"payload header says {name} {theirs}; this trunk has {ours}")


def _count_width(plan: ChunkPlan) -> int:
    """Bits of a short chunk's count: 1 to kept - 1 values, written less one."""
    return max(plan.parameters.kept - 2, 0).bit_length()


def _zigzag(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return (steps << 1) ^ (steps >> 63)


def _low_bits(values: NDArray[np.int64], rice: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return values & ((1 << np.repeat(rice, counts)) - 1)
