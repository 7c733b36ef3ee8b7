"""Hostile authors: a site with a valid key that does not keep to the rules, in every way the rules name.

It trains and follows like an honest site until its third entry, then hands out what its kind of malice makes of it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.effects import Effect, Send
from kmel_p2p.core.ledger.averaging import LedgerAveraging
from kmel_p2p.core.ledger.log.accepted_logs import AcceptedLogs
from kmel_p2p.core.ledger.log.entry import Basis, Entry, create, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.rules.validity import context_of
from kmel_p2p.core.ledger.sync.messages import Bodies
from kmel_p2p.delta import CodecParameters, DeltaCodec
from tests.testbed.ledger.learning import Floats
from tests.testbed.ledger.site import LedgerHost


class Malice(enum.Enum):
    """What a hostile author does."""

    FORGED = "hands out entries in another site's name"
    REPLAY = "hands out its old entries again and again"
    FORK = "signs two entries with one number, one for each half"
    CHAIN = "chains to an entry that never was"
    NAN = "hands out values that are not finite"
    HUGE = "hands out a delta a thousand times too long"
    TOO_MANY = "hands out more values per chunk than the charter allows"
    STALE = "trains for ever on the first base it had"
    OMITS = "leaves out of its base what the rest of it was made on"


FIRST = 3
"""Number of the first entry that is not honest."""


class InAnothersName(Identity):
    """Signs with one key and says another's."""

    __slots__ = ("_real",)

    def __init__(self, key: SiteKey, real: Identity) -> None:
        self.key = key
        self._real = real

    def sign(self, context: bytes, message: bytes) -> bytes:
        return self._real.sign(context, message)


@dataclass(slots=True)
class Hostile:
    """Makes of an honest entry what the malice wants sent instead, by receiver."""

    malice: Malice
    identity: Identity
    victim: SiteKey
    codec: DeltaCodec
    ledger: Ledger
    frozen: Basis | None = None
    frozen_trunk: Floats | None = None

    def instead(self, entry: Entry, parity: int) -> list[bytes]:
        """What to hand to a receiver (of either half) in place of an own entry."""
        honest = entry.encode()
        if entry.number < FIRST:
            return [honest]
        match self.malice:
            case Malice.FORGED:
                forged = self._remade(entry, identity=InAnothersName(self.victim, self.identity))
                return [honest, forged.encode(), dataclasses.replace(entry, signature=bytes(64)).encode()]
            case Malice.REPLAY:
                return [honest] * 3
            case Malice.FORK:
                return [honest if parity else self._remade(entry, weight=max(1, entry.weight - 1)).encode()]
            case Malice.CHAIN:
                return [self._remade(entry, previous=b"x" * 32).encode()]
            case Malice.NAN:
                payload = np.full(entry.payload_bytes // 4 + 1, np.nan, np.float32).tobytes()
                return [self._remade(entry, payload=payload).encode()]
            case Malice.HUGE:
                return [self._remade(entry, payload=self._noise(self.codec), measured=True).encode()]
            case Malice.TOO_MANY:
                rule = self.codec.parameters
                generous = DeltaCodec(self.codec.layout, CodecParameters(rule.chunk, 4 * rule.kept, rule.bits))
                return [self._remade(entry, payload=self._noise(generous)).encode()]
            case Malice.STALE:
                return [honest]
            case Malice.OMITS:
                return [self._remade(entry, basis=self._partial(entry)).encode()]

    def basis_for(self, author: SiteKey) -> Basis:
        """What the own next entry is made on: with STALE as if alone since the first entry that is not honest."""
        books = self.ledger.accepted
        now = AcceptedLogs.basis_for(books, author)
        number = books.head(author) + 1
        if self.malice is not Malice.STALE or number < FIRST:
            return now
        if self.frozen is None:
            self.frozen = now
            self.frozen_trunk = self.ledger.accumulator.trunk()
        return dataclasses.replace(
            self.frozen, vector=books.order.vector({**self._named(self.frozen), author: number - 1})
        )

    def trunk(self) -> Floats:
        """What is trained from: with STALE always the trunk of the frozen base."""
        return self.ledger.accumulator.trunk() if self.frozen_trunk is None else self.frozen_trunk

    def _partial(self, entry: Entry) -> Basis:
        """The newest entry of one other site, and nothing of all the rest that it was made on."""
        named = self._named(entry.basis)
        others = [key for key in named if key != entry.author]
        newest = max(others, key=lambda key: named[key])
        base = {newest: named[newest]}
        heads = [self.ledger.accepted.header(key, number) for key, number in base.items()]
        context = context_of(head for head in heads if head is not None)
        vector = self.ledger.accepted.order.vector({**base, entry.author: entry.number - 1})
        return dataclasses.replace(entry.basis, vector=vector, context=context)

    def _named(self, basis: Basis) -> dict[SiteKey, int]:
        return self.ledger.accepted.order.named(basis.vector)

    def _noise(self, codec: DeltaCodec) -> bytes:
        return codec.encode(100 * np.random.default_rng(1).standard_normal(codec.layout.size).astype(np.float32))

    def _remade(self, entry: Entry, measured: bool = False, **changes: Any) -> Entry:
        values: dict[str, Any] = {
            "charter_id": entry.charter_id,
            "number": entry.number,
            "previous": entry.previous,
            "basis": entry.basis,
            "weight": entry.weight,
            "head_weights": entry.head_weights,
            "steps": entry.steps,
            "norm_squared": entry.norm_squared,
            "codec_id": entry.codec_id,
            "payload": entry.payload,
            **changes,
        }
        if measured:
            values["norm_squared"] = self.codec.decode(values["payload"]).norm_squared
        return create(**{"identity": self.identity, **values})


class HostileHost(LedgerHost):
    """An honest machine whose own entries are exchanged on their way out."""

    def __init__(self, averaging: LedgerAveraging, hostile: Hostile) -> None:
        super().__init__(averaging)
        self._hostile = hostile
        averaging.ledger.accepted.basis_for = hostile.basis_for  # type: ignore[method-assign]
        averaging.trunk = lambda out=None: hostile.trunk()  # type: ignore[method-assign]
        self._out: deque[Effect] = deque()

    def poll(self) -> Effect | None:
        if self._out:
            return self._out.popleft()
        effect = super().poll()
        if isinstance(effect, Send) and isinstance(effect.message, Bodies):
            return dataclasses.replace(effect, message=self.exchanged(effect.to, effect.message))
        return effect

    def exchanged(self, to: SiteKey, bodies: Bodies) -> Bodies:
        """What goes to a receiver in place of these entries."""
        entries: list[bytes] = []
        for encoded in bodies.entries:
            entry = decode(encoded)
            mine = entry.author == self._hostile.identity.key
            entries += self._hostile.instead(entry, to[0] % 2) if mine else [encoded]
        return Bodies(tuple(entries[:64]))
