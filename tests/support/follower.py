"""A rank of a trainer in a process of its own."""

from __future__ import annotations

import sys

import torch

from kmel_p2p.chem.structures.parallel import end_with_parent
from kmel_p2p.learn.train.ranks import follow, joined


def follow_alone(store: str, rank: int = 1, size: int = 2) -> None:
    """Follow until the leader ends."""
    end_with_parent()
    torch.set_num_threads(1)
    with joined(False, store, rank, size) as group:
        try:
            follow(group)
        except Exception:
            sys.exit(1)
