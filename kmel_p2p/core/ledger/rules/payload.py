"""Whether an entry's payload is what its header says."""

from __future__ import annotations

from typing import Protocol

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.core.ledger.rules.validity import Refusal
from kmel_p2p.delta.sparse import SparseDelta


class Decoder(Protocol):
    """What the ledger needs of `delta.DeltaCodec`."""

    def decode(self, payload: bytes) -> SparseDelta:
        """The delta in a payload.

        Raises:
            WireError: it does not decode.
        """
        ...


class CachingDecoder:
    """Decodes payloads and keeps the latest delta: an own entry is measured, checked and applied in turn."""

    def __init__(self, codec: Decoder) -> None:
        self._codec = codec
        self._latest: tuple[bytes, SparseDelta] | None = None

    def decode(self, payload: bytes) -> SparseDelta:
        """See `Decoder.decode`."""
        if self._latest is None or self._latest[0] != payload:
            self._latest = payload, self._codec.decode(payload)
        return self._latest[1]


def check_payload(entry: Entry, decoder: Decoder) -> SparseDelta | Refusal:
    """The entry's delta, or why its payload is not what the header says."""
    try:
        delta = decoder.decode(entry.payload)
    except WireError:
        return Refusal.PAYLOAD
    return delta if delta.norm_squared == entry.norm_squared else Refusal.NORM_CLAIM
