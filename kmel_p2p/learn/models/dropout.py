"""Dropout whose masks do not depend on how many processes share a batch.

A process that has every k-th row of a batch draws the mask of the whole batch and takes its rows of it. So the ranks of
a trainer train the network that one process would, for a few random numbers more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class _Share:
    rank: int
    ranks: int
    rows: int


_share: _Share | None = None


@contextlib.contextmanager
def sharing(rank: int, ranks: int, rows: int) -> Iterator[None]:
    """Within it, passes are of rows `rank`, `rank` + `ranks`, ... of a batch of `rows`."""
    global _share
    _share = _Share(rank, ranks, rows)
    try:
        yield
    finally:
        _share = None


def dropout(hidden: Tensor, probability: float, training: bool) -> Tensor:
    """Inverted dropout of float32[members, n, width], as `torch.nn.functional.dropout`."""
    if _share is None or not training or not probability:
        return functional.dropout(hidden, probability, training)
    members, _, width = hidden.shape
    # torch draws in the order of memory, which has the members of an ensemble side by side where one product made them.
    side_by_side = members > 1 and hidden.stride(0) < hidden.stride(1)
    shape = (_share.rows, members, width) if side_by_side else (members, _share.rows, width)
    kept = torch.empty(shape, dtype=hidden.dtype, device=hidden.device).bernoulli_(1 - probability)
    if side_by_side:
        kept = kept.transpose(0, 1)
    return hidden * kept[:, _share.rank :: _share.ranks].div_(1 - probability)
