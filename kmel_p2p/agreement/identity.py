"""One secret per site: a 32-byte Ed25519 seed. Signing and transport keys both come from it.

The CURVE key pair is libsodium's conversion of the Ed25519 pair, so a roster lists one key per site and there is
nothing to mix up.
"""

from __future__ import annotations

import hashlib
from typing import NewType

import nacl.bindings
import nacl.exceptions

from kmel_p2p.agreement.errors import LocalError

SiteKey = NewType("SiteKey", bytes)
"""Ed25519 public key of a site, 32 bytes: its only identity."""

KEY_BYTES = 32
HASH_BYTES = 32
SIGNATURE_BYTES = 64


def digest(*parts: bytes) -> bytes:
    """BLAKE2b-256 (RFC 7693) of the concatenation, 32 bytes."""
    h = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        h.update(part)
    return h.digest()


class Identity:
    """A site's secret and what derives from it. `repr` never shows the secret."""

    __slots__ = ("_secret", "key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise LocalError(f"a site seed has {KEY_BYTES} bytes, not {len(seed)}")
        public, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self.key = SiteKey(public)

    def __repr__(self) -> str:
        return f"Identity({self.key.hex()})"

    def sign(self, context: bytes, message: bytes) -> bytes:
        """64-byte Ed25519 signature (RFC 8032) of `message`, bound to the purpose named by `context`."""
        prefixed = len(context).to_bytes(1, "big") + context + message
        return nacl.bindings.crypto_sign(prefixed, self._secret)[:SIGNATURE_BYTES]

    def curve_pair(self) -> tuple[bytes, bytes]:
        """(public, secret) X25519 keys for CURVE, 32 bytes each."""
        return (
            curve_public(self.key),
            nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret),
        )


def curve_public(key: SiteKey) -> bytes:
    """The CURVE public key of a site.

    Raises:
        LocalError: the 32 bytes are not a point of the curve.
    """
    try:
        return nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(key)
    except nacl.exceptions.CryptoError as error:
        raise LocalError(f"{key.hex()} is not an Ed25519 public key") from error


def is_key(key: SiteKey) -> bool:
    """Whether somebody may hold it."""
    try:
        curve_public(key)
    except LocalError:
        return False
    return True


def verify(key: SiteKey, context: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `key` signed `message` for the purpose named by `context`."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    prefixed = len(context).to_bytes(1, "big") + context + message
    try:
        nacl.bindings.crypto_sign_open(signature + prefixed, key)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError, ValueError):
        return False
    return True


def short(key: bytes) -> str:
    """First eight hex digits of a key or hash, for people and logs."""
    return key[:4].hex()
