"""What is remembered of real sites from kill to kill: every entry that a store showed must be somewhere at the end."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field

from kmel_p2p.agreement.errors import KmelError
from kmel_p2p.agreement.identity import SiteKey, digest
from kmel_p2p.core.ledger.log.entry import Entry
from kmel_p2p.simulate.sites import SiteProcess
from kmel_p2p.site.config import load_config
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes.stored_ledger import open_ledger
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, verify
from kmel_p2p.site.state.own_state import own_entries, own_state
from kmel_p2p.site.state.store import STORE_NAME, Store


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: when (seconds since the first), whom, and what the site was doing, by its last status."""

    at_s: float
    site: str
    what: str
    phase: str
    trainer: str


@dataclass(slots=True)
class Figures:
    """What was seen.

    Attributes:
        kills: every kill.
        entries: entries that any store showed at any time.
        published: newest entry of each site at the end.
        digests: different digests at the end; 1 is right.
        vectors: different vectors at the end; 1 is right.
        missing: entries that some store showed once and that some log does not hold at the end.
        contradictions: (author, number) that were seen with two hashes.
        balances: site -> gap of its books (`site.state.own_state`), the worst of all looks.
        looks: how often the books of a stopped site were checked against all its entries.
        unseen: looks that could not, for an own entry was compacted before any look.
        damages: site and kind of every disk that was lost or replaced.
        doubled: payloads that some log has twice at the end.
        problems: everything that did not hold, in words.
        restart_s: per killed daemon, seconds from its start to its next answer.
    """

    kills: list[Kill] = field(default_factory=list)
    entries: int = 0
    published: dict[str, int] = field(default_factory=dict)
    digests: int = 0
    vectors: int = 0
    missing: int = 0
    contradictions: int = 0
    balances: dict[str, float] = field(default_factory=dict)
    residual_norms: dict[str, float] = field(default_factory=dict)
    looks: int = 0
    unseen: int = 0
    damages: list[tuple[str, str]] = field(default_factory=list)
    doubled: int = 0
    problems: list[str] = field(default_factory=list)
    restart_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def by_kind(self) -> dict[str, int]:
        """Kills by what was killed and what the trainer was doing."""
        return dict(sorted(Counter(f"{kill.what} while {kill.trainer or 'starting'}" for kill in self.kills).items()))


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry that was in a store.

    Attributes:
        payload: its hash.
        holders: sites in whose store it was; empty: it may have gone with their disks.
    """

    author: SiteKey
    number: int
    payload: bytes
    holders: set[str]


class Witness:
    """Remembers what the stores showed."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._seen: dict[bytes, Seen] = {}
        self._damaged: set[str] = set()
        self._own: dict[SiteKey, dict[int, Entry]] = {}

    def look(self, site: SiteProcess) -> None:
        """Read a site's store: every entry, the own ones in full, and the trainer's state beside them."""
        made = load_site(load_config(site.folder / "site.toml"))
        path = site.state_dir / STORE_NAME
        if not path.exists():
            return
        with contextlib.closing(Store(path, read_only=True)) as store:
            for stored in store.load_entries():
                seen = Seen(stored.author, stored.number, digest(stored.payload), set())
                self._seen.setdefault(stored.hash, seen).holders.add(site.name)
            if site.name in self._damaged:
                # Its trainer began anew, or where it was long ago: there are no books to check.
                return
            own = self._own.setdefault(made.identity.key, {})
            own.update(own_entries(made, store))
            try:
                state = own_state(made, store, own)
            except KmelError as error:
                self._say(f"{site.name}: {error}")
                return
        if state is None:
            return
        if state.gap is None:
            self._figures.unseen += 1
            return
        self._figures.looks += 1
        if state.first != 1 or state.steps != sum(
            entry.steps for number, entry in own.items() if number <= state.round
        ):
            self._say(f"{site.name}: the trainer's state counts {state.steps} steps from entry {state.first} on")
        if state.problem:
            self._say(f"{site.name}: {state.problem}")
        self._figures.balances[site.name] = max(self._figures.balances.get(site.name, 0.0), state.gap)
        self._figures.residual_norms[site.name] = state.residual_norm

    def conclude(self, sites: list[SiteProcess]) -> None:
        """Recompute every stopped site's ledger from its store, and compare with all that was ever seen."""
        digests, vectors = set(), set()
        for site in sites:
            made = load_site(load_config(site.folder / "site.toml"))
            with contextlib.closing(Store(site.state_dir / STORE_NAME, read_only=True)) as store:
                for problem in store.check():
                    self._say(f"{site.name}: {problem}")
                ledger = open_ledger(made, store)
            digests.add(ledger.digest())
            vectors.add(tuple(sorted(ledger.vector.items())))
            self._figures.published[site.name] = ledger.head(made.identity.key)
            contents = Counter(header.payload_hash for log in ledger.accepted.logs.values() for header in log.headers())
            self._figures.doubled += sum(count > 1 for count in contents.values())
            for hash_, seen in self._seen.items():
                if not seen.holders:
                    continue
                header = ledger.accepted.header(seen.author, seen.number)
                # What its author disowned is there under another number.
                again = seen.payload in contents and (header is None or header.hash != hash_)
                self._figures.missing += seen.number > ledger.head(seen.author) and not again
                self._figures.contradictions += header is not None and header.hash != hash_ and not again
            for author, fault in ledger.faults.items():
                self._say(f"{site.name}: the log of {made.names[author]} was ended: {fault.reason}")
            audit = verify(site.state_dir / EGRESS_NAME)
            if audit.problem:
                self._say(f"{site.name}: egress: {audit.problem}")
        self._figures.digests, self._figures.vectors = len(digests), len(vectors)
        self._figures.entries = len(self._seen)

    def damaged(self, site: SiteProcess) -> None:
        """The site's disk was lost or replaced: what nobody else was seen to hold may have gone with it."""
        self._damaged.add(site.name)
        for seen in self._seen.values():
            seen.holders.discard(site.name)

    def _say(self, problem: str) -> None:
        if problem not in self._figures.problems:
            self._figures.problems.append(problem)
