"""What two members of a group share: X25519 between keys made for one round, and the two keys derived from it.

A key pair is used in one round and then deleted, so a key stolen later opens no round of the past.
"""

from __future__ import annotations

from dataclasses import dataclass

import nacl.bindings
import nacl.exceptions

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.keystream import NONCE, expand, extract
from kmel_p2p.core.sealed.sharing import SHARE_BYTES

PUBLIC_BYTES = 32
SEALED_SHARE_BYTES = SHARE_BYTES + 16

_ANY = bytes([1]) * 32
"""Any secret tells whether a point is of small order: X25519 clears the cofactor."""
_MASK = b"kmel sealed mask"
_SHARE = b"kmel sealed share"
_DEALING = b"kmel sealed dealing"


@dataclass(frozen=True, slots=True)
class Pair:
    """The secrets of two members in one round.

    Attributes:
        mask_seed: of the mask that one of them adds and the other subtracts; revealed if one of them falls out.
        out_key: of the own share for the other site.
        in_key: of the other site's share for this one.
    """

    mask_seed: bytes
    out_key: bytes
    in_key: bytes

    def __repr__(self) -> str:
        return "Pair(...)"


def public_key(secret: bytes) -> bytes:
    """The X25519 key that belongs to 32 random bytes (RFC 7748)."""
    return nacl.bindings.crypto_scalarmult_base(secret)


def check_public(public: bytes) -> None:
    """Refuse a key that nobody can make a pair with.

    Raises:
        WireError: it is a point of small order.
    """
    _exchange(_ANY, public)


def pair(secret: bytes, public: bytes, own: SiteKey, other: SiteKey, round_hash: bytes) -> Pair:
    """What this site and another share in a round.

    Args:
        secret: own X25519 secret of this round.
        public: the other site's key of this round.
        own, other: the sites.
        round_hash: of the round's Open: it names group and keys.

    Raises:
        WireError: the other key is a point of small order, which would give a secret that everybody knows.
    """
    key = extract(round_hash, _exchange(secret, public))
    return Pair(
        expand(key, _MASK + min(own, other) + max(own, other)),
        expand(key, _SHARE + own + other),
        expand(key, _SHARE + other + own),
    )


def _exchange(secret: bytes, public: bytes) -> bytes:
    try:
        return nacl.bindings.crypto_scalarmult(secret, public)
    except (nacl.exceptions.CryptoError, RuntimeError) as error:
        raise WireError("a key of small order") from error


def encrypt_share(key: bytes, share: bytes, dealing: bytes) -> bytes:
    """ChaCha20-Poly1305 of one share, 49 bytes, under a key of this dealing alone.

    A site whose disk was set back deals twice in a round: under one key, the shares of the seed that is opened would
    give those of the other.

    Args:
        dealing: commitments to all shares of the seed.
    """
    return nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt(share, None, NONCE, _dealing_key(key, dealing))


def _dealing_key(key: bytes, dealing: bytes) -> bytes:
    return expand(key, _DEALING + dealing)


def decrypt_share(key: bytes, sealed: bytes, dealing: bytes) -> bytes:
    """The share, 33 bytes.

    Raises:
        WireError: it was not encrypted under this key.
    """
    if len(sealed) != SEALED_SHARE_BYTES:
        raise WireError(f"an encrypted share of {len(sealed)} bytes where {SEALED_SHARE_BYTES} are needed")
    try:
        return nacl.bindings.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, None, NONCE, _dealing_key(key, dealing))
    except (nacl.exceptions.CryptoError, RuntimeError) as error:
        raise WireError("a share that does not decrypt") from error
