"""What peers say to each other about the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kmel_p2p.agreement.amendment import MAX_AMENDMENT_BYTES
from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.identity import HASH_BYTES, SiteKey
from kmel_p2p.core.effects import Message
from kmel_p2p.core.ledger.harm.vote import MAX_VOTE_BYTES
from kmel_p2p.core.ledger.log.entry import ENDED, MAX_HEADS, MAX_PAYLOAD_BYTES, MAX_STUB_BYTES
from kmel_p2p.core.ledger.log.epoch import MAX_EPOCH_BYTES, MAX_EPOCHS
from kmel_p2p.core.ledger.rules.proof import MAX_EVIDENCE
from kmel_p2p.core.roster_vector import MAX_NUMBER, RosterVector
from kmel_p2p.core.wire import HASH, KEY, SIGNATURE, VECTOR, Schema, blob, flag, listing, record, uint

MAX_NEWS = 256
"""Entries named in one announcement."""

MAX_BODIES = 64
"""Entries in one answer; also the most that one pull asks for."""

MAX_FAULTS = 64
"""Faults proved in one message."""

PART_BYTES = 256 * 1024
"""One part of a snapshot."""

MAX_PARTS_ASKED = 8
"""Parts asked for at the same time."""

NO_SNAPSHOT = bytes(HASH_BYTES)
"""In place of a snapshot's id: any snapshot."""

ANY_HASH = bytes(HASH_BYTES)
"""In place of a header's hash: asks for that one header, whatever it is."""

MAX_AMENDMENTS = 16
"""Amendments in one message."""

MAX_STUBS = 256
"""Headers in one message."""

MAX_SHOWN = 64
"""Headers that prove how far logs go, in one message."""

MAX_HOLDINGS_BYTES = 128 * 1024
"""The largest vector, every log ended, and headers of 32 KiB."""

MAX_VOTES = 64
"""Votes in one message."""

MAX_VOTES_BYTES = 64 * 1024

STATE_BYTES = 16
"""Of the digest of what a site holds. Nothing rests on it but which messages are sent: a claim has a full hash."""


@dataclass(frozen=True, slots=True)
class Have(Message):
    """What the sender does, and a digest of what it holds. Sent when its phase changes, and now and then."""

    state: bytes
    """See `own_states.state_digest`: sites that hold the same say the same."""
    phase: int
    step_us: int
    """Microseconds that the sender takes per training step; 0 when unknown."""
    heads: tuple[int, ...]
    """Shared heads that the sender trains, by number."""
    reply: bool
    """Whether the sender wants a `Have` back."""


@dataclass(frozen=True, slots=True)
class Holdings(Message):
    """What the sender holds, to a site whose digest is not its own; the receiver answers with the same."""

    amendments: int
    """How many amendments of the charter the sender holds."""
    amendment: bytes
    """Hash of the newest: it stands for all, and fixes what the places of `vector` and `ended` mean."""
    vector: RosterVector
    chains: bytes
    """Hash of the headers at the vector: reveals a fork that numbers alone hide."""
    ended: dict[int, int]
    """Ended logs, and those that began another epoch: place -> first number not accepted, or disowned."""
    epochs: bytes
    """Hash of all epochs that the sender holds; zeros for none."""
    headers: tuple[bytes, ...]
    """Signed headers at the vector, of logs that go further than the receiver said: without its header a number counts
    for nothing."""
    reply: bool
    """Whether the sender wants `Holdings` back."""


@dataclass(frozen=True, slots=True)
class EntryRange:
    """Entries `first..last` of one author."""

    author: SiteKey
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Want(Message):
    """Asks for entries by number, and for the evidence against authors."""

    ranges: tuple[EntryRange, ...]
    evidence: tuple[SiteKey, ...]


@dataclass(frozen=True, slots=True)
class Bodies(Message):
    """Encoded entries: pushed by their author, or the answer to a `Want`."""

    entries: tuple[bytes, ...]


class EntryId(NamedTuple):
    """Names one entry."""

    author: SiteKey
    number: int


@dataclass(frozen=True, slots=True)
class Announce(Message):
    """Numbers of new entries that the sender holds; a site that lacks one asks for it."""

    items: tuple[EntryId, ...]


@dataclass(frozen=True, slots=True)
class Claim(Message):
    """The sender's signed digest of what it holds at a vector; see `claims`."""

    amendment: bytes
    """`Ledger.standing`: sums are comparable only under the same amendments and suspensions."""
    vector: RosterVector
    chains: bytes
    digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Proofs(Message):
    """Evidence against authors, asked for by `Want`: per fault the parts that `proof.prove` reads."""

    faults: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class LogHead:
    """The hash of one header as the sender holds it."""

    author: SiteKey
    number: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Heads(Message):
    """Asks for the receiver's own headers where they differ: somebody's log has two branches.

    With `ANY_HASH` it asks for that header alone: the proof that a log goes so far.
    """

    heads: tuple[LogHead, ...]


@dataclass(frozen=True, slots=True)
class Stubs(Message):
    """Signed headers without payloads."""

    stubs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Compacted(Message):
    """The sender no longer holds entries up to here; a site that lacks them needs a snapshot."""

    amendment: bytes
    """Hash of the newest amendment that the sender holds."""
    floor: RosterVector


@dataclass(frozen=True, slots=True)
class SnapshotAsk(Message):
    """Asks for an offer (`NO_SNAPSHOT`), or for parts of the snapshot that was offered."""

    id: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class SnapshotOffer(Message):
    """A snapshot that the sender keeps available for a while."""

    id: bytes
    size_bytes: int
    digest: bytes

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.size_bytes // PART_BYTES)

    def part_bytes(self, index: int) -> int:
        """Length of one part."""
        return min(PART_BYTES, self.size_bytes - index * PART_BYTES)


@dataclass(frozen=True, slots=True)
class SnapshotPart(Message):
    """Part `index` of a snapshot, `PART_BYTES` long unless it is the last."""

    id: bytes
    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Attest(Message):
    """Asks for a claim at this vector."""

    amendment: bytes
    """`Ledger.standing` under which the sender counts."""
    vector: RosterVector


@dataclass(frozen=True, slots=True)
class WantAmendments(Message):
    """Asks for amendments from number `first` on."""

    first: int


@dataclass(frozen=True, slots=True)
class Amendments(Message):
    """Encoded amendments, in order."""

    amendments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Epochs(Message):
    """Encoded epochs of logs: a new one, or all, to a site that holds others."""

    epochs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class VoteDigest(Message):
    """Which votes the sender holds; a receiver that holds others sends its own."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Votes(Message):
    """Encoded votes: new ones, or the answer to a `VoteDigest`."""

    votes: tuple[bytes, ...]


_NUMBER = uint(MAX_NUMBER)

SCHEMAS = (
    Schema(
        20,
        Have,
        {
            "state": blob(STATE_BYTES, STATE_BYTES),
            "phase": uint(2),
            "step_us": uint(2**40),
            "heads": listing(uint(MAX_HEADS - 1), MAX_HEADS),
            "reply": flag(),
        },
    ),
    Schema(
        21,
        Want,
        {
            "ranges": listing(record(EntryRange, author=KEY, first=_NUMBER, last=_NUMBER), MAX_SITES),
            "evidence": listing(KEY, MAX_SITES),
        },
    ),
    Schema(
        22,
        Bodies,
        {"entries": listing(blob(MAX_STUB_BYTES + MAX_PAYLOAD_BYTES), MAX_BODIES)},
    ),
    Schema(23, Announce, {"items": listing(record(EntryId, author=KEY, number=_NUMBER), MAX_NEWS)}),
    Schema(
        24,
        Claim,
        {"amendment": HASH, "vector": VECTOR, "chains": HASH, "digest": HASH, "signature": SIGNATURE},
    ),
    Schema(
        25,
        Proofs,
        {"faults": listing(listing(blob(MAX_STUB_BYTES + MAX_PAYLOAD_BYTES), MAX_EVIDENCE), MAX_FAULTS)},
    ),
    Schema(26, Heads, {"heads": listing(record(LogHead, author=KEY, number=_NUMBER, hash=HASH), MAX_SITES)}),
    Schema(27, Stubs, {"stubs": listing(blob(MAX_STUB_BYTES), MAX_STUBS)}),
    Schema(28, Compacted, {"amendment": HASH, "floor": VECTOR}),
    Schema(29, SnapshotAsk, {"id": HASH, "first": uint(2**32), "count": uint(MAX_PARTS_ASKED)}),
    Schema(30, SnapshotOffer, {"id": HASH, "size_bytes": uint(2**48), "digest": HASH}),
    Schema(31, SnapshotPart, {"id": HASH, "index": uint(2**32), "data": blob(PART_BYTES)}),
    Schema(32, Attest, {"amendment": HASH, "vector": VECTOR}),
    Schema(33, WantAmendments, {"first": uint(2**32)}),
    Schema(34, Amendments, {"amendments": listing(blob(MAX_AMENDMENT_BYTES), MAX_AMENDMENTS)}),
    Schema(
        35,
        Holdings,
        {
            "amendments": uint(2**32),
            "amendment": HASH,
            "vector": VECTOR,
            "chains": HASH,
            "ended": ENDED,
            "epochs": HASH,
            "headers": listing(blob(MAX_STUB_BYTES), MAX_SHOWN),
            "reply": flag(),
        },
        MAX_HOLDINGS_BYTES,
    ),
    Schema(36, VoteDigest, {"digest": HASH}),
    Schema(37, Votes, {"votes": listing(blob(MAX_VOTE_BYTES), MAX_VOTES)}, MAX_VOTES_BYTES),
    Schema(38, Epochs, {"epochs": listing(blob(MAX_EPOCH_BYTES), MAX_EPOCHS)}),
)
