"""The ledger at one vector, without the entries that led there: a newcomer starts from it, a store compacts into it.

    "kmls" | length of meta, 4 bytes big-endian | meta | accumulator, 8 bytes little-endian per value

Meta is the msgpack array [version, charter id, [headers of an author, ...], [evidence, ...], [amendment, ...],
withdrawn, [vote, ...]]: per author its newest headers in order, chained and signed, so that later entries get the same
verdict as from a site that was there all along. A header names its predecessor's hash, so whoever attests the newest
headers and the sum attests everything. `withdrawn` names the contributions that amendments and votes took out of the
sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgpack

from kmel_p2p.agreement.amendment import MAX_AMENDMENT_BYTES, AmendmentDocument, Constitution
from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey, digest
from kmel_p2p.core.ledger.harm.vote import MAX_VOTE_BYTES
from kmel_p2p.core.ledger.harm.vote import decode as decode_vote
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import MAX_STUB_BYTES, NO_PREVIOUS, Entry, SignedHeader, decode_stub
from kmel_p2p.core.ledger.log.kept_headers import KEPT_HEADERS, fitting
from kmel_p2p.core.ledger.rules.payload import Decoder
from kmel_p2p.core.ledger.rules.proof import MAX_EVIDENCE
from kmel_p2p.core.ledger.rules.validity import context_of
from kmel_p2p.core.roster_vector import MAX_NUMBER
from kmel_p2p.core.wire import HASH, KEY, Field, blob, listing, mapping, uint

FORMAT = 3
MAGIC = b"kmls"
PREFIX_BYTES = len(MAGIC) + 4

MAX_META_BYTES = 256 * 1024 * 1024
"""Bound on everything but the sum."""

SNAPSHOT_HEADERS_BYTES = MAX_META_BYTES * 3 // 4
"""What headers may take of it; the rest is for proofs and amendments."""

_VERSION = uint(255)
_HEADERS: Field = listing(listing(blob(MAX_STUB_BYTES), KEPT_HEADERS), MAX_SITES)
_AMENDMENTS: Field = listing(blob(MAX_AMENDMENT_BYTES), MAX_SITES)
_WITHDRAWN = mapping(KEY, uint(MAX_NUMBER), MAX_SITES)
MAX_BEHIND = 65_536
"""Votes in a snapshot; `vote_book.MOST_BEHIND_BYTES` holds fewer."""

_VOTES: Field = listing(blob(MAX_VOTE_BYTES), MAX_BEHIND)
_EVIDENCE: Field = listing(listing(blob(2**27), MAX_EVIDENCE), MAX_SITES)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at `vector`. Copy the accumulator before changing it: it belongs to the snapshot."""

    charter_id: bytes
    headers: dict[SiteKey, tuple[SignedHeader, ...]]
    """Per author, oldest first; the newest is the one the vector names."""
    evidence: tuple[tuple[bytes, ...], ...]
    """Proofs against authors whose log has ended."""
    amendments: tuple[bytes, ...]
    """Encoded amendments in force, in order."""
    amendment_hash: bytes
    """Hash of the newest; zeros when there is none."""
    withdrawn: dict[SiteKey, int]
    """Author -> first number whose contribution is not in the sum."""
    accumulator: Accumulator
    votes: tuple[bytes, ...] = ()
    """Encoded votes behind the suspensions in force."""

    @property
    def vector(self) -> dict[SiteKey, int]:
        """author -> number of its newest entry, in key order."""
        return {key: self.headers[key][-1].number for key in sorted(self.headers)}

    @property
    def chains(self) -> bytes:
        """Hash of the newest headers, as in a claim."""
        return context_of(held[-1] for held in self.headers.values())

    @property
    def standing(self) -> bytes:
        """The same as `Ledger.standing`."""
        return standing(self.amendment_hash, self.withdrawn)

    def digest(self) -> bytes:
        """The same as `Ledger.digest` at this vector."""
        return self.accumulator.digest(digest_context(self.charter_id, self.standing, self.vector))

    def meta(self) -> bytes:
        """Everything but the sum."""
        values = [
            FORMAT,
            self.charter_id,
            [[header.stub() for header in self.headers[key]] for key in sorted(self.headers)],
            [list(parts) for parts in self.evidence],
            list(self.amendments),
            _WITHDRAWN.pack(self.withdrawn),
            list(self.votes),
        ]
        packed: bytes = msgpack.packb(values, use_bin_type=True)
        return packed

    def prefix(self) -> bytes:
        """Everything before the sum: magic, length of meta, meta."""
        meta = self.meta()
        return MAGIC + len(meta).to_bytes(4, "big") + meta

    def encode(self) -> bytes:
        """The bytes `decode` reads."""
        return self.prefix() + bytes(self.accumulator.raw())

    def problem(self) -> str:
        """Why this cannot be the state of a ledger, in words; empty when nothing speaks against it.

        Says nothing about the sum or about what others hold: a majority attests that.
        """
        for key, held in self.headers.items():
            if any(header.author != key or header.charter_id != self.charter_id for header in held):
                return "it has a header of another author or charter"
            if held[0].number == 1 and held[0].previous != NO_PREVIOUS:
                return "its first entry of an author follows another"
            if any(late.previous != early.hash or late.number != early.number + 1 for early, late in pairwise(held)):
                return "its headers do not follow each other"
            if not all(header.signature_is_good() for header in held):
                return "it has a header that its author did not sign"
        try:
            votes = [decode_vote(encoded) for encoded in self.votes]
        except WireError as error:
            return str(error)
        if not all(vote.is_signed(self.charter_id) for vote in votes):
            return "it has a vote that its voter did not sign"
        return ""


def amendments_problem(snapshot: Snapshot, constitution: Constitution) -> str:
    """Why the amendments of a snapshot do not continue ours, in words; empty when they do."""
    try:
        continued(snapshot, constitution)
    except (WireError, ConfigError) as error:
        return str(error)
    return ""


def continued(snapshot: Snapshot, constitution: Constitution) -> Constitution:
    """The constitution with the snapshot's further amendments in force.

    Raises:
        WireError: its amendments do not continue ours, or it has headers of a site that was never on the roster.
        ConfigError: one of them is not in force; says why.
    """
    ours = constitution.number
    if len(snapshot.amendments) < ours:
        raise WireError("it was made before an amendment that is in force here")
    documents = [AmendmentDocument.decode(encoded) for encoded in snapshot.amendments]
    if ours and documents[ours - 1].amendment.hash != constitution.head_hash:
        raise WireError("it was made under other amendments")
    for document in documents[ours:]:
        constitution = constitution.followed_by(document)
    if not snapshot.headers.keys() <= constitution.everyone.keys():
        raise WireError("it has headers of a site that was never on the roster")
    return constitution


def standing(amendment_hash: bytes, withdrawn: Mapping[SiteKey, int]) -> bytes:
    """Under which amendments, and without which contributions, a sum is made: the newest amendment's hash where all
    contributions count."""
    if not withdrawn:
        return amendment_hash
    parts = [bytes(key) + number.to_bytes(8, "big") for key, number in sorted(withdrawn.items())]
    return digest(b"kmel standing 1", amendment_hash, *parts)


def digest_context(charter_id: bytes, stands: bytes, vector: dict[SiteKey, int]) -> bytes:
    """What a digest covers beside the sum: charter, `standing` and vector."""
    parts = [bytes(key) + number.to_bytes(8, "big") for key, number in sorted(vector.items()) if number]
    return digest(charter_id, stands, *parts)


def decode(data: bytes | memoryview, size: int | None = None) -> Snapshot:
    """Read a snapshot of a trunk of `size` values (None: of as many as there are).

    Raises:
        WireError: not a snapshot, or of another size.
    """
    view = memoryview(data)
    end = PREFIX_BYTES + meta_length(view[:PREFIX_BYTES])
    raw = view[end:]
    if end > len(view):
        raise WireError("the snapshot is cut off")
    return assemble(view[PREFIX_BYTES:end], Accumulator.from_raw(raw, len(raw) // 8 if size is None else size))


def meta_length(prefix: bytes | memoryview) -> int:
    """Length of the meta that follows the first `PREFIX_BYTES` of a snapshot, bytes.

    Raises:
        WireError: `prefix` does not begin a snapshot.
    """
    if len(prefix) < PREFIX_BYTES or bytes(prefix[: len(MAGIC)]) != MAGIC:
        raise WireError("not a snapshot")
    length = int.from_bytes(prefix[len(MAGIC) : PREFIX_BYTES], "big")
    if length > MAX_META_BYTES:
        raise WireError("the snapshot is cut off")
    return length


def assemble(meta: bytes | memoryview, accumulator: Accumulator) -> Snapshot:
    """The snapshot made of a sum and everything but the sum.

    Raises:
        WireError: `meta` was not made by `Snapshot.meta`.
    """
    parts = unpack_bounded(meta, MAX_META_BYTES)
    if type(parts) is not list or len(parts) != 7 or _VERSION.unpack(parts[0]) != FORMAT:
        raise WireError("the snapshot has another format")
    headers: dict[SiteKey, tuple[SignedHeader, ...]] = {}
    for stubs in _HEADERS.unpack(parts[2]):
        held = tuple(decode_stub(stub) for stub in stubs)
        if not held or held[0].author in headers:
            raise WireError("the snapshot names an author twice or without headers")
        headers[held[0].author] = held
    amendments = _AMENDMENTS.unpack(parts[4])
    return Snapshot(
        charter_id=HASH.unpack(parts[1]),
        headers=headers,
        evidence=_EVIDENCE.unpack(parts[3]),
        amendments=amendments,
        amendment_hash=AmendmentDocument.decode(amendments[-1]).amendment.hash if amendments else bytes(HASH_BYTES),
        withdrawn=_WITHDRAWN.unpack(parts[5]),
        accumulator=accumulator,
        votes=_VOTES.unpack(parts[6]),
    )


def genesis(charter_id: bytes, accumulator: Accumulator) -> Snapshot:
    """A ledger before its first entry."""
    return Snapshot(charter_id, {}, (), (), bytes(HASH_BYTES), {}, accumulator)


def advance(
    snapshot: Snapshot,
    entries: Iterable[Entry],
    codec: Decoder,
    withdrawn: Mapping[SiteKey, int],
    amendments: Sequence[bytes],
) -> Snapshot:
    """The snapshot with further applied entries compacted into it.

    Args:
        snapshot: what to start from. Its sum is changed in place: a copy would take as much memory as the ledger's.
        entries: applied entries that follow it, each author's in the order of their numbers.
        codec: decodes their payloads.
        withdrawn: author -> first number whose contribution does not count.
        amendments: those in force, encoded.
    """
    accumulator = snapshot.accumulator
    headers = {key: list(held) for key, held in snapshot.headers.items()}
    for entry in entries:
        if entry.number < withdrawn.get(entry.author, entry.number + 1):
            accumulator.add(codec.decode(entry.payload), entry.weight, entry.head_weights)
        headers.setdefault(entry.author, []).append(entry.without_payload())
    kept = fitting(headers, SNAPSHOT_HEADERS_BYTES)
    newest = AmendmentDocument.decode(amendments[-1]).amendment.hash if amendments else bytes(HASH_BYTES)
    return Snapshot(
        snapshot.charter_id,
        kept,
        snapshot.evidence,
        tuple(amendments),
        newest,
        dict(withdrawn),
        accumulator,
        snapshot.votes,
    )
