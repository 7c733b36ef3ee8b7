"""New data for a trainer that runs: taken over whole, or not at all with the reason."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.split import SplitRule
from kmel_p2p.chem.dataset.manifest import APPROVAL, MANIFEST
from kmel_p2p.chem.dataset.refresh import CHANGES, KEPT, file_stamps
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.train.dataset import Dataset
from kmel_p2p.learn.worker import reload as module
from kmel_p2p.learn.worker.plan import TrainerPlan, TrainingSettings
from kmel_p2p.learn.worker.prepare import prepare, read
from kmel_p2p.learn.worker.reload import FOLDER, reload
from kmel_p2p.learn.worker.session import Progress, Reloaded

ROWS = [f"{'C' * n}{end},{0.4 * n - 1:.2f}" for n in range(1, 11) for end in ("O", "N", "c1ccccc1", "C(=O)O")]
NEW = ["CCCCOC,0.5", "CCCNC,0.7"]
KEPT_FILES = (KEPT, MANIFEST, "rejects.csv")


def quiet(progress: Progress) -> None:
    """Nobody listens."""


class Site:
    """A data file, and what was trained on before it changed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "data.csv"
        self.write(ROWS)
        rule = FeatureRule(bits=64)
        endpoints = (AssayEndpoint(name="logd", head="shared", scale=2.0),)
        self.plan = TrainerPlan(
            architecture=Architecture(inputs=rule.width, hidden=(8,), endpoints=endpoints),
            features=rule,
            model_seed=1,
            source=Source(path=self.file, smiles_column="smiles", columns={"logd": Column(column="D")}),
            test_source=None,
            split=SplitRule(fold_key="key", valid_fraction=0.2, test_fraction=0.2),
            training=TrainingSettings(seed=7),
            codec=None,
            layout_hash=b"",
            reference_hash="",
            trunk_memory="",
            state_dir=folder / "state",
            featurise_processes=1,
        )
        self.plan.state_dir.mkdir()
        self.dataset, self.in_use = prepare(self.plan, quiet)
        self.before = self.kept()

    def copied(self, folder: Path) -> Site:
        """The same in a folder of its own: reading once is enough."""
        shutil.copytree(self.file.parent, folder, dirs_exist_ok=True)
        found = copy.copy(self)
        found.file = folder / "data.csv"
        source = self.plan.source.model_copy(update={"path": found.file})
        found.plan = replace(self.plan, source=source, state_dir=folder / "state")
        return found

    def write(self, rows: list[str]) -> None:
        self.file.write_text("smiles,D\n" + "\n".join(rows) + "\n")

    def kept(self) -> dict[str, bytes]:
        return {name: (self.plan.state_dir / name).read_bytes() for name in KEPT_FILES}

    def reload(self, **options: Any) -> tuple[Reloaded, Dataset | None]:
        return reload(self.plan, self.in_use, quiet, **options)

    def refused(self, **options: Any) -> str:
        """The reason; whatever it is, nothing has changed."""
        answer, dataset = self.reload(**options)
        assert dataset is None
        assert answer.prepared is self.in_use
        assert self.kept() == self.before
        assert "The measurements of before stay in use; kmel-peer data reload" in answer.refused
        return answer.refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return made.copied(tmp_path)


def folds(dataset: Dataset) -> dict[str, str]:
    """Structure -> the fold that it is in."""
    rows = {"train": dataset.train, "valid": dataset.valid, "test": dataset.test}
    return {dataset.smiles[row]: name for name, found in rows.items() for row in found}


def test_new_changed_and_withdrawn_measurements_are_taken_over_and_folds_stay_put(site: Site) -> None:
    site.write([*ROWS[1:-1], "CCCCCCCCCCC(=O)O,9", *NEW])
    answer, dataset = site.reload()
    assert answer.refused == ""
    assert dataset is not None
    changes = answer.changes
    assert changes is not None
    assert changes.endpoints == {"logd": {"added": 2, "changed": 1, "removed": 1}}
    assert (changes.before, changes.path) == (len(ROWS), site.plan.state_dir / FOLDER / CHANGES)
    assert changes.path.read_text().count("\n") == 5
    assert answer.prepared.used == len(ROWS) + 1
    assert answer.prepared.files == file_stamps((site.plan.source, None))
    before, now = folds(site.dataset), folds(dataset)
    assert {name: now[name] for name in before if name in now} == {name: before[name] for name in before if name in now}
    # What the state directory says is what is trained on: versions of the models keep it.
    assert json.loads(site.kept()[MANIFEST])["dataset_hash"] == answer.prepared.dataset_hash
    again, _ = prepare(site.plan, quiet)
    assert folds(again) == now


def test_the_same_files_change_nothing(site: Site) -> None:
    answer, dataset = site.reload()
    assert dataset is not None
    assert answer.changes is not None
    assert answer.changes.endpoints == {"logd": {"added": 0, "changed": 0, "removed": 0}}
    assert site.kept() == site.before


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("PK\x03\x04", ["data.csv", "ZIP archive"]),
        ("smiles,logD\nCCO,1\n", ["data.csv", "'D'"]),
        ("", ["data.csv", "empty"]),
        ('smiles,D\n"CCO,1\nCCN,2\n', ["data.csv: line 2"]),
        ("smiles,D\nbad(,1\n", ["data.csv", "no compound is left", f"{FOLDER}/rejects.csv"]),
    ],
)
def test_a_broken_file_leaves_the_former_data_in_use_and_says_what_is_wrong(
    site: Site, content: str, named: list[str]
) -> None:
    site.file.write_text(content)
    reason = site.refused(accept_removed=True)
    assert all(name in reason for name in named), reason


def test_a_missing_file_and_a_defect_of_ours_do_not_end_the_trainer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.file.rename(site.file.with_name("away.csv"))
    assert "data.csv" in site.refused()
    monkeypatch.setattr(module, "read", lambda plan, report: 1 / 0)
    assert "ZeroDivisionError" in site.refused()


def test_a_file_that_is_cut_off_is_not_taken_for_withdrawn_measurements(site: Site) -> None:
    site.write(ROWS[:20])
    reason = site.refused()
    assert "20 of the 40 measurements in use are gone" in reason
    assert "--accept-removed" in reason
    assert (site.plan.state_dir / FOLDER / CHANGES).read_text().count("removed") == 20
    answer, dataset = site.reload(accept_removed=True)
    assert dataset is not None
    assert answer.prepared.used == 20


def test_a_file_that_somebody_writes_is_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(plan: TrainerPlan, report: Any) -> Any:
        found = read(plan, report)
        with site.file.open("a") as file:
            file.write("CCCCCCCCCCCC,1\n")
        return found

    site.write([*ROWS, *NEW])
    monkeypatch.setattr(module, "read", slowly)
    assert "data.csv: was being written while it was read" in site.refused()
    monkeypatch.setattr(module, "read", read)
    answer, _ = site.reload()
    assert answer.prepared.used == len(ROWS) + 3


def test_what_has_to_be_approved_is_not_used_before(site: Site) -> None:
    site.plan = replace(site.plan, require_approval=True)
    site.write([*ROWS, *NEW])
    assert "kmel-peer data approve" in site.refused()
    now, _ = reload(
        replace(site.plan, require_approval=False, state_dir=site.file.parent / "aside"), site.in_use, quiet
    )
    (site.plan.state_dir / APPROVAL).write_text(json.dumps({"dataset_hash": now.prepared.dataset_hash}))
    answer, dataset = site.reload()
    assert (answer.refused, dataset is not None) == ("", True)
    site.write(ROWS)
    site.in_use, site.before = answer.prepared, site.kept()
    assert "has changed since its approval" in site.refused()


def test_without_what_was_kept_the_data_are_taken_over_and_nothing_is_said_of_changes(site: Site) -> None:
    (site.plan.state_dir / KEPT).unlink()
    site.write([*ROWS, *NEW])
    answer, dataset = site.reload()
    assert dataset is not None
    assert (answer.refused, answer.changes) == ("", None)


def test_a_disk_that_is_not_writable_leaves_the_former_data_in_use(site: Site) -> None:
    (site.plan.state_dir / FOLDER).write_text("in the way")
    site.write([*ROWS, *NEW])
    assert FOLDER in site.refused()
