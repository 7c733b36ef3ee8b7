"""Where every site stands: a signed statement of each about itself, the newest one kept, relayed by anyone.

Statements order by (generation, counter), so spreading them is a join: order, repetition and loss do not matter. They
carry what changes a few times per run: phase, weight, `life`. How far a site has come changes with every round; that
goes directly and unsigned to a few sites (`progress`), or a federation of n would check n signatures per round each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgpack

from kmel_p2p.core.errors import WireError
from kmel_p2p.core.identity import Identity, verify
from kmel_p2p.core.types import SiteKey, short

SIGNING_CONTEXT = b"kmel standing 1"

LIFE_BYTES = 8
MAX_ROUNDS = 2**33


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
        signature: of all above and the charter id.
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
    signature: bytes = b""

    @property
    def order(self) -> tuple[int, int]:
        """A statement replaces those of the same site with a smaller order."""
        return self.generation, self.counter

    def signed(self, identity: Identity, charter_id: bytes) -> Standing:
        """This statement with the signature of its author."""
        return dataclasses.replace(self, signature=identity.sign(SIGNING_CONTEXT, self._signed_bytes(charter_id)))

    def is_genuine(self, charter_id: bytes) -> bool:
        """Whether its author signed it under this charter."""
        return verify(self.site, SIGNING_CONTEXT, self._signed_bytes(charter_id), self.signature)

    def _signed_bytes(self, charter_id: bytes) -> bytes:
        values = [getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "signature"]
        packed: bytes = msgpack.packb([charter_id, *values], use_bin_type=True)
        return packed


class StandingTable:
    """The newest genuine statement of every roster site but this one."""

    def __init__(self, own: SiteKey, charter_id: bytes, roster: Iterable[SiteKey], round_limit: int) -> None:
        self._own = own
        self._charter_id = charter_id
        self._roster = frozenset(roster)
        self._round_limit = round_limit
        self._newest: dict[SiteKey, Standing] = {}
        self._changed: dict[SiteKey, int] = {}
        self.version = 0
        """Rises with every change."""
        self.own_order = (0, 0)
        """Newest order of a statement about ourselves heard from others. Ours must exceed it: a site that lost its
        store, and its count of starts with it, would go unheard otherwise."""

    def __iter__(self) -> Iterator[Standing]:
        return iter([self._newest[key] for key in sorted(self._newest)])

    def get(self, site: SiteKey) -> Standing | None:
        """The newest statement of `site`, if any is known."""
        return self._newest.get(site)

    def among(self, sites: Iterable[SiteKey]) -> list[Standing]:
        """Statements of those of `sites` that are known, in key order."""
        return [self._newest[key] for key in sorted(sites) if key in self._newest]

    def since(self, version: int) -> list[Standing]:
        """Statements that are newer here than `version`, oldest news first."""
        news = sorted((at, key) for key, at in self._changed.items() if at > version)
        return [self._newest[key] for _, key in news]

    def offer(self, standing: Standing) -> bool:
        """Take a statement; returns whether it was news.

        Raises:
            WireError: it stands for a site of no charter, is not signed by it, or breaks the charter's limit.
        """
        site = standing.site
        known = self._newest.get(site)
        before = self.own_order if site == self._own else known.order if known else (-1, -1)
        if before >= standing.order:
            return False
        if site not in self._roster:
            raise WireError(f"standing of {short(site)}, which the charter does not list")
        if standing.rounds > self._round_limit or standing.offset > self._round_limit:
            raise WireError(f"standing of {short(site)} is beyond the charter's {self._round_limit} entries")
        if not standing.is_genuine(self._charter_id):
            raise WireError(f"standing of {short(site)} with a wrong signature")
        if site == self._own:
            self.own_order = standing.order
            return False
        self._newest[site] = standing
        self.version += 1
        self._changed[site] = self.version
        return True

    def remove(self, site: SiteKey) -> None:
        """A site left the roster."""
        self._roster -= {site}
        self._newest.pop(site, None)
        self._changed.pop(site, None)
        self.version += 1
