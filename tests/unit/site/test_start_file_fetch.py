"""A start file is fetched from another site over real sockets, and only if it is the one that the charter names."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import pytest

from kmel_p2p.agreement.charter import SiteRule
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import Layout
from kmel_p2p.learn.models.start_file import fetched_path, start_file_of
from kmel_p2p.net.desk import DeskGuest
from kmel_p2p.site.desk import start_file_fetch, start_file_parts
from kmel_p2p.site.desk.room import DeskRoom
from kmel_p2p.site.desk.start_file_fetch import StartFileFetch, StartFileSource, fetch_start_file, largest_size
from kmel_p2p.site.desk.start_file_parts import HOUR_S, PART_BYTES, READ_AT_ONCE, TIMES_AN_HOUR, StartFileParts
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.orders import OrderBook

OWN, NORTH, SOUTH = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
WHOLE = bytes(range(256)) * 2048  # three parts, the last one shorter
SHA256 = hashlib.sha256(WHOLE).hexdigest()
MODEL = ModelRule(start=SHA256)
LAYOUT = cast(Layout, SimpleNamespace(size=10))

Answer = Callable[[Mapping[str, Any]], Any]


def giving(path: Path | None, model: ModelRule = MODEL, clock: Callable[[], float] = lambda: 0.0) -> StartFileParts:
    site = SimpleNamespace(charter=SimpleNamespace(model=model), start_file=path)
    return StartFileParts(lambda: cast(Site, site), clock)


def room(identity: Identity, parts: StartFileParts | Answer) -> DeskRoom:
    async def answer(guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        assert (guest.site, name) == (OWN.key, "start_file")
        return await parts.answer(OWN.key, arguments) if isinstance(parts, StartFileParts) else parts(arguments)

    return DeskRoom(identity, "tcp://127.0.0.1:0", answer, members=lambda: [OWN.key])


def source(identity: Identity, name: str, *addresses: str) -> StartFileSource:
    return StartFileSource(SiteRule(name=name, key=identity.key.hex(), addresses=addresses), addresses)


def fetching(told: list[tuple[str, int]] | None = None, step_s: float = 7.0) -> StartFileFetch:
    """Each look at the clock is `step_s` later than the last one."""
    clock, heard = itertools.count(0.0, step_s), [] if told is None else told
    return StartFileFetch(
        OWN,
        MODEL,
        LAYOUT,
        told=lambda name, size: heard.append((name, size)),
        clock=lambda: next(clock),
        pause=lambda seconds: None,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "theirs.safetensors"
    path.write_bytes(WHOLE)
    return path


def test_a_site_without_a_copy_fetches_it_whole(tmp_path: Path, copy: Path) -> None:
    told: list[tuple[str, int]] = []
    path = fetched_path(MODEL, tmp_path)
    assert start_file_of(MODEL, None, tmp_path) is None
    with room(NORTH, giving(copy)) as north:
        fetching(told).into(path, [source(NORTH, "north", north.address)])
    assert path.read_bytes() == WHOLE
    assert path.stat().st_mode & 0o077 == 0
    assert start_file_of(MODEL, None, tmp_path) == path
    assert start_file_of(MODEL, copy, tmp_path) == copy
    assert told == [("north", len(WHOLE))]


def other_bytes(arguments: Mapping[str, Any]) -> Any:
    return {"size": len(WHOLE), "part": bytes(min(PART_BYTES, len(WHOLE) - arguments["at"]))}


def another_size_later(arguments: Mapping[str, Any]) -> Any:
    return {"size": len(WHOLE) + arguments["at"], "part": WHOLE[:PART_BYTES]}


HOSTILE: list[tuple[Answer, str]] = [
    (other_bytes, "gave another file, of sha256 "),
    (another_size_later, "cannot read"),
    (lambda arguments: {"size": 1 << 50, "part": b"x" * PART_BYTES}, r"says that the file has 1125899906842624 bytes"),
    (lambda arguments: {"size": 0, "part": b""}, "says that the file has 0 bytes"),
    (lambda arguments: {"size": -1, "part": b""}, "says that the file has -1 bytes"),
    (lambda arguments: {"size": len(WHOLE), "part": b"x"}, "gave 1 bytes where a part has 196608"),
    (lambda arguments: {"size": 10, "part": b"x" * 20}, "gave 20 bytes where a part has 10"),
    (lambda arguments: {"size": True, "part": b"x"}, "cannot read"),
    (lambda arguments: ["size", "part"], "cannot read"),
    (lambda arguments: {}, "cannot read"),
]


@pytest.mark.parametrize(("answer", "why"), HOSTILE)
def test_what_is_not_the_file_is_refused_by_name_and_the_next_site_is_asked(
    tmp_path: Path, copy: Path, answer: Answer, why: str
) -> None:
    path = tmp_path / "state" / "ours.safetensors"
    with room(SOUTH, answer) as south, pytest.raises(LocalError, match=f"south: .*{why}"):
        fetching().into(path, [source(SOUTH, "south", south.address)], patience_s=0.0)
    assert list(path.parent.iterdir()) == [] if path.parent.exists() else True
    with room(SOUTH, answer) as south, room(NORTH, giving(copy)) as north:
        sources = [source(SOUTH, "south", south.address), source(NORTH, "north", north.address)]
        fetching().into(path, sources)
    assert path.read_bytes() == WHOLE


def test_a_second_address_is_tried_and_nobody_with_an_address_is_said(tmp_path: Path, copy: Path) -> None:
    path = tmp_path / "ours.safetensors"
    with room(NORTH, giving(copy)) as north:
        fetching().into(path, [source(NORTH, "north", "tcp://127.0.0.1:9", north.address)])
    assert path.read_bytes() == WHOLE
    with pytest.raises(LocalError, match="no other site of this federation has an address"):
        fetching().into(path, [])


def test_where_nobody_gives_it_the_error_names_each_site_and_what_to_do(tmp_path: Path) -> None:
    with room(NORTH, giving(None)) as north:
        sources = [source(NORTH, "north", north.address), source(SOUTH, "south", "tcp://127.0.0.1:9")]
        with pytest.raises(LocalError) as raised:
            fetching().into(tmp_path / "ours", sources, patience_s=20.0)
    text = str(raised.value)
    assert "north: this site has no copy of the start file" in text
    assert "south: nobody listens at tcp://127.0.0.1:9" in text
    assert text.endswith("or name your copy in site.start_file")


def test_a_site_that_trickles_is_given_up(tmp_path: Path, copy: Path) -> None:
    with room(NORTH, giving(copy)) as north, pytest.raises(LocalError, match="too slow"):
        fetching(step_s=40.0).into(tmp_path / "ours", [source(NORTH, "north", north.address)], patience_s=0.0)


async def test_a_part_is_asked_for_by_the_hash_that_the_charter_names(copy: Path) -> None:
    parts = giving(copy)
    first = await parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})
    assert first == {"size": len(WHOLE), "part": WHOLE[:PART_BYTES]}
    for arguments in ({}, {"sha256": SHA256}, {"sha256": SHA256, "at": -1}, {"sha256": SHA256, "at": 1.0}):
        with pytest.raises(LocalError, match="is asked for by"):
            await parts.answer(NORTH.key, arguments)
    for wanted in ("0" * 64, "", None, b"x"):
        with pytest.raises(LocalError, match="names no such start file"):
            await parts.answer(NORTH.key, {"sha256": wanted, "at": 0})
    for at in (len(WHOLE), 1 << 70):
        with pytest.raises(LocalError, match=f"has {len(WHOLE)} bytes"):
            await parts.answer(NORTH.key, {"sha256": SHA256, "at": at})
    with pytest.raises(LocalError, match="names no such start file"):
        await giving(copy, ModelRule()).answer(NORTH.key, {"sha256": "", "at": 0})


async def test_what_the_path_came_to_name_is_nobodys_to_have(
    tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[bytes] = []

    def hash_and_note(file: BinaryIO, kind: str) -> Any:
        hashed.append(file.read())
        return hashlib.new(kind, hashed[-1])

    monkeypatch.setattr(start_file_parts, "file_digest", hash_and_note)
    parts = giving(copy)
    await parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})
    secret = tmp_path / "secret"
    secret.write_bytes(b"measurements" * 100)
    os.replace(secret, copy)
    with pytest.raises(LocalError, match="is another file now"):
        await parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})
    at_once = [parts.answer(NORTH.key, {"sha256": SHA256, "at": 0}) for _ in range(8)]
    assert all(isinstance(one, LocalError) for one in await asyncio.gather(*at_once, return_exceptions=True))
    assert hashed == [WHOLE, b"measurements" * 100], "each file is hashed once, however often it is asked for"
    os.unlink(copy)
    with pytest.raises(LocalError, match="cannot be read"):
        await parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})
    os.mkfifo(copy)
    with pytest.raises(LocalError, match="is another file now"):
        await asyncio.wait_for(parts.answer(NORTH.key, {"sha256": SHA256, "at": 0}), 60)


async def test_one_site_is_given_the_file_a_few_times_an_hour(copy: Path) -> None:
    now = [0.0]
    parts = giving(copy, clock=lambda: now[0])
    for _ in range(TIMES_AN_HOUR * len(WHOLE) // PART_BYTES):
        await parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})
    with pytest.raises(LocalError, match=f"{TIMES_AN_HOUR} times within the hour"):
        await parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})
    await parts.answer(SOUTH.key, {"sha256": SHA256, "at": 0})
    now[0] = HOUR_S
    await parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})


def test_the_largest_file_has_room_for_other_heads() -> None:
    assert largest_size(LAYOUT) == 2 * 4 * 10 + 1024 * 1024


class LateClock:
    """Stands still but for what a test adds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += seconds


def in_time_of(clock: LateClock) -> StartFileFetch:
    return StartFileFetch(OWN, MODEL, LAYOUT, clock=clock, pause=clock.later)


def test_a_slow_site_has_its_time_once_however_many_addresses_it_has(tmp_path: Path) -> None:
    clock, asked = LateClock(), list[int]()

    def trickle(arguments: Mapping[str, Any]) -> Any:
        asked.append(arguments["at"])
        clock.later(45.0)
        return {"size": len(WHOLE), "part": WHOLE[arguments["at"] : arguments["at"] + PART_BYTES]}

    with room(SOUTH, trickle) as south, pytest.raises(LocalError, match=r"south: gave .* which is too slow"):
        in_time_of(clock).into(tmp_path / "ours", [source(SOUTH, "south", *[south.address] * 8)], patience_s=600.0)
    assert asked == [0, PART_BYTES, 2 * PART_BYTES]


def test_a_site_that_gives_all_but_the_end_takes_no_time_from_the_others(tmp_path: Path, copy: Path) -> None:
    clock, north_asked = LateClock(), list[float]()
    late = giving(copy)

    def all_but_the_end(arguments: Mapping[str, Any]) -> Any:
        clock.later(25.0)
        if arguments["at"] + PART_BYTES > len(WHOLE):
            raise LocalError("not now")
        return {"size": len(WHOLE), "part": WHOLE[arguments["at"] : arguments["at"] + PART_BYTES]}

    async def starting(guest: DeskGuest, name: str, arguments: Mapping[str, Any]) -> Any:
        north_asked.append(clock.now)
        if len(north_asked) < 3:
            raise LocalError("this site has no copy of the start file")
        return await late.answer(OWN.key, arguments)

    path = tmp_path / "ours"
    north = DeskRoom(NORTH, "tcp://127.0.0.1:0", starting, members=lambda: [OWN.key])
    with room(SOUTH, all_but_the_end) as south, north:
        sources = [source(SOUTH, "south", *[south.address] * 2), source(NORTH, "north", north.address)]
        in_time_of(clock).into(path, sources)
    assert path.read_bytes() == WHOLE
    assert north_asked[0] > 60.0, "later than the patience for all"


def test_a_blocked_site_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        StartFileFetch, "into", lambda self, path, sources: asked.extend(one.rule.name for one in sources)
    )
    sites = {"here": OWN, "north": NORTH, "south": SOUTH}
    roster = {
        identity.key: SiteRule(name=name, key=identity.key.hex(), addresses=("tcp://127.0.0.1:9",))
        for name, identity in sites.items()
    }
    monkeypatch.setattr(
        start_file_fetch, "kept_constitution", lambda constitution, state_dir: SimpleNamespace(roster=roster)
    )
    OrderBook(tmp_path).block(NORTH.key, "its entries harm")
    site = SimpleNamespace(
        charter=SimpleNamespace(model=MODEL),
        config=SimpleNamespace(
            site=SimpleNamespace(start_file=None, state_dir=tmp_path), network=SimpleNamespace(proxy_address="")
        ),
        identity=OWN,
        layout=LAYOUT,
        constitution=None,
    )
    fetch_start_file(cast(Site, site), lambda name, size: None)
    assert asked == ["south"]


async def test_a_disk_that_hangs_keeps_few_questions(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, goes_on = giving(copy), threading.Event()
    monkeypatch.setattr(parts, "_read", lambda path, at: (goes_on.wait(60), (1, b"x"))[1])
    waiting = [asyncio.ensure_future(parts.answer(NORTH.key, {"sha256": SHA256, "at": 0})) for _ in range(READ_AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(LocalError, match="being read for others"):
        await parts.answer(SOUTH.key, {"sha256": SHA256, "at": 0})
    goes_on.set()
    given = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(not isinstance(one, LocalError) for one in given) == TIMES_AN_HOUR
    await parts.answer(SOUTH.key, {"sha256": SHA256, "at": 0})


def test_a_file_copied_over_with_its_date_kept_is_hashed_again(copy: Path) -> None:
    parts, before = giving(copy), copy.stat()
    asyncio.run(parts.answer(NORTH.key, {"sha256": SHA256, "at": 0}))
    copy.write_bytes(b"s" * len(WHOLE))
    while copy.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of files is a coarse one
        os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(LocalError, match="is another file now"):
        asyncio.run(parts.answer(NORTH.key, {"sha256": SHA256, "at": 0}))
