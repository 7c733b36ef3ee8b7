"""Fetches the file that the charter's trunk starts from, by its hash, where this site has no copy.

It is fetched whole from one site, part by part, over the desk (`site.desk.start_file_parts`). Whoever gives other bytes
than agreed has them refused and is named; the next site is asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.charter import SiteRule
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import Layout
from kmel_p2p.files import whole_file
from kmel_p2p.learn.models.start_file import fetched_path, file_hash
from kmel_p2p.net.desk import member_keys
from kmel_p2p.net.desk_client import DeskBusyError, ask_desk, encode_question
from kmel_p2p.site.desk.start_file_parts import PART_BYTES, REQUEST
from kmel_p2p.site.loaded_site import require_package
from kmel_p2p.site.site import Site, kept_constitution
from kmel_p2p.site.state.orders import OrderBook

PACE_S = 0.15
"""Between two questions: a desk answers ten a second and host."""

BUSY_S = 1.0
"""Before a desk that has too much to do is asked again."""

ASK_S = 20.0
"""For one part."""

PATIENCE_S = 60.0
"""A site has this long, and a second more for each `SLOWEST` bytes, before the next one is asked, however many
addresses it has; and this long the others are asked again where none of them gives the file: their peers may be
starting."""

SLOWEST = 50_000

UNREADABLE = "it answered what this version cannot read; update kmel-peer there or here"

ROOM_BYTES = 1024 * 1024
"""Of a start file beside the trunk's values: names, and heads that nobody reads."""


def fetch_start_file(site: Site, told: Callable[[str, int], None]) -> Path | None:
    """Fetch the charter's start file from the other sites unless the settings name a copy, or a whole one was fetched.
    Sites that the operator has blocked are not asked.

    Args:
        told: takes the name of a site that begins to give it, and its bytes.

    Returns:
        The site's copy; None where the charter names no start file.

    Raises:
        LocalError: no site gives it.
        ConfigError: it cannot be written, the package that brings the trunk is missing, or a file of this site is
            damaged.
    """
    model, config = site.charter.model, site.config
    named, path = config.site.start_file, fetched_path(model, config.site.state_dir)
    if not model.start or named is not None:
        return named
    if path.exists() and file_hash(path) == model.start:
        return path
    require_package(site)  # before a minute of asking for a file that nothing here could read
    roster = kept_constitution(site.constitution, config.site.state_dir).roster
    left_out = {site.identity.key, *OrderBook(config.site.state_dir).blocked}
    sources = [
        StartFileSource(rule, rule.addresses) for key, rule in roster.items() if key not in left_out and rule.addresses
    ]
    fetch = StartFileFetch(site.identity, model, site.layout, config.network.proxy_address, told)
    fetch.into(path, sources)
    return path


def largest_size(layout: Layout) -> int:
    """Bytes of the largest file that can be the start of such a trunk: its values, as many again for heads of other
    assay endpoints, and names.
    """
    return 2 * 4 * layout.size + ROOM_BYTES


class BrokenOffError(LocalError):
    """A site began to give the file and did not give it whole."""


class MisgivenError(BrokenOffError):
    """A site gives another file than the charter's, or too slowly: it is not asked again, at any address."""


@dataclass(frozen=True)
class StartFileSource:
    """Another site that may give the file, and where it is reached."""

    rule: SiteRule
    addresses: Sequence[str]


class StartFileFetch:
    """Fetches the start file of a charter.

    Args:
        identity: ours.
        model: names the file by its hash.
        layout: of the trunk; bounds the size.
        proxy: host:port of the SOCKS5 proxy that connections go through; empty: none.
        told: takes the name of the site that begins to give the file, and its bytes.
        clock: monotonic seconds.
        pause: waits for so many seconds.
    """

    def __init__(
        self,
        identity: Identity,
        model: ModelRule,
        layout: Layout,
        proxy: str = "",
        told: Callable[[str, int], None] = lambda site, size: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._identity = identity
        self._model = model
        self._largest = largest_size(layout)
        self._proxy = proxy
        self._told = told
        self._clock = clock
        self._pause = pause

    def into(self, path: Path, sources: Sequence[StartFileSource], patience_s: float = PATIENCE_S) -> None:
        """Ask one site after the other until one has given the whole file, which is at `path` then.

        The time in which one site gives parts, and not the whole, is not taken from the others' patience.

        Raises:
            LocalError: none of them gives it within the time; says why not, site by site.
            ConfigError: it cannot be written.
        """
        if not sources:
            raise LocalError("no other site of this federation has an address to fetch the start file from")
        deadline, left, why = self._clock() + patience_s, list(sources), dict[str, str]()
        gave_s = {source.rule.name: 0.0 for source in sources}
        while left:
            for source in tuple(left):
                name, began = source.rule.name, self._clock()
                try:
                    self._from(source, path)
                except LocalError as error:
                    why[name] = str(error)
                    if isinstance(error, BrokenOffError):
                        gave_s[name] += self._clock() - began
                    if isinstance(error, MisgivenError):
                        left.remove(source)
                    continue
                return
            now = self._clock() - sum(gave_s.values())
            left = [source for source in left if now + gave_s[source.rule.name] < deadline]
            if left:
                self._pause(BUSY_S)
        raise LocalError(
            f"no site gave the file that the charter's trunk starts from (sha256 {self._model.start[:16]}): "
            + "; ".join(f"{name}: {text}" for name, text in why.items())
            + ". Start again when one of them runs that has it, or name your copy in site.start_file"
        )

    def _from(self, source: StartFileSource, path: Path) -> None:
        """The whole file from one site, at its first address that answers."""
        why: LocalError | None = None
        began: float | None = None
        for address in source.addresses:
            try:
                with contextlib.closing(self._parts(source, address)) as parts:
                    size, first = next(parts)
                    began = self._clock() if began is None else began
                    self._told(source.rule.name, size)
                    self._write(path, size, first, parts, began)
                return
            except MisgivenError:
                raise
            except LocalError as error:
                why = why if isinstance(why, BrokenOffError) else error
        raise why or LocalError("has no address")

    def _write(self, path: Path, size: int, first: bytes, parts: Iterator[tuple[int, bytes]], began: float) -> None:
        """Write what one site gives. `began`: when its first part came, over whichever address."""
        hashed, done = hashlib.sha256(first), len(first)
        limit_s = PATIENCE_S + size / SLOWEST
        with whole_file(path) as file:
            file.write(first)
            for _, part in parts:
                file.write(part)
                hashed.update(part)
                done += len(part)
                if self._clock() - began > limit_s:
                    raise MisgivenError(f"gave {done} of {size} bytes in {limit_s:.0f} s, which is too slow")
            if hashed.hexdigest() != self._model.start:
                raise MisgivenError(f"gave another file, of sha256 {hashed.hexdigest()[:16]}; ask its operator")

    def _parts(self, source: StartFileSource, address: str) -> Generator[tuple[int, bytes], None, None]:
        """Size of the file and part after part, in order."""
        at, size = 0, None
        while size is None or at < size:
            if size is not None:
                self._pause(PACE_S)
            try:
                answer = self._ask(source, address, at)
            except LocalError as error:
                raise (
                    error if size is None or isinstance(error, MisgivenError) else BrokenOffError(str(error))
                ) from None
            found, part = answer.get("size"), answer.get("part")
            if type(found) is not int or type(part) is not bytes or (size is not None and found != size):
                raise MisgivenError(UNREADABLE)
            size = found
            if not 0 < size <= self._largest:
                raise MisgivenError(f"says that the file has {size} bytes; at most {self._largest} can be the trunk's")
            if len(part) != min(PART_BYTES, size - at):
                raise MisgivenError(f"gave {len(part)} bytes where a part has {min(PART_BYTES, size - at)}")
            at += len(part)
            yield size, part

    def _ask(self, source: StartFileSource, address: str, at: int) -> dict[str, Any]:
        keys = member_keys(self._identity, source.rule.site_key, asks=True)
        if keys is None:
            raise LocalError(f"the charter's key of {source.rule.name} cannot be held by anybody")
        question = encode_question(REQUEST, {"sha256": self._model.start, "at": at})
        until = self._clock() + ASK_S
        while True:
            try:
                answer = ask_desk(keys, source.rule.site_key, address, question, ASK_S, self._proxy)
            except DeskBusyError:
                if self._clock() >= until:
                    raise
                self._pause(BUSY_S)
                continue
            if type(answer) is not dict:
                raise MisgivenError(UNREADABLE)
            return answer
