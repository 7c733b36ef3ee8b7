"""No crash of the store, at any point of any write, loses an entry that was sent or publishes one twice."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.core.ledger.snapshot import retention
from kmel_p2p.core.rounds import Amend
from kmel_p2p.core.types import SECOND
from kmel_p2p.delta import DeltaCodec
from tests.support.crashing_store import Overheard, StoreDisk, TidyTrainer, crash_when_cut, published_sum
from tests.testbed.ledger.federation import LedgerFederation
from tests.testbed.ledger.learning import LAYOUT, PARAMETERS, SEED, State, learning_world

CODEC = DeltaCodec(LAYOUT, PARAMETERS)
RETAINED = 8
Story = Callable[[LedgerFederation], None]


class Run:
    """A federation of three whose site 0 stands on the real store, which fails at the given points."""

    def __init__(self, folder: Path, entries: int, cuts: Iterable[int] = ()) -> None:
        # The store opens its ledger with the charter's codec, so the charter names that of the virtual sites.
        codec = {"chunk": PARAMETERS.chunk, "kept": PARAMETERS.kept, "bits": PARAMETERS.bits}
        averaging = {"entry_limit": entries, "retain_entries": RETAINED, "steps_per_entry": 5, **codec}
        world, task = learning_world(3, 5, averaging, step_us=lambda index: SECOND // 25)
        model = world.charter.model.model_copy(update={"seed": SEED})
        files: dict[str, State] = {}
        world = dataclasses.replace(
            world,
            charter=world.charter.model_copy(update={"model": model}),
            make_trainer=lambda i: TidyTrainer(task.train[i], CODEC, 5000 + i, files if i == 0 else {}),
        )
        self.federation = LedgerFederation(world, 1)
        self.disk = StoreDisk(folder, world.charter, world.identities[0].key)
        self.opening = len(self.disk.points)
        self.disk.cuts = frozenset(cuts)
        self.federation.sites[0].disk = self.disk
        self.overheard = Overheard()
        self.federation.network.watchers.append(self.overheard)
        self.crashes = crash_when_cut(self.federation, self.disk, 0, 2 * SECOND)

    def tell(self, story: Story) -> None:
        """Run to the end and check all that must hold."""
        self.federation.start_all()
        story(self.federation)
        assert self.federation.run(600 * SECOND, until=self.over)
        self.check()

    def over(self) -> bool:
        return 0 in self.federation.running() and self.federation.all_complete()

    def check(self) -> None:
        federation, key = self.federation, self.federation.sites[0].key
        assert len(federation.digests()) == 1
        assert not any(federation.averaging(index).ledger.faults for index in federation.running())
        ledger = federation.averaging(0).ledger
        # No number ever stood for two entries, and what left is still in the log with the same bytes.
        for (author, number), forms in self.overheard.entries.items():
            assert len(forms) == 1
            if author == key:
                assert number <= ledger.head(key)
                held = ledger.accepted.get(key, number)
                assert held is None or held.encode() in forms
        trainer = federation.sites[0].trainer
        assert isinstance(trainer, TidyTrainer)
        assert trainer.state.round == ledger.head(key)
        published = published_sum(CODEC, self.overheard, key, ledger.head(key))
        np.testing.assert_allclose(published, trainer.state.published, rtol=0, atol=1e-9)
        assert trainer.gap() < 1e-4
        # The file says the same as the running ledger.
        assert self.disk.store.check() == []
        again = self.disk.reopened()
        assert (again.vector, again.digest()) == (ledger.vector, ledger.digest())
        self.disk.store.close()


def plain(federation: LedgerFederation) -> None:
    """Nothing but training."""


def try_all(tmp_path: Path, story: Story, entries: int, kinds: frozenset[str] = frozenset()) -> int:
    """A run with a crash at each point of every write, or of those of some kinds; returns how many there were."""
    (tmp_path / "without").mkdir()
    whole = Run(tmp_path / "without", entries)
    whole.tell(story)
    assert kinds <= set(whole.disk.points)
    points = range(whole.opening, len(whole.disk.points))
    chosen = [at for at in points if whole.disk.points[at] in kinds or (not kinds and whole.disk.points[at])]
    for at in chosen:
        folder = tmp_path / str(at)
        folder.mkdir()
        run = Run(folder, entries, {at})
        run.tell(story)
        assert run.crashes() == 1
    return len(chosen)


def test_a_crash_at_every_point_of_every_write_of_a_short_run(tmp_path: Path) -> None:
    assert try_all(tmp_path, plain, 2) >= 2 * 3 * 5


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 2))
@settings(deadline=None, max_examples=12)
def test_sequences_of_crashes(gaps: list[int], shift: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        probe = Run(Path(folder), 4)
        probe.disk.store.close()
        cuts = np.cumsum([probe.opening + shift + gaps[0], *(gap + 1 for gap in gaps[1:])]).tolist()
        run = Run(Path(folder), 4)
        run.disk.cuts = frozenset(cuts)
        run.tell(plain)


def fold_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LEAST", 2)
    monkeypatch.setattr(retention, "PERIOD", SECOND)


def test_crashes_while_folding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fold_soon(monkeypatch)

    def story(federation: LedgerFederation) -> None:
        assert federation.run(60 * SECOND, until=lambda: has_compacted(federation, 0))

    assert try_all(tmp_path, story, RETAINED + 2, frozenset(["CompactionRecord"])) >= 10


def test_crashes_while_a_snapshot_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fold_soon(monkeypatch)

    def story(federation: LedgerFederation) -> None:
        federation.run(SECOND)
        federation.crash(0)
        # Until what site 0 lacks of another's log can no longer be had as entries.
        other = federation.sites[1].key
        disk = federation.sites[0].disk
        assert isinstance(disk, StoreDisk)
        lacking = disk.store.vector()[other] + 1
        assert federation.run(
            60 * SECOND, until=lambda: federation.averaging(2).ledger.accepted.floor.get(other, 0) > lacking
        )
        federation.start(0)

    assert try_all(tmp_path, story, RETAINED + 9, frozenset(["SnapshotRecord"])) >= 5


def test_crashes_while_a_site_is_retired_and_taken_back(tmp_path: Path) -> None:
    def story(federation: LedgerFederation) -> None:
        gone = federation.sites[2].key
        assert federation.run(60 * SECOND, until=lambda: federation.averaging(1).ledger.head(gone) >= 4)
        constitution = federation.averaging(1).maintenance.amendments.constitution
        document = constitution.draft(retire=[{"name": "site2", "last": 3, "retract_from": 2}])
        for index in (0, 1):
            document = document.signed_by(federation.world.identities[index], constitution)
        federation.network.command(federation.host(1), Amend(document.encode()))
        assert federation.run(60 * SECOND, until=lambda: is_amended(federation))
        federation.crash(2)
        federation.run(5 * SECOND)

    kinds = frozenset(["AmendmentRecord", "RetractionRecord"])
    assert try_all(tmp_path, story, 6, kinds) >= 10


def has_compacted(federation: LedgerFederation, index: int) -> bool:
    return federation.host(index).running and bool(federation.averaging(index).ledger.accepted.floor)


def is_amended(federation: LedgerFederation) -> bool:
    return all(
        federation.host(i).running and federation.averaging(i).ledger.amended_rules.number == 1 for i in range(3)
    )
