"""Carries what the protocol wants kept to the store, and back at the next start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import Bug, WireError
from kmel_p2p.core.board.messages import NoticeRecord
from kmel_p2p.core.board.notice import Notice
from kmel_p2p.core.board.notice import decode as decode_notice
from kmel_p2p.core.effects import Record
from kmel_p2p.core.membership import Descriptor
from kmel_p2p.core.membership.descriptor import MAX_DESCRIPTOR_BYTES
from kmel_p2p.core.membership.events import DescriptorLearned, GenerationRaised
from kmel_p2p.core.membership.messages import FACT
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.store import Store
from kmel_p2p.site.state.store_writer import StoreWriter

NOTICE = "notice "
"""Blobs whose names begin so are notices of the board, by author and slot; an empty one is forgotten."""


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
        case GenerationRaised(generation=generation):
            return lambda store: store.raise_counter("generation", generation)
        case DescriptorLearned(descriptor=descriptor):
            body: bytes = msgpack.packb(FACT.pack(descriptor), use_bin_type=True)
            return lambda store: store.put_peer(descriptor.key, body)
        case NoticeRecord(author=author, slot=slot, encoded=encoded):
            return lambda store: store.put_blob(f"{NOTICE}{author.hex()} {slot}", encoded)
    work = mode_of(site.charter).writing(record, site)
    if work is None:
        raise Bug(f"no way to store a {type(record).__name__}")
    return work


def known_descriptors(store: Store) -> tuple[Descriptor, ...]:
    """Where remote peers were when this site last ran. One that no longer reads is passed over: it is only a hint."""
    known = []
    for body in store.peers().values():
        with contextlib.suppress(WireError):
            fact = FACT.unpack(unpack_bounded(body, MAX_DESCRIPTOR_BYTES))
            if isinstance(fact, Descriptor):
                known.append(fact)
    return tuple(known)


def known_notices(store: Store) -> tuple[Notice, ...]:
    """What stood on the board when this site last ran. One that no longer reads is passed over: it comes again."""
    known = []
    for encoded in store.blobs(NOTICE).values():
        if encoded:
            with contextlib.suppress(WireError):
                known.append(decode_notice(encoded))
    return tuple(known)
