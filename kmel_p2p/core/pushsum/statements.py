"""Where every site stands: a signed statement of each about itself, the newest one kept, relayed by anyone.

An own statement is told when it changes; per interval a random site is asked whether it knows other ones. An exchange
begins with a digest of all that is known. Only if digests differ do statements travel: what is news since the other
was told last, or everything when that should have been enough and was not.

Statements order by (generation, counter), so spreading them is a join: order, repetition and loss do not matter. They
carry what changes a few times per run: phase, weight, `life`. How far a site has come changes with every round; that
goes directly and unsigned to a few sites (`progress`), or a federation of n would check n signatures per round each.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SIGNATURE_BYTES, Identity, SiteKey, short, verify
from kmel_p2p.core.effects import Effect, Emit, Send
from kmel_p2p.core.pushsum.events import PushSumRefused
from kmel_p2p.core.pushsum.holding import MAX_MASS
from kmel_p2p.core.pushsum.messages import LIFE_BYTES, MAX_ROUNDS, MAX_STATEMENT_BYTES, Hop, Statements
from kmel_p2p.core.types import Micros, Randomness
from kmel_p2p.core.wire import KEY, blob, flag, record, uint

SIGNING_CONTEXT = b"kmel standing 1"

DIGEST_BITS = 64

MAX_TOLD = 32
"""Sites told at once about a change; the periodic exchange reaches the rest."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One site's statement about itself.

    Attributes:
        site: its author.
        generation: the author's count of starts; a later one overrules.
        counter: rises with every statement of a generation.
        life: drawn when the author's store was made. A new one means that its mass was lost with the old store.
        weight: starting mass, minted or to be minted.
        rounds: rounds it had trained when it said so.
        offset: what puts its rounds level with those of sites that started earlier.
        phase: as in `rounds.Phase`.
        resting: it listens and has finished its last exchanges.
        encoded: signature and packed fields, as it travels; empty before it is signed.
    """

    site: SiteKey
    generation: int
    counter: int
    life: bytes
    weight: int
    rounds: int
    offset: int
    phase: int
    resting: bool
    encoded: bytes = b""

    @property
    def mark(self) -> int:
        """64 bits that differ between statements of different site or order."""
        name = self.site + self.generation.to_bytes(8, "big") + self.counter.to_bytes(8, "big")
        return int.from_bytes(hashlib.blake2b(name, digest_size=DIGEST_BITS // 8).digest(), "big")

    @property
    def order(self) -> tuple[int, int]:
        """A statement replaces those of the same site with a smaller order."""
        return self.generation, self.counter

    def signed(self, identity: Identity, charter_id: bytes) -> Statement:
        """This statement as `identity` signs it under a charter."""
        body: bytes = msgpack.packb(_BODY.pack(self), use_bin_type=True)
        return dataclasses.replace(self, encoded=identity.sign(SIGNING_CONTEXT, charter_id + body) + body)

    def is_genuine(self, charter_id: bytes) -> bool:
        """Whether its author signed it under this charter."""
        signature, body = self.encoded[:SIGNATURE_BYTES], self.encoded[SIGNATURE_BYTES:]
        return verify(self.site, SIGNING_CONTEXT, charter_id + body, signature)


_BODY = record(
    Statement,
    site=KEY,
    generation=uint(2**40),
    counter=uint(2**40),
    life=blob(LIFE_BYTES, LIFE_BYTES),
    weight=uint(MAX_MASS),
    rounds=uint(MAX_ROUNDS),
    offset=uint(MAX_ROUNDS),
    phase=uint(2),
    resting=flag(),
)


def decode(encoded: bytes) -> Statement:
    """The statement in `encoded`. Its signature is not checked here.

    Raises:
        WireError: not a statement.
    """
    body = unpack_bounded(encoded[SIGNATURE_BYTES:], MAX_STATEMENT_BYTES)
    statement: Statement = _BODY.unpack(body)
    return dataclasses.replace(statement, encoded=encoded)


class StatementTable:
    """The newest genuine statement of every roster site but this one."""

    def __init__(self, own: SiteKey, charter_id: bytes, roster: Iterable[SiteKey], round_limit: int) -> None:
        self._own = own
        self._charter_id = charter_id
        self._roster = frozenset(roster)
        self._round_limit = round_limit
        self._newest: dict[SiteKey, Statement] = {}
        self._encoded: set[bytes] = set()
        self._changed: dict[SiteKey, int] = {}
        self._among: tuple[tuple[int, tuple[SiteKey, ...]], tuple[Statement, ...]] = ((0, ()), ())
        self.version = 0
        """Rises with every change."""
        self.digest = 0
        """Equal for equal tables: exclusive or of each statement's mark."""
        self.own_order = (0, 0)
        """Newest order of a statement about ourselves heard from others. Ours must exceed it: a site that lost its
        store, and its count of starts with it, would go unheard otherwise."""

    def __iter__(self) -> Iterator[Statement]:
        return iter([self._newest[key] for key in sorted(self._newest)])

    def get(self, site: SiteKey) -> Statement | None:
        """The newest statement of `site`, if any is known."""
        return self._newest.get(site)

    def among(self, sites: tuple[SiteKey, ...]) -> tuple[Statement, ...]:
        """Statements of those of `sites` that are known, in key order. Remembered: it is asked on every input."""
        if self._among[0] != (self.version, sites):
            found = tuple(self._newest[key] for key in sorted(sites) if key in self._newest)
            self._among = (self.version, sites), found
        return self._among[1]

    def since(self, version: int) -> list[Statement]:
        """Statements that are newer here than `version`, oldest news first."""
        news = sorted((at, key) for key, at in self._changed.items() if at > version)
        return [self._newest[key] for _, key in news]

    def offer(self, encoded: bytes) -> Statement | None:
        """Take an encoded statement; returns it when it was news.

        Raises:
            WireError: not a statement, not signed by the site it speaks for, a site that is not in the charter, or
                beyond the charter's limit.
        """
        # Most that arrives is known already: one look-up, nothing decoded.
        if encoded in self._encoded:
            return None
        statement = decode(encoded)
        site = statement.site
        known = self._newest.get(site)
        before = self.own_order if site == self._own else known.order if known else (-1, -1)
        if before >= statement.order:
            return None
        if site not in self._roster:
            raise WireError(f"statement of {short(site)}, which the charter does not list")
        if statement.rounds > self._round_limit or statement.offset > self._round_limit:
            raise WireError(f"statement of {short(site)} is beyond the charter's {self._round_limit} entries")
        if not statement.is_genuine(self._charter_id):
            raise WireError(f"statement of {short(site)} with a wrong signature")
        if site == self._own:
            self.own_order = statement.order
            return None
        self._replace(known, statement)
        self.version += 1
        self._changed[site] = self.version
        return statement

    def _replace(self, known: Statement | None, statement: Statement | None) -> None:
        if known is not None:
            del self._newest[known.site]
            self._encoded.discard(known.encoded)
            self.digest ^= known.mark
        if statement is not None:
            self._newest[statement.site] = statement
            self._encoded.add(statement.encoded)
            self.digest ^= statement.mark

    def remove(self, site: SiteKey) -> None:
        """A site left the roster."""
        self._roster -= {site}
        self._replace(self._newest.get(site), None)
        self._changed.pop(site, None)
        self.version += 1


class StatementExchange:
    """Keeps the table and tells others. Effects go to the shared `outbox`.

    Args:
        describe: fills in what this site states about itself for (generation, counter).
    """

    def __init__(
        self,
        identity: Identity,
        charter_id: bytes,
        table: StatementTable,
        describe: Callable[[int, int], Statement],
        generation: int,
        alive: Callable[[], Iterable[SiteKey]],
        outbox: deque[Effect],
        rng: Randomness,
        interval_us: Micros,
        now: Micros,
    ) -> None:
        self.table = table
        self._identity = identity
        self._charter_id = charter_id
        self._describe = describe
        self._order = (generation, 0)
        self._alive = alive
        self._outbox = outbox
        self._rng = rng
        self._interval_us = interval_us
        self._next_us = now + self._jittered_us()
        self._own: Statement | None = None
        self._told: dict[SiteKey, int] = {}

    def announce(self) -> None:
        """What this site states about itself changed: tell reachable sites."""
        self._own = None
        message = self._message((), Hop.NOTICE)
        alive = sorted(self._alive())
        told = alive if len(alive) <= MAX_TOLD else self._rng.sample(alive, MAX_TOLD)
        for key in told:
            self._outbox.append(Send(key, message))

    def greet(self, to: SiteKey) -> None:
        """Begin an exchange."""
        self._outbox.append(Send(to, self._message((), Hop.OFFER)))

    def forget(self, site: SiteKey) -> None:
        """A site came up anew: it may know nothing."""
        self._told.pop(site, None)

    def on_statements(self, sender: SiteKey, message: Statements) -> list[Statement]:
        """Take what another site knows; returns what was news. What follows something that does not stand is left."""
        news: list[Statement] = []
        own = self._own_statement().encoded
        try:
            # Our own newest statement comes back from everybody: it is no claim that needs to be exceeded.
            for encoded in message.statements:
                statement = self.table.offer(encoded) if encoded != own else None
                news += [statement] if statement is not None else []
        except WireError as error:
            self._outbox.append(Emit(PushSumRefused(sender, str(error))))
        if self.table.own_order >= self._order:
            self.announce()
        if message.hop != Hop.NOTICE and message.digest != self._digest():
            self._tell(sender, Hop.ANSWER if message.hop == Hop.OFFER else Hop.NOTICE)
        return news

    def advance(self, now: Micros) -> None:
        """Send the periodic exchange when it is due."""
        if now < self._next_us:
            return
        self._next_us = now + self._jittered_us()
        alive = sorted(self._alive())
        if alive:
            self.greet(self._rng.choice(alive))

    def deadline(self) -> Micros:
        """When `advance` has something to do."""
        return self._next_us

    def _tell(self, to: SiteKey, hop: Hop) -> None:
        """What `to` does not know, as far as we can tell; also of itself (`StatementTable.own_order`)."""
        news = self.table.since(self._told.get(to, 0)) or self.table.since(0)
        self._told[to] = self.table.version
        self._outbox.append(Send(to, self._message(news, hop)))

    def _message(self, news: Iterable[Statement], hop: Hop) -> Statements:
        encoded = (self._own_statement().encoded, *(s.encoded for s in news))
        return Statements(encoded, self._digest(), hop)

    def _digest(self) -> int:
        return self.table.digest ^ self._own_statement().mark

    def _own_statement(self) -> Statement:
        if self._own is None:
            generation, counter = max(self._order, self.table.own_order)
            self._order = (generation, counter + 1)
            self._own = self._describe(*self._order).signed(self._identity, self._charter_id)
        return self._own

    def _jittered_us(self) -> Micros:
        return self._interval_us // 2 + self._rng.randrange(self._interval_us)
