"""One signed, compressed delta in a site's log.

On the wire and in the store an entry is `msgpack [header, signature, payload]`. The header is a msgpack map whose
exact bytes are signed and hashed: two spellings of one header are two different entries, and their author answers for
both. The header holds the payload's hash, so header and signature alone (`SignedHeader`) prove what an author said,
link the chain and contain everything that later entries are checked against.

    v  format version            a  author key             s  number, from 1
    c  charter id                p  hash of the previous entry's header (zeros for the first)
    b  base vector: what the author had applied            d  hash of the headers that the base names
    e  logs that had ended for the author: place -> first number not accepted
    m  amendments of the charter that the author had applied, and
    r  the hash of the newest of them: they fix the roster order in which `b` and `e` count
    w  weight in units of 2**-16 n  local steps            q  squared norm of the delta, units 2**-48, big-endian
    g  weights of the shared heads that the author trains, by head number; a head not named has none
    k  codec id                  l  payload length         h  payload hash
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import HASH_BYTES, SIGNATURE_BYTES, Identity, SiteKey, digest, verify
from kmel_p2p.core.ledger.log.accumulator import NO_HEADS, WEIGHT_ONE
from kmel_p2p.core.roster_vector import MAX_NUMBER, MAX_VECTOR_BYTES, RosterVector
from kmel_p2p.core.wire import HASH, KEY, LENGTH_BYTES, VECTOR, Field, mapping, uint

FORMAT = 3

MAX_HEADS = 1024
"""Shared heads of one charter."""

SIGNING_CONTEXT = b"kmel entry 1"
NO_PREVIOUS = bytes(HASH_BYTES)
NO_AMENDMENTS = bytes(HASH_BYTES)
"""In place of the newest amendment's hash, when there is none."""

MAX_HEADER_BYTES = 512 + MAX_VECTOR_BYTES + MAX_SITES * 12 + MAX_HEADS * 8
"""Fixed fields, the base, a place and a number for every site whose log may have ended, and the weights of heads."""

MAX_STUB_BYTES = MAX_HEADER_BYTES + SIGNATURE_BYTES + 16
"""A header with its signature."""

MAX_PAYLOAD_BYTES = 128 * 1024 * 1024
"""Absolute bound on one payload; a charter's trunk gives a tighter one."""

MAX_NORM_BYTES = 16


def _big() -> Field:
    """A non-negative integer below 2**128 as the fewest big-endian bytes."""

    def pack(value: int) -> bytes:
        return value.to_bytes((value.bit_length() + 7) // 8, "big")

    def unpack(value: Any) -> int:
        if type(value) is not bytes or len(value) > MAX_NORM_BYTES or value[:1] == b"\0":
            raise WireError(f"expected an integer of at most {MAX_NORM_BYTES} bytes, without leading zeros")
        return int.from_bytes(value, "big")

    return Field(pack, unpack, "big integer", LENGTH_BYTES + MAX_NORM_BYTES)


ENDED = mapping(uint(MAX_SITES - 1), uint(MAX_NUMBER), MAX_SITES)
"""Logs that have ended: place -> first number not accepted."""

_FIELDS: dict[str, Field] = {
    "v": uint(255),
    "c": HASH,
    "a": KEY,
    "s": uint(MAX_NUMBER),
    "p": HASH,
    "b": VECTOR,
    "d": HASH,
    "e": ENDED,
    "m": uint(2**32),
    "r": HASH,
    "w": uint(WEIGHT_ONE),
    "n": uint(2**32),
    "q": _big(),
    "k": uint(2**32),
    "l": uint(MAX_PAYLOAD_BYTES),
    "h": HASH,
    "g": mapping(uint(MAX_HEADS - 1), uint(WEIGHT_ONE), MAX_HEADS),
}


@dataclass(frozen=True, slots=True)
class Basis:
    """What an entry builds on; fixed when its round opens."""

    vector: RosterVector
    context: bytes
    """`context_hash` of the headers that the vector names."""
    ended: Mapping[int, int]
    """Logs that had ended: place -> first number not accepted."""
    amendment: int
    """Number of the newest amendment applied; 0 before the first."""
    amendment_hash: bytes = NO_AMENDMENTS
    """Its hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHeader:
    """What an author signed. Reading it does not check the signature: see `signature_is_good`."""

    charter_id: bytes
    author: SiteKey
    number: int
    previous: bytes
    basis: Basis
    weight: int
    head_weights: Mapping[int, int]
    """Weights of the shared heads, by head number, in units of 2**-16."""
    steps: int
    norm_squared: int
    codec_id: int
    payload_bytes: int
    payload_hash: bytes
    signature: bytes
    header: bytes
    hash: bytes
    """BLAKE2b-256 of the header bytes: the next entry's `previous`."""

    @property
    def base(self) -> RosterVector:
        """What the author had applied."""
        return self.basis.vector

    def stub(self) -> bytes:
        """The bytes `decode_stub` reads: everything but the payload."""
        packed: bytes = msgpack.packb([self.header, self.signature], use_bin_type=True)
        return packed

    def signature_is_good(self) -> bool:
        """Whether the author signed this header."""
        return verify(self.author, SIGNING_CONTEXT, self.header, self.signature)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.author[:4].hex()}/{self.number}, {self.payload_bytes} B)"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Entry(SignedHeader):
    """A signed header with its payload."""

    payload: bytes

    def encode(self) -> bytes:
        """The bytes `decode` reads."""
        packed: bytes = msgpack.packb([self.header, self.signature, self.payload], use_bin_type=True)
        return packed

    def without_payload(self) -> SignedHeader:
        """The header alone, to keep when the payload is dropped."""
        return _parse(self.header, self.signature)


def context_hash(hashes: Iterable[bytes | memoryview]) -> bytes:
    """BLAKE2b-256 over the hashes of the headers that a base names, the author's own left out.

    Args:
        hashes: in the order of their authors' keys; several may be run together.
    """
    return digest(b"kmel context 2" + b"".join(hashes))


def create(
    identity: Identity,
    *,
    charter_id: bytes,
    number: int,
    previous: bytes,
    basis: Basis,
    weight: int,
    steps: int,
    norm_squared: int,
    codec_id: int,
    payload: bytes,
    head_weights: Mapping[int, int] = NO_HEADS,
) -> Entry:
    """Make and sign an entry of this site."""
    values: dict[str, Any] = {
        "v": FORMAT,
        "c": charter_id,
        "a": bytes(identity.key),
        "s": number,
        "p": previous,
        "b": basis.vector,
        "d": basis.context,
        "e": dict(basis.ended),
        "m": basis.amendment,
        "r": basis.amendment_hash,
        "w": weight,
        "n": steps,
        "q": norm_squared,
        "k": codec_id,
        "l": len(payload),
        "h": digest(payload),
        "g": dict(head_weights),
    }
    packed = {name: _FIELDS[name].pack(value) for name, value in values.items()}
    header: bytes = msgpack.packb(packed, use_bin_type=True)
    signature = identity.sign(SIGNING_CONTEXT, header)
    return Entry(**_facts(values, header, signature), payload=payload)


def decode(data: bytes | memoryview, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> Entry:
    """Read an entry.

    Args:
        data: what `Entry.encode` gave.
        max_payload_bytes: the bound that the charter's trunk sets.

    Raises:
        WireError: not an entry, out of bounds, or the payload does not match the header.
    """
    header, signature, payload = _parts(data, MAX_STUB_BYTES + max_payload_bytes, 3)
    values = _values(header)
    if values["l"] != len(payload) or len(payload) > max_payload_bytes:
        raise WireError(f"a payload of {len(payload)} bytes; the header says {values['l']}")
    if values["h"] != digest(payload):
        raise WireError("the payload does not match its hash in the header")
    return Entry(**_facts(values, header, signature), payload=payload)


def decode_stub(data: bytes | memoryview) -> SignedHeader:
    """Read a header and its signature.

    Raises:
        WireError: not what `SignedHeader.stub` gave.
    """
    header, signature = _parts(data, MAX_STUB_BYTES, 2)
    return _parse(header, signature)


def _parse(header: bytes, signature: bytes) -> SignedHeader:
    return SignedHeader(**_facts(_values(header), header, signature))


def _parts(data: bytes | memoryview, maximum: int, count: int) -> list[bytes]:
    parts = unpack_bounded(data, maximum + 32, containers=1, length=3)
    if type(parts) is not list or len(parts) != count or any(type(part) is not bytes for part in parts):
        raise WireError("not an entry")
    if len(parts[1]) != SIGNATURE_BYTES:
        raise WireError("the signature of an entry has the wrong length")
    return parts


def _values(header: bytes) -> dict[str, Any]:
    raw = unpack_bounded(header, MAX_HEADER_BYTES, containers=3, length=2 * MAX_SITES)
    if type(raw) is not dict:
        raise WireError("an entry header must be a map")
    if raw.get("v") != FORMAT:
        raise WireError(f"entry format {raw.get('v')!r:.12}; this version reads format {FORMAT}")
    if raw.keys() != _FIELDS.keys():
        raise WireError(f"an entry header has other fields than format {FORMAT}")
    values = {name: field.unpack(raw[name]) for name, field in _FIELDS.items()}
    if values["s"] < 1:
        raise WireError("numbers of entries start at 1")
    return values


def _facts(values: dict[str, Any], header: bytes, signature: bytes) -> dict[str, Any]:
    basis = Basis(values["b"], values["d"], values["e"], values["m"], values["r"])
    return {
        "charter_id": values["c"],
        "author": SiteKey(values["a"]),
        "number": values["s"],
        "previous": values["p"],
        "basis": basis,
        "weight": values["w"],
        "head_weights": values["g"],
        "steps": values["n"],
        "norm_squared": values["q"],
        "codec_id": values["k"],
        "payload_bytes": values["l"],
        "payload_hash": values["h"],
        "signature": signature,
        "header": header,
        "hash": digest(header),
    }
