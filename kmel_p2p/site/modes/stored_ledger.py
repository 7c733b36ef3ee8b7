"""The ledger of a site in its store: opened, compacted, replaced by an adopted snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import ConfigError, WireError
from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.core.ledger.events import CompactionRecord, EpochRecord, SnapshotRecord
from kmel_p2p.core.ledger.harm.vote import HarmVote
from kmel_p2p.core.ledger.harm.vote import decode as decode_vote
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Entry, decode
from kmel_p2p.core.ledger.log.epoch import decode as decode_epoch
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import RETIRED, Verdict
from kmel_p2p.core.ledger.rules.proof import FaultProof
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.snapshot.snapshot import Snapshot
from kmel_p2p.core.ledger.snapshot.snapshot import genesis as empty_snapshot
from kmel_p2p.delta import CodecParameters, DeltaCodec
from kmel_p2p.site.site import Site, stored_constitution
from kmel_p2p.site.state.own_sum import keep_own_sum
from kmel_p2p.site.state.set_aside import EPOCH
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.trust import Trusted


class _Statement(Protocol):
    def is_signed(self, charter_id: bytes) -> bool: ...


S = TypeVar("S", bound=_Statement)

VOTE = "vote "
"""Blobs that hold votes: one of each voter and author."""

REPLACE_STORE = (
    "the store belongs to another charter or was altered. Move it away and start again: the others will send the ledger"
)


def compression(charter: Charter) -> CodecParameters:
    """The charter's compression of deltas."""
    rule = charter.ledger
    return CodecParameters(chunk=rule.chunk, kept=rule.kept, bits=rule.bits)


def codec_of(site: Site) -> DeltaCodec:
    """How this site's deltas are compressed."""
    return DeltaCodec(site.layout, compression(site.charter))


def compact(site: Site, store: Store, record: CompactionRecord) -> None:
    """Compact entries into the stored snapshot, own ones into their own sum as well. Raises ConfigError."""
    own, codec = site.identity.key, codec_of(site)
    keep_own_sum(store, own, site.layout.size, record.until.get(own, 0), codec)
    store.compact(record, lambda: genesis(site), codec)


def adopt(site: Site, store: Store, record: SnapshotRecord, at: float) -> None:
    """Go on from an attested snapshot, and count the own entries that it takes the place of. Raises ConfigError.

    Own entries that are of another branch of this site's log are set aside: they are to be published again.
    """
    own, snapshot = site.identity.key, record.snapshot
    in_snapshot = {header.number: header.hash for header in snapshot.headers.get(own, ())}
    for entry in store.load_entries(of=own):
        if in_snapshot.get(entry.number, entry.hash) != entry.hash:
            store.set_aside(own, entry.number)
            break
    keep_own_sum(store, own, site.layout.size, snapshot.vector.get(own, 0), codec_of(site))
    trusted = Trusted(snapshot.vector, record.server, record.attested, at)
    store.adopt(snapshot, record.kept, trusted.encode())


def genesis(site: Site) -> Snapshot:
    """The charter's initial trunk, before the first entry."""
    trunk = site.initial_trunk()
    return empty_snapshot(site.charter.id, Accumulator.from_trunk(trunk))


def fresh_ledger(site: Site) -> Ledger:
    """A ledger without entries: the charter's initial trunk."""
    trunk, codec = site.initial_trunk(), codec_of(site)
    return Ledger(Accumulator.from_trunk(trunk), codec, Rules.of(site.charter, codec.codec_id, trunk))


def open_ledger(site: Site, store: Store) -> Ledger:
    """The ledger as the store holds it.

    Raises:
        ConfigError: a stored entry does not stand; the store belongs to another charter or was altered.
    """
    ledger = fresh_ledger(site)
    # Before anything else: what counts in the sum follows from amendments and votes.
    ledger.amend(stored_constitution(site, store))
    _load_votes(ledger, store)
    _load_epochs(ledger, store)
    snapshot = store.snapshot()
    if snapshot is not None:
        problem = snapshot.problem()
        if snapshot.charter_id != site.charter.id or len(snapshot.accumulator) != site.layout.size:
            problem = "it belongs to another charter"
        if problem:
            raise ConfigError(
                f"{store.path}: the snapshot it stands on cannot be used: {problem}. "
                "Move the state directory away and start again: the others will send the ledger"
            )
        ledger.adopt(snapshot)
        ledger.amend(stored_constitution(site, store))
    for author, (number, reason) in store.log_ends().items():
        evidence = tuple(body for at, kind, body in store.evidence(author) if (at, kind) == (number, "proof"))
        fault = FaultProof(author, number, reason, evidence)
        ledger.end_log(fault)
        ledger.keep_aside(fault, _set_aside(store, author))
        if reason == RETIRED:
            ledger.cut_off += _set_aside(store, author)
    if ledger.accepted.epochs.of(site.identity.key) or ledger.amended_rules.overruled:
        ledger.set_aside = list(_set_aside(store, site.identity.key))
    replay(ledger, _stored_entries(store), str(store.path))
    return ledger


def keep_vote(store: Store, encoded: bytes) -> None:
    """Keep a vote instead of the one before of this site on that author."""
    store.put_blob(_place_of(decode_vote(encoded)), encoded)


def _place_of(vote: HarmVote) -> str:
    return f"{VOTE}{vote.voter.hex()} {vote.author.hex()}"


def _load_votes(ledger: Ledger, store: Store) -> None:
    """Those of earlier terms, and others that no longer count, stay in the store until the same voter says more."""
    for vote in _signed(store, ledger, VOTE, ("vote", "voter"), decode_vote):
        ledger.vote(vote)


def replay(ledger: Ledger, entries: Iterable[Entry], source: str) -> int:
    """Offer stored entries in their order of arrival; returns how many were applied.

    Raises:
        ConfigError: one does not stand.
    """
    count = 0
    for entry in entries:
        outcome = ledger.offer(entry)
        if outcome.verdict is Verdict.REFUSED:
            reason = outcome.refusal.value if outcome.refusal else "it was refused"
            raise ConfigError(f"{source}: stored {entry} does not stand: {reason}; {REPLACE_STORE}")
        count += len(outcome.applied)
    return count


def keep_epoch(store: Store, record: EpochRecord) -> None:
    """Keep an epoch of a log, and set aside what it takes back."""
    name = f"{EPOCH}{record.author.hex()} {record.number:04d}"
    store.begin_epoch(record.author, name, record.encoded, record.cut, record.reopened)


def _load_epochs(ledger: Ledger, store: Store) -> None:
    for epoch in _signed(store, ledger, EPOCH, ("epoch", "author"), decode_epoch):
        ledger.begin_epoch(epoch)


def _signed(
    store: Store, ledger: Ledger, prefix: str, words: tuple[str, str], read: Callable[[bytes], S]
) -> Iterator[S]:
    """Statements that the store keeps under names that begin so; each has to be signed by whoever made it.

    Args:
        words: what they are, and who makes one.

    Raises:
        ConfigError: one cannot be read, or is not signed.
    """
    what, maker = words
    for name, encoded in store.blobs(prefix).items():
        where = f"{store.path}: stored {what} {name[:16]}"
        try:
            found = read(encoded)
        except WireError as error:
            raise ConfigError(f"{where} does not decode: {error}; {REPLACE_STORE}") from error
        if not found.is_signed(ledger.rules.charter_id):
            raise ConfigError(f"{where} is not signed by its {maker}; {REPLACE_STORE}")
        yield found


def _set_aside(store: Store, author: SiteKey) -> Iterator[Entry]:
    for number, kind, body in store.evidence(author):
        if kind == "retracted":
            try:
                yield decode(body)
            except WireError as error:
                where = f"{store.path}: entry {number} of {short(author)} that was set aside"
                raise ConfigError(f"{where} does not decode: {error}; {REPLACE_STORE}") from error


def _stored_entries(store: Store) -> Iterator[Entry]:
    for stored in store.load_entries("arrival"):
        try:
            yield decode(stored.encoded)
        except WireError as error:
            where = f"{store.path}: stored entry {stored.number} of {short(stored.author)}"
            raise ConfigError(f"{where} does not decode: {error}; {REPLACE_STORE}") from error
