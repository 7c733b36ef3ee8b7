"""A site's delta to bytes and back: chunked top-k, few-bit values, Golomb-coded positions, error feedback.

Format and reasons: docs/delta.md. Selection with error feedback follows SparseLoCo (Sarfi et al., 2025); positions are
Golomb-coded instead of stored at fixed width, which saves bytes without loss. Magnitudes of IEEE 754 floats order as
their bit patterns do, so the selection compares integers, which numpy partitions with vector instructions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.delta.chunks import ChunkPlan, CodecParameters, interval_of
from kmel_p2p.delta.layout import Layout, check_flat
from kmel_p2p.delta.payload import Body, canonical_table, max_bytes, pack, parse
from kmel_p2p.delta.quantise import fit, limit_norm
from kmel_p2p.delta.scale import SCALES, TABLES
from kmel_p2p.delta.sparse import UNIT_BITS, SparseDelta

CODEC_ID = 1
"""Names this format in an entry's header."""

_MAX_NORM_BOUND = 2.0**60


class DeltaCodec:
    """Encodes and decodes deltas of one layout under one set of parameters. Holds no state between calls.

    Attributes:
        layout: the shape table.
        parameters: chunk, kept, bits.
        codec_id: names the payload format in an entry's header.
        max_payload_bytes: no valid payload is longer.
    """

    __slots__ = ("_plan", "codec_id", "layout", "max_payload_bytes", "parameters")

    def __init__(self, layout: Layout, parameters: CodecParameters | None = None) -> None:
        self.layout = layout
        self.parameters = parameters or CodecParameters()
        self.codec_id: int = CODEC_ID
        self._plan = ChunkPlan(layout, self.parameters)
        self.max_payload_bytes: int = max_bytes(self._plan)

    def encode(self, residual: NDArray[np.float32], norm_bound: float | None = None) -> bytes:
        """Take the next payload out of `residual`, which loses exactly the decoded values (rounded once to float32).

        Args:
            residual: float32[layout.size], what has not been sent yet; sent values are subtracted in place.
            norm_bound: largest L2 norm of the decoded delta; the excess stays in the residual.

        Raises:
            LocalError: `residual` is not a contiguous, writable float32 vector of the layout's size or has a value that
                is not finite, or `norm_bound` is negative or not a number. The residual is then unchanged.
        """
        check_flat(residual, self.layout.size, "residual")
        if not residual.flags.writeable:
            raise LocalError("the residual is read-only; encode subtracts what it sends from it")
        if norm_bound is not None and not norm_bound >= 0.0:
            raise LocalError(f"the norm bound is {norm_bound}; it must be 0 or more")
        body = self._body(residual, norm_bound)
        payload = pack(body, self._plan, self.layout.hash)
        residual[body.positions] -= (body.units(self._plan) * 2.0**-UNIT_BITS).astype(np.float32)
        return payload

    def decode(self, payload: bytes | bytearray | memoryview) -> SparseDelta:
        """Read a payload from anybody. Memory stays within a small multiple of `max_payload_bytes`.

        Raises:
            WireError: not the one spelling of a delta of this layout under these parameters.
        """
        if len(payload) > self.max_payload_bytes:
            raise WireError(f"a payload of {len(payload)} bytes; this trunk needs at most {self.max_payload_bytes}")
        body = parse(bytes(payload), self._plan, self.layout.hash)
        return SparseDelta(body.positions, body.units(self._plan), self.layout.heads_at(body.positions))

    def _body(self, residual: NDArray[np.float32], norm_bound: float | None) -> Body:
        plan = self._plan
        positions = largest(residual, plan)
        values = residual[positions]
        chunk = interval_of(positions, plan.start)
        chosen = np.bincount(chunk, minlength=plan.chunks)
        rows = np.flatnonzero(chosen)
        count = chosen[rows]
        row = np.repeat(np.arange(rows.size), count)
        column = np.arange(positions.size) - np.repeat(np.cumsum(count) - count, count)
        magnitudes = np.zeros((rows.size, int(count.max(initial=1))), np.float32)
        top = float(TABLES[self.parameters.bits].max() * SCALES[-1])
        magnitudes[row, column] = np.minimum(np.abs(values.astype(np.float64)) * 2.0**UNIT_BITS, top)
        result = fit(magnitudes, rows, plan)
        if norm_bound is not None and norm_bound < _MAX_NORM_BOUND:
            limit_norm(result, plan, math.floor(math.ldexp(norm_bound, UNIT_BITS)))
        codes = result.codes[row, column].astype(np.int64)
        sent = codes >= 0
        counts = np.bincount(chunk[sent], minlength=plan.chunks)
        scales = result.scale[counts[rows] > 0]
        tables, codes = _in_lowest_tables(result.table, codes[sent], plan.tensor[chunk[sent]], plan)
        return Body(counts, scales, tables, positions[sent], codes, values[sent] < 0)


def _in_lowest_tables(
    tables: NDArray[np.int64], codes: NDArray[np.int64], tensor: NDArray[np.int64], plan: ChunkPlan
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lowest tables that contain the levels in use, and the codes of those levels there."""
    lowest = np.zeros_like(tables)
    codes = codes.copy()
    levels = TABLES[plan.parameters.bits]
    edges = np.searchsorted(tensor, np.arange(plan.tensors + 1))
    for number in np.flatnonzero(np.diff(edges)).tolist():
        part = slice(int(edges[number]), int(edges[number + 1]))
        lowest[number] = canonical_table(codes[part], int(tables[number]), plan)
        codes[part] = np.searchsorted(levels[lowest[number]], levels[tables[number]][codes[part]])
    return lowest, codes


_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
_BLOCK = 1 << 18


def largest(residual: NDArray[np.float32], plan: ChunkPlan) -> NDArray[np.int64]:
    """Positions of the `kept` largest magnitudes of every chunk, increasing; zeros are never among them.

    Of equal magnitudes the earlier one is taken, so the choice depends neither on the machine nor on a version.

    Raises:
        LocalError: a value is not finite; says where.
    """
    patterns = residual.view(np.int32)
    scratch = np.empty(min(residual.size, max(_BLOCK, plan.parameters.chunk)), np.int32)
    found = []
    for start, rows, length, kept in _rectangles(plan):
        block = scratch[: rows * length]
        np.bitwise_and(patterns[start : start + block.size], _MAGNITUDE, out=block)
        if int(block.max()) >= _INFINITY:
            at = start + int(np.argmax(block >= _INFINITY))
            raise LocalError(f"residual value {at} is {residual[at]}; training has diverged")
        found.append(start + _largest_per_row(block.reshape(rows, length), kept))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _rectangles(plan: ChunkPlan) -> list[tuple[int, int, int, int]]:
    """(position, chunks, length, kept) of runs of equal chunks that fit the scratch block: the processor's cache."""
    runs: list[tuple[int, int]] = []
    per_block = max(1, _BLOCK // plan.parameters.chunk)
    for first, end in zip(plan.first[:-1].tolist(), plan.first[1:].tolist(), strict=True):
        full = end - 1 if plan.length[end - 1] < plan.parameters.chunk else end
        runs.extend((at, min(per_block, full - at)) for at in range(first, full, per_block))
        if full < end:
            runs.append((full, 1))
    return [(int(plan.start[c]), n, int(plan.length[c]), int(plan.kept[c])) for c, n in runs]


def _largest_per_row(magnitudes: NDArray[np.int32], kept: int) -> NDArray[np.int64]:
    """Flat positions of each row's `kept` largest non-zero items; of equal ones the earlier."""
    rows, length = magnitudes.shape
    smallest = np.partition(magnitudes, length - kept, axis=1)[:, length - kept]
    np.maximum(smallest, 1, out=smallest)
    candidates = np.flatnonzero(magnitudes >= smallest[:, None])
    if candidates.size <= rows * kept:
        counts = np.bincount(candidates // length, minlength=rows)
        if int(counts.max()) <= kept:
            return candidates
    return candidates[_without_late_ties(magnitudes.reshape(-1)[candidates], candidates // length, smallest, kept)]


def _without_late_ties(
    magnitudes: NDArray[np.int32], row: NDArray[np.int64], smallest: NDArray[np.int32], kept: int
) -> NDArray[np.bool_]:
    """Which candidates stay where a row has more than `kept` of them, because several equal its smallest."""
    tied = magnitudes == smallest[row]
    above = np.bincount(row[~tied], minlength=smallest.size)
    order = np.cumsum(tied)
    before_row = np.concatenate([[0], order])[np.searchsorted(row, np.arange(smallest.size))]
    stays: NDArray[np.bool_] = ~tied | (order - before_row[row] <= (kept - above)[row])
    return stays
