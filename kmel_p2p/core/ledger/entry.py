"""One signed, compressed delta in a site's log.

On the wire and in the store an entry is `msgpack [header, signature, payload]`. The header is a msgpack map whose
exact bytes are signed and hashed, so two spellings of one header are two different entries, both on their author's
account. The payload is covered through its hash in the header.

    v  format version            a  author key             s  sequence number, from 1
    c  charter id                p  hash of the previous entry's header (zeros for the first)
    b  base vector, flat: what the author had applied      w  weight in units of 2**-16
    n  local steps               k  codec id               l  payload length       h  payload hash
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from kmel_p2p.core.errors import WireError
from kmel_p2p.core.identity import Identity, digest, verify
from kmel_p2p.core.ledger.accumulator import WEIGHT_ONE
from kmel_p2p.core.types import HASH_BYTES, SIGNATURE_BYTES, SiteKey, Vector
from kmel_p2p.core.wire import HASH, KEY, MAX_SITES, VECTOR, uint, unpack_bounded

FORMAT = 1
SIGNING_CONTEXT = b"kmel entry 1"
NO_PREVIOUS = bytes(HASH_BYTES)

MAX_HEADER_BYTES = 512 + MAX_SITES * 48
"""Fixed fields, plus a key and a counter for every site a charter may list."""

MAX_PAYLOAD_BYTES = 128 * 1024 * 1024
"""Absolute bound on one payload; a charter's trunk gives a tighter one."""

_FIELDS = {
    "v": uint(255),
    "c": HASH,
    "a": KEY,
    "s": uint(2**40),
    "p": HASH,
    "b": VECTOR,
    "w": uint(WEIGHT_ONE),
    "n": uint(2**32),
    "k": uint(2**32),
    "l": uint(MAX_PAYLOAD_BYTES),
    "h": HASH,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A decoded entry whose payload matches its header. The signature is checked by `signature_is_good`."""

    charter_id: bytes
    author: SiteKey
    seq: int
    previous: bytes
    base: Vector
    weight: int
    steps: int
    codec_id: int
    payload: bytes
    signature: bytes
    header: bytes
    hash: bytes
    """BLAKE2b-256 of the header bytes: the next entry's `previous`."""

    def encode(self) -> bytes:
        """The bytes `decode` reads."""
        packed: bytes = msgpack.packb([self.header, self.signature, self.payload], use_bin_type=True)
        return packed

    def signature_is_good(self) -> bool:
        """Whether the author signed this header."""
        return verify(self.author, SIGNING_CONTEXT, self.header, self.signature)

    def __repr__(self) -> str:
        return f"Entry({self.author[:4].hex()}/{self.seq}, {len(self.payload)} B)"


def create(
    identity: Identity,
    *,
    charter_id: bytes,
    seq: int,
    previous: bytes,
    base: Vector,
    weight: int,
    steps: int,
    codec_id: int,
    payload: bytes,
) -> Entry:
    """Make and sign an entry of this site."""
    values = {
        "v": FORMAT,
        "c": charter_id,
        "a": bytes(identity.key),
        "s": seq,
        "p": previous,
        "b": {key: n for key, n in base.items() if n},
        "w": weight,
        "n": steps,
        "k": codec_id,
        "l": len(payload),
        "h": digest(payload),
    }
    packed = {name: _FIELDS[name].pack(value) for name, value in values.items()}
    header: bytes = msgpack.packb(packed, use_bin_type=True)
    signature = identity.sign(SIGNING_CONTEXT, header)
    return _entry(values, header, signature, payload)


def decode(data: bytes | memoryview, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> Entry:
    """Read an entry.

    Args:
        data: what `Entry.encode` gave.
        max_payload_bytes: bound that follows from the charter's trunk.

    Raises:
        WireError: not an entry, out of bounds, or the payload is not the one the header names.
    """
    parts = unpack_bounded(data, MAX_HEADER_BYTES + max_payload_bytes + 256)
    if type(parts) is not list or len(parts) != 3 or any(type(part) is not bytes for part in parts):
        raise WireError("not an entry")
    header, signature, payload = parts
    if len(signature) != SIGNATURE_BYTES:
        raise WireError("entry signature has the wrong length")
    raw = unpack_bounded(header, MAX_HEADER_BYTES)
    if type(raw) is not dict or raw.keys() != _FIELDS.keys():
        raise WireError("entry header has other fields than this version's")
    values = {name: field.unpack(raw[name]) for name, field in _FIELDS.items()}
    if values["v"] != FORMAT:
        raise WireError(f"entry format {values['v']}, this version reads {FORMAT}")
    if values["s"] < 1:
        raise WireError("sequence numbers start at 1")
    if values["l"] != len(payload) or len(payload) > max_payload_bytes:
        raise WireError(f"payload of {len(payload)} bytes where the header says {values['l']}")
    if values["h"] != digest(payload):
        raise WireError("payload does not match its hash in the header")
    return _entry(values, header, signature, payload)


def _entry(values: dict[str, Any], header: bytes, signature: bytes, payload: bytes) -> Entry:
    return Entry(
        charter_id=values["c"],
        author=SiteKey(values["a"]),
        seq=values["s"],
        previous=values["p"],
        base=dict(values["b"]),
        weight=values["w"],
        steps=values["n"],
        codec_id=values["k"],
        payload=payload,
        signature=signature,
        header=header,
        hash=digest(header),
    )
