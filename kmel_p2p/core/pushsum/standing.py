"""Where every site stands: a signed statement of each about itself, the newest one kept, relayed by anyone.

Statements order by (generation, counter), so spreading them is a join: order, repetition and loss do not matter. They
carry what changes a few times per run: phase, weight, `life`. How far a site has come changes with every round; that
goes directly and unsigned to a few sites (`progress`), or a federation of n would check n signatures per round each.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgpack

from kmel_p2p.agreement.canonical import unpack_bounded
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import SIGNATURE_BYTES, Identity, SiteKey, short, verify
from kmel_p2p.core.pushsum.holding import MAX_MASS
from kmel_p2p.core.wire import KEY, blob, flag, record, uint

SIGNING_CONTEXT = b"kmel standing 1"

LIFE_BYTES = 8
DIGEST_BITS = 64
MAX_ROUNDS = 2**33
MAX_STANDING_BYTES = 256


@dataclass(frozen=True, slots=True)
class Standing:
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

    def signed(self, identity: Identity, charter_id: bytes) -> Standing:
        """This statement as `identity` signs it under a charter."""
        body: bytes = msgpack.packb(_BODY.pack(self), use_bin_type=True)
        return dataclasses.replace(self, encoded=identity.sign(SIGNING_CONTEXT, charter_id + body) + body)

    def is_genuine(self, charter_id: bytes) -> bool:
        """Whether its author signed it under this charter."""
        signature, body = self.encoded[:SIGNATURE_BYTES], self.encoded[SIGNATURE_BYTES:]
        return verify(self.site, SIGNING_CONTEXT, charter_id + body, signature)


_BODY = record(
    Standing,
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


def decode(encoded: bytes) -> Standing:
    """The statement in `encoded`. Its signature is not checked here.

    Raises:
        WireError: not a statement.
    """
    body = unpack_bounded(encoded[SIGNATURE_BYTES:], MAX_STANDING_BYTES)
    standing: Standing = _BODY.unpack(body)
    return dataclasses.replace(standing, encoded=encoded)


class StandingTable:
    """The newest genuine statement of every roster site but this one."""

    def __init__(self, own: SiteKey, charter_id: bytes, roster: Iterable[SiteKey], round_limit: int) -> None:
        self._own = own
        self._charter_id = charter_id
        self._roster = frozenset(roster)
        self._round_limit = round_limit
        self._newest: dict[SiteKey, Standing] = {}
        self._encoded: set[bytes] = set()
        self._changed: dict[SiteKey, int] = {}
        self._among: tuple[tuple[int, tuple[SiteKey, ...]], tuple[Standing, ...]] = ((0, ()), ())
        self.version = 0
        """Rises with every change."""
        self.digest = 0
        """Equal for equal tables: exclusive or of each statement's mark."""
        self.own_order = (0, 0)
        """Newest order of a statement about ourselves heard from others. Ours must exceed it: a site that lost its
        store, and its count of starts with it, would go unheard otherwise."""

    def __iter__(self) -> Iterator[Standing]:
        return iter([self._newest[key] for key in sorted(self._newest)])

    def get(self, site: SiteKey) -> Standing | None:
        """The newest statement of `site`, if any is known."""
        return self._newest.get(site)

    def among(self, sites: tuple[SiteKey, ...]) -> tuple[Standing, ...]:
        """Statements of those of `sites` that are known, in key order. Remembered: it is asked on every input."""
        if self._among[0] != (self.version, sites):
            found = tuple(self._newest[key] for key in sorted(sites) if key in self._newest)
            self._among = (self.version, sites), found
        return self._among[1]

    def since(self, version: int) -> list[Standing]:
        """Statements that are newer here than `version`, oldest news first."""
        news = sorted((at, key) for key, at in self._changed.items() if at > version)
        return [self._newest[key] for _, key in news]

    def offer(self, encoded: bytes) -> Standing | None:
        """Take an encoded statement; returns it when it was news.

        Raises:
            WireError: not a statement, not signed by the site it speaks for, a site that is not in the charter, or
                beyond the charter's limit.
        """
        # Most that arrives is known already: one look-up, nothing decoded.
        if encoded in self._encoded:
            return None
        standing = decode(encoded)
        site = standing.site
        known = self._newest.get(site)
        before = self.own_order if site == self._own else known.order if known else (-1, -1)
        if before >= standing.order:
            return None
        if site not in self._roster:
            raise WireError(f"standing of {short(site)}, which the charter does not list")
        if standing.rounds > self._round_limit or standing.offset > self._round_limit:
            raise WireError(f"standing of {short(site)} is beyond the charter's {self._round_limit} entries")
        if not standing.is_genuine(self._charter_id):
            raise WireError(f"standing of {short(site)} with a wrong signature")
        if site == self._own:
            self.own_order = standing.order
            return None
        self._replace(known, standing)
        self.version += 1
        self._changed[site] = self.version
        return standing

    def _replace(self, known: Standing | None, standing: Standing | None) -> None:
        if known is not None:
            del self._newest[known.site]
            self._encoded.discard(known.encoded)
            self.digest ^= known.mark
        if standing is not None:
            self._newest[standing.site] = standing
            self._encoded.add(standing.encoded)
            self.digest ^= standing.mark

    def remove(self, site: SiteKey) -> None:
        """A site left the roster."""
        self._roster -= {site}
        self._replace(self._newest.get(site), None)
        self._changed.pop(site, None)
        self.version += 1
