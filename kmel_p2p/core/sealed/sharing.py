"""Shamir's secret sharing (1979) over the integers modulo 2**256 + 297, with a commitment to every share.

The prime is the first above 2**256, so a secret of 32 bytes is a number of the field as it is. A dealer commits to each
share by a hash. Who opens a secret computes all shares anew and compares them with all commitments: either every set of
enough shares opens the same secret, or none opens any. So no dealer can have two sites open different secrets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.core.sealed.keystream import SEED_BYTES, expand

PRIME = 2**256 + 297
SHARE_BYTES = 33
"""A share, big-endian."""
COMMITMENT_BYTES = 16
"""Within a round nobody finds two shares with one commitment: the round's hash is in it, so nothing is found before."""

_PURPOSE = b"kmel sealed polynomial"
_SHARE = b"kmel sealed commitment"


def deal(secret: bytes, count: int, threshold: int) -> list[bytes]:
    """Shares 1 to `count` of a secret, of which `threshold` open it.

    The polynomial's other coefficients come from the secret itself, by HKDF: dealing again gives the same shares.

    Args:
        secret: 32 random bytes, used for nothing else.
        count: of shares, at most 255.
        threshold: from 1 to `count`.
    """
    if len(secret) != SEED_BYTES or not 1 <= threshold <= count <= 255:
        raise Bug(f"{threshold} of {count} shares of a secret of {len(secret)} bytes")
    # 16 bytes more than the prime has leave no bias to speak of.
    drawn = expand(secret, _PURPOSE, 48 * (threshold - 1))
    rest = [int.from_bytes(drawn[at : at + 48], "big") % PRIME for at in range(0, len(drawn), 48)]
    polynomial = [int.from_bytes(secret, "big"), *rest]
    return [_value(polynomial, x).to_bytes(SHARE_BYTES, "big") for x in range(1, count + 1)]


def commitment(context: bytes, number: int, share: bytes) -> bytes:
    """What binds a dealer to share `number` (from 1), 16 bytes: BLAKE2b of purpose, context, number and share."""
    parts = _SHARE + context + bytes([number]) + share
    return hashlib.blake2b(parts, digest_size=COMMITMENT_BYTES).digest()


def is_committed(context: bytes, number: int, share: bytes, commitments: Sequence[bytes]) -> bool:
    """Whether that is share `number` as its dealer committed to it, in its one spelling."""
    canonical = len(share) == SHARE_BYTES and int.from_bytes(share, "big") < PRIME
    return canonical and commitment(context, number, share) == commitments[number - 1]


def combine(shares: Mapping[int, bytes], context: bytes, threshold: int, commitments: Sequence[bytes]) -> bytes:
    """The secret that shares open, 32 bytes.

    Args:
        shares: number -> share; only those that `is_committed`, at least `threshold`.
        context: of the commitments.
        threshold: how many shares open the secret.
        commitments: to all shares that were dealt.

    Raises:
        WireError: the dealer's shares are not those of one secret. They prove it.
    """
    if len(shares) < threshold:
        raise Bug(f"{len(shares)} shares where {threshold} are needed")
    points = {x: int.from_bytes(shares[x], "big") for x in sorted(shares)[:threshold]}
    others = (_at(points, x).to_bytes(SHARE_BYTES, "big") for x in range(1, len(commitments) + 1))
    secret = _at(points, 0)
    consistent = all(is_committed(context, x, share, commitments) for x, share in enumerate(others, 1))
    if not consistent or secret >> 8 * SEED_BYTES:
        raise WireError("shares that are not those of one secret")
    return secret.to_bytes(SEED_BYTES, "big")


def _value(polynomial: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % PRIME
    return value


def _at(points: Mapping[int, int], x: int) -> int:
    """The value at `x` of the polynomial through the points (Lagrange)."""
    total = 0
    for i, y in points.items():
        above = below = 1
        for j in points:
            if j != i:
                above = above * (x - j) % PRIME
                below = below * (i - j) % PRIME
        total += y * above * pow(below, -1, PRIME)
    return total % PRIME
