"""Entries for the tests of the store: real framing, made-up signatures; and a crash that no handler catches."""

from __future__ import annotations

import msgpack

from kmel_p2p.agreement.identity import SiteKey

A, B = SiteKey(b"a" * 32), SiteKey(b"b" * 32)


class Crash(BaseException):
    """The process ends here."""


def encoded(author: SiteKey, number: int, size: int = 40) -> bytes:
    """An entry as a store keeps it, with a payload of `size` bytes."""
    header = msgpack.packb({"a": author, "s": number}, use_bin_type=True)
    return bytes(msgpack.packb([header, b"s" * 64, bytes([number % 256]) * size], use_bin_type=True))
