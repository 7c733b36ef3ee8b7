"""Masks modulo 2**b: what a member adds to its levels, and what the group takes from the sum again.

With q_i in [-L, L], y_i = q_i + L + PRG(b_i) + sum over j of sign(i, j) PRG(s_ij), modulo 2**b, where sign(i, j) is +1
if i's key is below j's and -1 otherwise. In a sum over U the masks of pairs within U cancel. What is left is taken off
with the self seeds b_i of U and the pair seeds s_ij of U with those outside it (Bonawitz et al. 2017). All of it is
integers, so the sum is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.keystream import words

MAX_MEMBERS = 16
"""Sites in one group."""
WORD_BITS = 16
"""Of the widest masked value."""

Levels = NDArray[np.int64]


def mask_bits(members: int, levels: int) -> int:
    """Bits of a masked value: the sum of `members` values, each one of 2 * levels + 1, fits."""
    return (members * (2 * levels + 1) - 1).bit_length()


def private_levels(sites: int) -> int:
    """The limit of a level with noise on it: the largest with which a sum of all sites fits `WORD_BITS`."""
    return ((1 << WORD_BITS) // sites - 1) // 2


def sign(own: SiteKey, other: SiteKey) -> int:
    """How the mask of a pair enters at `own`."""
    return 1 if own < other else -1


def seal(q: Levels, levels: int, bits: int, own: SiteKey, self_seed: bytes, pairs: Mapping[SiteKey, bytes]) -> bytes:
    """The masked levels of one member, packed.

    Args:
        q: int64[n] in [-levels, levels].
        levels: L.
        bits: of a masked value, as `mask_bits`.
        own: the member.
        self_seed: its own, 32 bytes, of this round only.
        pairs: mask seeds with every other member of the group.
    """
    if q.size and int(np.abs(q).max()) > levels:
        raise Bug(f"a level beyond {levels}")
    total = (q + levels).astype(np.uint16) + words(self_seed, q.size, bits)
    for other, seed in sorted(pairs.items()):
        total = _moved(total, words(seed, q.size, bits), sign(own, other))
    return pack(total, bits)


def open_sum(
    sealed: Iterable[bytes],
    count: int,
    levels: int,
    bits: int,
    self_seeds: Sequence[bytes],
    loose: Iterable[tuple[int, bytes]],
) -> Levels:
    """The sum of the levels of U, int64[count].

    Args:
        sealed: what each site of U sent, as `seal`.
        count: values of each.
        levels: L.
        bits: of a masked value.
        self_seeds: of every site of U.
        loose: (sign at the site of U, mask seed) of every pair of a site of U with a member outside it.

    Raises:
        WireError: a vector is not one, or a value is not the sum of so many levels: somebody sealed something else.
    """
    total = np.zeros(count, np.uint16)
    for packed in sealed:
        total += unpack(packed, count, bits)
    for seed in self_seeds:
        total = _moved(total, words(seed, count, bits), -1)
    for at_member, seed in loose:
        total = _moved(total, words(seed, count, bits), -at_member)
    opened = (total & np.uint16((1 << bits) - 1)).astype(np.int64)
    if opened.size and int(opened.max()) > 2 * levels * len(self_seeds):
        raise WireError("a sum beyond what its sites can have sealed")
    return opened - levels * len(self_seeds)


def pack(values: NDArray[np.uint16], bits: int) -> bytes:
    """Bit 0 of all values, then bit 1 of all, and so on: each plane most significant first, padded with zero bits.

    Planes are packed and unpacked ten times faster than values side by side, and take at most `bits` bytes more.
    """
    planes = values[None, :] >> np.arange(bits, dtype=np.uint16)[:, None] & np.uint16(1)
    return np.packbits(planes.astype(np.bool_), axis=1).tobytes()


def unpack(packed: bytes, count: int, bits: int) -> NDArray[np.uint16]:
    """What `pack` packed, uint16[count].

    Raises:
        WireError: another length, or the padding is not zero.
    """
    if len(packed) != packed_bytes(count, bits):
        raise WireError(f"{len(packed)} bytes where {count} values of {bits} bits take {packed_bytes(count, bits)}")
    planes = np.frombuffer(packed, np.uint8).reshape(bits, -1)
    if count % 8 and int((planes[:, -1] & (0xFF >> count % 8)).max(initial=0)):
        raise WireError("padding bits that are not zero")
    values = np.zeros(count, np.uint16)
    for bit, plane in enumerate(np.unpackbits(planes, axis=1, count=count)):
        values |= plane.astype(np.uint16) << np.uint16(bit)
    return values


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `pack` makes."""
    return bits * -(-count // 8)


def _moved(total: NDArray[np.uint16], mask: NDArray[np.uint16], direction: int) -> NDArray[np.uint16]:
    """uint16 wraps modulo 2**16, of which 2**bits is a divisor."""
    return total + mask if direction > 0 else total - mask
