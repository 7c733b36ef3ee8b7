"""ChaCha20 as the one generator of sealed rounds, and HKDF for every key that it runs under.

The keystream is that of RFC 8439 with nonce 0, from block 1 on: what ChaCha20-Poly1305 adds to a plaintext of zeros. A
key is used for one keystream only, so the nonce needs no value.
"""

from __future__ import annotations

import hashlib
import hmac

import nacl.bindings
import numpy as np
from numpy.typing import NDArray

SEED_BYTES = 32
NONCE = bytes(nacl.bindings.crypto_aead_chacha20poly1305_ietf_NPUBBYTES)


def keystream(seed: bytes, size: int) -> bytes:
    """The first `size` bytes under a seed of 32 bytes."""
    return nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt(bytes(size), None, NONCE, seed)[:size]


def words(seed: bytes, count: int, bits: int) -> NDArray[np.uint16]:
    """`count` numbers of `bits` bits, uint16[count]: a byte of the keystream each, or two from nine bits on, low first.

    Args:
        seed: 32 bytes.
        count: of numbers.
        bits: 1 to 16; the bits above are cut off.
    """
    octets = 1 if bits <= 8 else 2
    drawn = np.frombuffer(keystream(seed, octets * count), f"<u{octets}").astype(np.uint16)
    return drawn & np.uint16((1 << bits) - 1)


def positions(seed: bytes, size: int, count: int) -> NDArray[np.int64]:
    """`count` of `size` places, int64[count], increasing: those with the smallest numbers of 32 bits.

    Of equal numbers, the one at the lower place is smaller. So every subset of that size is about as likely as any
    other, and its size is known beforehand.
    """
    drawn = np.frombuffer(keystream(seed, 4 * size), "<u4").astype(np.uint64) << np.uint64(32)
    chosen = np.partition(drawn | np.arange(size, dtype=np.uint64), count - 1)[:count] & np.uint64(0xFFFFFFFF)
    places: NDArray[np.int64] = np.sort(chosen).astype(np.int64)
    return places


def extract(salt: bytes, material: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869), 32 bytes."""
    return hmac.digest(salt, material, hashlib.sha256)


def expand(key: bytes, purpose: bytes, size: int = SEED_BYTES) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869), `size` bytes (at most 8160)."""
    block, made = b"", b""
    for counter in range(1, -(-size // SEED_BYTES) + 1):
        block = hmac.digest(key, block + purpose + bytes([counter]), hashlib.sha256)
        made += block
    return made[:size]
