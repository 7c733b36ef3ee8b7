"""The fixed projection of a fingerprint: a random matrix of ±1 that follows from the charter alone.

Such a matrix keeps lengths and angles up to noise (Achlioptas, J Comput Syst Sci 2003, 66, 671). Imports no torch.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.learn.models.architecture import Architecture

_STREAM = 1 << 96
"""Part of the Philox key: the initial trunk uses the streams below (`delta.layout.initial_trunk`)."""


@functools.lru_cache(maxsize=4)
def signs(bits: int, projection: int, seed: int) -> NDArray[np.bool_]:
    """The charter's projection, bool[bits, projection]: True is +1, False is -1. Do not write to it.

    The bits of the raw words of Philox4x64-10 (Salmon et al., SC 2011), the lowest of each word first, row by row: the
    same on every machine and in every version.
    """
    words = np.random.Philox(key=seed + _STREAM).random_raw(-(-bits * projection // 64))
    drawn = np.unpackbits(words.astype("<u8").view(np.uint8), count=bits * projection, bitorder="little")
    found = drawn.reshape(bits, projection).astype(np.bool_)
    found.flags.writeable = False
    return found


def scaled(bits: int, projection: int, seed: int) -> NDArray[np.float32]:
    """What a fingerprint is multiplied by, float32[bits, projection]: ±1/sqrt(projection), which keeps lengths."""
    unit = np.float32(1 / math.sqrt(projection))
    return np.where(signs(bits, projection, seed), unit, -unit)


def fingerprint_bits(architecture: Architecture) -> int:
    """Positions of the fingerprint: what is projected of the inputs."""
    return architecture.inputs - architecture.descriptors
