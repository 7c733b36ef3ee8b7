"""What peers say to each other about the board, and what it tells people and the store."""

from __future__ import annotations

from dataclasses import dataclass

from kmel_p2p.agreement.charter import MAX_SITES
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.board.book import AUTHOR_DIGEST_BYTES, DIGEST_BYTES
from kmel_p2p.core.board.notice import MAX_NOTICE_BYTES, MAX_SLOTS
from kmel_p2p.core.effects import Event, Message, Record
from kmel_p2p.core.wire import KEY, Schema, blob, flag, listing, mapping

MAX_NOTICES = 2 * MAX_SLOTS
"""In one message."""

MAX_NOTICES_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class BoardDigest(Message):
    """A digest of the sender's board; who has another one answers with its index."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class BoardIndex(Message):
    """A digest of the notices of each author that the sender has any of."""

    authors: dict[SiteKey, bytes]
    reply: bool
    """Whether the sender wants the receiver's index where the receiver lacks something."""


@dataclass(frozen=True, slots=True)
class Notices(Message):
    """Encoded notices."""

    notices: tuple[bytes, ...]


SCHEMAS = (
    Schema(80, BoardDigest, {"digest": blob(DIGEST_BYTES, DIGEST_BYTES)}),
    Schema(
        81,
        BoardIndex,
        {"authors": mapping(KEY, blob(AUTHOR_DIGEST_BYTES, AUTHOR_DIGEST_BYTES), 4 * MAX_SITES), "reply": flag()},
        at_most=64 * 1024,
    ),
    Schema(82, Notices, {"notices": listing(blob(MAX_NOTICE_BYTES), MAX_NOTICES)}, at_most=MAX_NOTICES_BYTES),
)


@dataclass(frozen=True, slots=True)
class NoticeRecord(Record):
    """Keep a notice in place of the one before in its slot; empty bytes: forget it."""

    author: SiteKey
    slot: int
    encoded: bytes


@dataclass(frozen=True, slots=True)
class NoticePosted(Event):
    """A notice is new on the board, edited or withdrawn."""

    author: SiteKey
    slot: int
    version: int
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class NoticeUnread(Event):
    """A notice is new on the board, and this version cannot read it: it is kept and handed on, and shown to nobody."""

    author: SiteKey
    slot: int
    kind: str


@dataclass(frozen=True, slots=True)
class NoticeRefused(Event):
    """A notice that somebody handed over does not stand."""

    sender: SiteKey
    reason: str
