"""Carries what the protocol wants kept to the store, and back at the next start."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.core.effects import Record
from kmel_p2p.core.ledger.events import (
    AmendmentRecord,
    CompactionRecord,
    DivergenceRecord,
    EntryRecord,
    RetractionRecord,
    SnapshotRecord,
)
from kmel_p2p.core.membership import Descriptor
from kmel_p2p.core.membership.descriptor import MAX_DESCRIPTOR_BYTES
from kmel_p2p.core.membership.events import DescriptorLearned, GenerationRaised
from kmel_p2p.core.membership.messages import FACT
from kmel_p2p.core.pushsum.events import JournalRecord, StateRecord
from kmel_p2p.site.loaded_site import Site, genesis
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.store_writer import StoreWriter


class Recorder:
    """See the module docstring. The driver hands over one record at a time and stops at the first that fails."""

    def __init__(self, writer: StoreWriter, site: Site) -> None:
        self._writer = writer
        self._site = site

    async def keep(self, record: Record) -> None:
        """Store one record; returns when it is durable.

        Raises:
            ConfigError: the store cannot take it.
        """
        await self._writer.call(work_of(record, self._site))


def work_of(record: Record, site: Site) -> Callable[[Store], None]:
    """What to do with the store so that it keeps a record."""
    match record:
        case EntryRecord(author=author, number=number, encoded=encoded, own_state_file=state_file):
            return lambda store: store.append_entry(author, number, encoded, state_file)
        case RetractionRecord(author=author, number=number, reason=reason, evidence=evidence):
            return lambda store: store.retract(author, number, reason, evidence)
        case GenerationRaised(generation=generation):
            return lambda store: store.raise_counter("generation", generation)
        case DescriptorLearned(descriptor=descriptor):
            body: bytes = msgpack.packb(FACT.pack(descriptor), use_bin_type=True)
            return lambda store: store.put_peer(descriptor.key, body)
        case AmendmentRecord(number=number, encoded=encoded):
            return lambda store: store.add_amendment(number, encoded)
        case CompactionRecord():
            return lambda store: store.fold(record, lambda: genesis(site), site.codec)
        case SnapshotRecord(snapshot=snapshot, kept=kept):
            return lambda store: store.adopt(snapshot, kept)
        case StateRecord(index=index, own_state_file=state_file):
            return lambda store: store.pushsum.put_state(site.charter.id, index, record.state, state_file)
        case JournalRecord(index=index, body=change):
            return lambda store: store.pushsum.append(index, change)
        case DivergenceRecord():
            row = {
                "site": record.site,
                "vector": dict(record.vector),
                "chains": record.chains,
                "amendment": record.amendment,
                "own_digest": record.own_digest,
                "claimed_digest": record.claimed_digest,
                "signature": record.signature,
            }
            at = time.time()
            return lambda store: store.add_history("divergence", at, row)
    raise Bug(f"no way to store a {type(record).__name__}")


def known_descriptors(store: Store) -> tuple[Descriptor, ...]:
    """Where remote peers were when this site last ran. One that no longer reads is passed over: it is only a hint."""
    known = []
    for body in store.peers().values():
        with contextlib.suppress(WireError):
            fact = FACT.unpack(unpack_bounded(body, MAX_DESCRIPTOR_BYTES))
            if isinstance(fact, Descriptor):
                known.append(fact)
    return tuple(known)
