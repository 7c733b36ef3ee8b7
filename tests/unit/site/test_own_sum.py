"""The others' trunk is exact, or it is not given: whatever was compacted, interrupted, adopted, lost or damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.errors import WireError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.core.ledger.events import CompactionRecord, SnapshotRecord
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.log.entry import NO_PREVIOUS, Basis, Entry, create, decode
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.ledger.log.outcome import Verdict
from kmel_p2p.core.ledger.rules.rules import Rules
from kmel_p2p.core.ledger.snapshot.snapshot import genesis as empty_snapshot
from kmel_p2p.core.roster_vector import NOTHING
from kmel_p2p.delta import SparseDelta
from kmel_p2p.site.modes import ledger as mode_module
from kmel_p2p.site.modes import stored_ledger
from kmel_p2p.site.modes.ledger import LedgerMode
from kmel_p2p.site.modes.pushsum import PushSumMode
from kmel_p2p.site.site import Site
from kmel_p2p.site.state import own_sum as module
from kmel_p2p.site.state.own_sum import FILE_NAME, PREFIX_BYTES, OwnSum, others_trunk
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.testbed.ledger.toy import TOY_SIZE, ToyCodec, toy_charter, toy_identities, toy_trunk

SITES = toy_identities(3)
CHARTER = toy_charter(SITES)
OWN = SITES[0].key


class Crash(BaseException):
    """The process ends here."""


class OneSite:
    """The first site: its ledger, and its store as the daemon writes it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STORE_NAME
        self.store = Store(self.path)
        self.file = folder / FILE_NAME
        rules = Rules.of(CHARTER, ToyCodec.codec_id, toy_trunk())
        self.ledger = Ledger(Accumulator.from_trunk(toy_trunk()), ToyCodec(), rules)
        self.entries: list[Entry] = []
        layout = SimpleNamespace(size=TOY_SIZE)
        self.site = cast(Site, SimpleNamespace(identity=SITES[0], layout=layout, charter=CHARTER))

    def publish(self, index: int, *, stored: bool = True) -> Entry:
        """A further entry of one site; every one has values and a weight of its own."""
        who, ledger, at = SITES[index], self.ledger, len(self.entries)
        payload = ToyCodec.encode([index, 3 + at % 8], [1000 + at, -77 - at])
        entry = create(
            who, charter_id=CHARTER.id, number=ledger.head(who.key) + 1, previous=ledger.head_hash(who.key),
            basis=ledger.accepted.basis_for(who.key), weight=500 + at, steps=1,
            norm_squared=ledger.measure(payload) or 0, codec_id=ToyCodec.codec_id, payload=payload,
        )  # fmt: skip
        assert ledger.offer(entry).verdict is Verdict.APPLIED
        self.entries.append(entry)
        if stored:
            self.store.append_entry(entry.author, entry.number, entry.encode())
        return entry

    def rounds(self, count: int) -> None:
        for _ in range(count):
            for index in range(3):
                self.publish(index)

    def compact(self, until: int) -> None:
        """As the daemon does: the ledger at once, the store when its turn comes."""
        vector = {site.key: until for site in SITES}
        stored_ledger.compact(self.site, self.store, CompactionRecord(vector, {}, ()))
        self.ledger.compact(vector)

    def restart(self, fault: Callable[[str], None] = lambda point: None) -> None:
        self.store.close()
        self.store = Store(self.path, fault=fault)

    def others(self) -> np.ndarray | None:
        newest = (self.ledger.head(OWN), self.ledger.head_hash(OWN))
        return others_trunk(self.ledger.accumulator.copy(), self.path, OWN, newest, ToyCodec())()

    def expected(self) -> np.ndarray:
        """The trunk of a federation in which this site never published."""
        total = Accumulator.from_trunk(toy_trunk())
        for entry in self.entries:
            if entry.author != OWN:
                total.add(ToyCodec().decode(entry.payload), entry.weight, entry.head_weights)
        return total.trunk()

    def is_exact(self) -> bool:
        found = self.others()
        return found is not None and found.tobytes() == self.expected().tobytes()


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneSite]:
    monkeypatch.setattr(stored_ledger, "codec_of", lambda site: ToyCodec())
    monkeypatch.setattr(
        stored_ledger, "genesis", lambda site: empty_snapshot(CHARTER.id, Accumulator.from_trunk(toy_trunk()))
    )
    made = OneSite(tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize("compactions", [(), (2,), (1, 3), (1, 2, 3, 4), (4,), (4, 4)])
def test_exact_whatever_was_compacted_and_after_each_restart(one: OneSite, compactions: Sequence[int]) -> None:
    one.rounds(4)
    for until in compactions:
        one.compact(until)
        one.restart()
        assert one.is_exact()
    assert one.file.exists() == bool(compactions)
    one.rounds(2)
    assert one.is_exact()
    assert one.others() is not None
    assert one.expected().tobytes() != one.ledger.accumulator.trunk().tobytes()


def test_before_the_first_own_entry_the_others_trunk_is_the_trunk(one: OneSite) -> None:
    one.publish(1)
    one.publish(2)
    assert one.is_exact()


POINTS = ["bump:begin", "bump:committed", "snapshot:file", "snapshot:begin", "snapshot:written", "snapshot:committed"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("then", [2, 3, 4])
def test_no_entry_is_counted_twice_after_a_crash(one: OneSite, point: str, then: int) -> None:
    one.rounds(5)
    one.compact(1)

    def fault(at: str) -> None:
        if at == point:
            raise Crash

    one.restart(fault)
    with pytest.raises(Crash):
        one.compact(3)
    one.restart()
    assert one.is_exact()
    if then > 2 or point != "snapshot:committed":
        # What may be compacted after a restart need not be as much as before.
        one.compact(then)
    assert one.is_exact()
    one.compact(5)
    assert one.is_exact()


def test_own_entries_that_an_adopted_snapshot_takes_the_place_of_are_counted(one: OneSite) -> None:
    one.rounds(4)
    snapshot = one.ledger.snapshot()
    own = one.publish(0)
    outcome = one.ledger.adopt(snapshot)
    assert outcome.kept == {OWN: own.number}
    stored_ledger.adopt(one.site, one.store, SnapshotRecord(snapshot, outcome.kept, OWN, ()), 0.0)
    assert [(e.author, e.number) for e in one.store.load_entries()] == [(OWN, 5)]
    one.restart()
    assert one.is_exact()


def test_own_entries_that_this_store_never_held_leave_the_trunk_unknown(one: OneSite) -> None:
    for _ in range(3):
        for index in range(3):
            one.publish(index, stored=False)
    stored_ledger.adopt(one.site, one.store, SnapshotRecord(one.ledger.snapshot(), {}, OWN, ()), 0.0)
    assert one.others() is None
    one.ledger.adopt(one.ledger.snapshot())
    one.rounds(3)
    with capture_logs() as logs:
        one.compact(5)
        assert one.others() is None
    assert not one.file.exists()
    assert "own entries are not all here" in [entry["event"] for entry in logs]
    assert {entry["log_level"] for entry in logs} == {"warning"}


def spoilt(file: Path, how: str) -> None:
    content = file.read_bytes()
    changed = {
        "cut off": content[:-8],
        "longer": content + bytes(8),
        "one bit": content[:PREFIX_BYTES] + bytes([content[PREFIX_BYTES] ^ 1]) + content[PREFIX_BYTES + 1 :],
        "another number": content[:43] + b"\x01" + content[44:],
        "another site": content[:4] + bytes(SITES[1].key) + content[36:],
        "empty": b"",
    }
    file.write_bytes(changed[how])


HOW = ["cut off", "longer", "one bit", "another number", "another site", "empty"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_file_is_told_and_never_used(one: OneSite, how: str) -> None:
    one.rounds(4)
    one.compact(2)
    spoilt(one.file, how)
    with capture_logs() as logs:
        assert one.others() is None
    first = logs[0]
    assert (first["event"], first["file"]) == ("the sum of own entries cannot be used", str(one.file))
    with pytest.raises(WireError):
        OwnSum.read(one.file, OWN, TOY_SIZE)


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_file_is_made_again_while_every_own_entry_is_stored(one: OneSite, how: str) -> None:
    one.rounds(4)

    def fault(at: str) -> None:
        if at == "snapshot:written":
            raise Crash

    one.restart(fault)
    with pytest.raises(Crash):
        one.compact(2)
    one.restart()
    spoilt(one.file, how)
    assert one.is_exact()
    one.compact(3)
    assert one.is_exact()
    read = OwnSum.read(one.file, OWN, TOY_SIZE)
    assert read is not None
    assert read.number == 3


def test_the_file_of_another_log_is_not_taken_for_one_of_this(one: OneSite, tmp_path: Path) -> None:
    one.rounds(4)
    (tmp_path / "other").mkdir()
    other = OneSite(tmp_path / "other")
    other.publish(1)
    other.rounds(6)
    other.compact(5)
    other.store.close()
    foreign = other.file.read_bytes()
    one.file.write_bytes(foreign)
    assert one.is_exact()
    one.compact(2)
    assert one.is_exact()
    one.file.write_bytes(foreign)
    assert one.others() is None


def test_entries_that_move_between_the_two_looks_are_found(one: OneSite, monkeypatch: pytest.MonkeyPatch) -> None:
    one.rounds(4)
    one.compact(1)
    kept, looks = module._kept, []

    def look(path: Path, key: SiteKey, size: int) -> OwnSum | None:
        found = kept(path, key, size)
        looks.append(found)
        if len(looks) == 1:
            monkeypatch.setattr(module, "_kept", kept)
            one.compact(3)
            monkeypatch.setattr(module, "_kept", look)
        return found

    monkeypatch.setattr(module, "_kept", look)
    assert one.is_exact()
    assert len(looks) == 2


# ---- any weights --------------------------------------------------------------------------------------------------


@st.composite
def delta(draw: st.DrawFn) -> tuple[SparseDelta, int, dict[int, int]]:
    values = draw(st.dictionaries(st.integers(0, TOY_SIZE - 1), st.integers(-(2**40), 2**40).filter(bool)))
    positions = np.array(sorted(values), np.int64)
    heads = np.array([draw(st.integers(-1, 2)) for _ in positions], np.int64)
    units = np.array([values[position] for position in sorted(values)], np.int64)
    weights = st.integers(0, 2**16)
    return SparseDelta(positions, units, heads), draw(weights), draw(st.dictionaries(st.integers(0, 2), weights))


class Listed:
    """Payload = number of a delta in a list."""

    def __init__(self, deltas: Sequence[SparseDelta]) -> None:
        self._deltas = deltas

    def decode(self, payload: bytes) -> SparseDelta:
        return self._deltas[int(payload)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), delta()), max_size=8))
def test_weights_of_shared_heads_are_taken_out_as_they_were_added(
    given_deltas: list[tuple[bool, tuple[SparseDelta, int, dict[int, int]]]],
) -> None:
    everything, without = (Accumulator.from_trunk(toy_trunk()) for _ in range(2))
    own, entries = OwnSum.empty(OWN, TOY_SIZE), []
    previous = NO_PREVIOUS
    for at, (is_own, (what, weight, heads)) in enumerate(given_deltas):
        everything.add(what, weight, heads)
        if not is_own:
            without.add(what, weight, heads)
            continue
        entry = create(
            Identity(bytes(32)), charter_id=bytes(32), number=len(entries) + 1, previous=previous,
            basis=Basis(NOTHING, bytes(32), {}, 0), weight=weight, steps=1, norm_squared=1, codec_id=1,
            payload=str(at).encode(), head_weights=heads,
        )  # fmt: skip
        entries.append(decode(entry.encode()))
        previous = entry.hash
    own.extend(entries, Listed([what for _, (what, _, _) in given_deltas]))
    assert own.number == len(entries)
    everything.remove(own.total)
    assert bytes(everything.raw()) == bytes(without.raw())


# ---- the mode -----------------------------------------------------------------------------------------------------


def asked(one: OneSite, **changes: Any) -> Callable[[], np.ndarray | None] | None:
    """What mode `ledger` answers at a site that is as `changes` say."""
    facts = {"identity": SITES[0], "constitution": Constitution(CHARTER), "rule": CHARTER.sites[0], **changes}
    site = cast(Site, SimpleNamespace(**facts))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mode_module, "_of", lambda averaging: averaging)
        patched.setattr(mode_module, "codec_of", lambda site: ToyCodec())
        return LedgerMode().others_trunk(site, cast(Any, SimpleNamespace(ledger=one.ledger)), one.path)


def test_the_mode_gives_the_trunk_of_the_others(one: OneSite) -> None:
    one.rounds(3)
    one.compact(2)
    work = asked(one)
    assert work is not None
    found = work()
    assert found is not None
    assert found.tobytes() == one.expected().tobytes()


def test_no_others_trunk_where_the_log_ended_or_a_former_key_has_entries(one: OneSite) -> None:
    one.rounds(3)
    rekeyed = {**Constitution(CHARTER).everyone}
    rekeyed[SITES[1].key] = rekeyed[SITES[1].key].model_copy(update={"name": CHARTER.sites[0].name})
    assert asked(one, constitution=SimpleNamespace(everyone=rekeyed)) is None
    one.ledger.accepted.withdrawn[OWN] = 2
    assert asked(one) is None
    one.ledger.accepted.withdrawn.clear()
    one.ledger.accepted.retired[OWN] = 2
    assert asked(one) is None


def test_mode_pushsum_has_none() -> None:
    nothing = cast(Any, None)
    assert PushSumMode().others_trunk(nothing, nothing, Path("store.sqlite")) is None
