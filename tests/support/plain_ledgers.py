"""Sites with real keys and a plain exact codec, for tests of the ledger without compression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import Basis, Entry, create
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.rules.weights import weight_cap
from kmel_p2p.core.roster_vector import RosterOrder, RosterVector
from kmel_p2p.delta.sparse import SparseDelta

CHARTER_ID = b"c" * 32
SIZE = 16


class PlainCodec:
    """Payload = msgpack of positions and units, and of something that makes equal deltas different payloads."""

    codec_id = 7

    @staticmethod
    def encode(positions: list[int], units: list[int], mark: bytes = b"") -> bytes:
        return bytes(msgpack.packb([positions, units, mark]))

    def decode(self, payload: bytes) -> SparseDelta:
        try:
            positions, units, _ = msgpack.unpackb(payload)
            return SparseDelta(np.array(positions, dtype=np.int64), np.array(units, dtype=np.int64))
        except Exception as error:
            raise WireError("not a plain delta") from error


def identities(count: int) -> list[Identity]:
    return [Identity(bytes([n + 1]) * 32) for n in range(count)]


def rules(sites: list[Identity], norm_cap: float = 4.0, *, epochs: bool = False) -> Rules:
    return Rules(
        charter_id=CHARTER_ID,
        roster=RosterOrder(sorted(s.key for s in sites)),
        codec_id=PlainCodec.codec_id,
        weight_cap=weight_cap(len(sites), 2.0),
        norm_cap=norm_cap,
        first_norm_squared=2**60,
        epochs=epochs,
    )


def new_ledger(sites: list[Identity], norm_cap: float = 4.0, *, epochs: bool = False) -> Ledger:
    base = np.linspace(-1, 1, SIZE).astype(np.float32)
    return Ledger(Accumulator.from_trunk(base), PlainCodec(), rules(sites, norm_cap, epochs=epochs))


def next_entry(
    site: Identity,
    ledger: Ledger,
    units: int = 1000,
    position: int = 0,
    **changes: object,
) -> Entry:
    """The entry `site` would make on everything `ledger` holds; `base`, `ended` and the like change its basis."""
    number = ledger.head(site.key) + 1
    payload = PlainCodec.encode([position], [units], site.key[:4] + number.to_bytes(4, "big"))
    mine = ledger.accepted.basis_for(site.key)
    order = ledger.accepted.order
    base: Any = changes.pop("base", mine.vector)
    ended: Any = changes.pop("ended", None)
    basis = Basis(
        base if isinstance(base, RosterVector) else vector_of(order, base),
        changes.pop("context", mine.context),  # type: ignore[arg-type]
        mine.ended if ended is None else {order.place(key): number for key, number in ended.items()},
        changes.pop("amendment", mine.amendment),  # type: ignore[arg-type]
        mine.amendment_hash,
    )
    values: dict[str, object] = {
        "charter_id": CHARTER_ID,
        "number": number,
        "previous": ledger.head_hash(site.key),
        "basis": basis,
        "weight": 1000,
        "steps": 10,
        "codec_id": PlainCodec.codec_id,
        "payload": payload,
        **changes,
    }
    values.setdefault("norm_squared", ledger.measure(values["payload"]) or 0)  # type: ignore[arg-type]
    return create(site, **values)  # type: ignore[arg-type]


def vector_of(order: RosterOrder, numbers: Mapping[SiteKey, int]) -> RosterVector:
    """A vector that may name a stranger, in the place after the last."""
    by_place = np.zeros(len(order) + 1, np.int64)
    for key, number in numbers.items():
        by_place[order.place(key) if key in order else len(order)] = number
    return RosterVector.of(by_place)


def names(ledger: Ledger, sites: list[Identity]) -> list[int]:
    """Heads in site order."""
    return [ledger.head(SiteKey(s.key)) for s in sites]
