"""models list, show, compare, use and prune; predict with the version in use, and with another one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.learn.predict.model_directory import read_card, read_parameters, write_model
from kmel_p2p.learn.predict.versions import NEWEST_FOLDER, keep_version
from tests.support.cli_harness import Run


@pytest.fixture
def two(trained: Path) -> tuple[Path, str, str]:
    """Settings of a site with two versions, and their names."""
    state = trained.parent / "state"
    folder = state / NEWEST_FOLDER
    first = keep_version(state, 1_800_000_000.0)
    card = read_card(folder)
    rng = np.random.default_rng(1)
    changed = {
        name: ((trunk + rng.normal(scale=0.01, size=len(trunk))).astype(np.float32), private)
        for name, (trunk, private) in read_parameters(folder, card).items()
    }
    write_model(folder, card, changed)
    return trained, first, keep_version(state, 1_800_100_000.0)


def test_versions_are_listed_and_shown(two: tuple[Path, str, str], run: Run) -> None:
    settings, first, second = two
    listed = json.loads(run("models", "list", "--config", settings, "--json").out)
    assert [(one["version"], one["newest"], one["in_use"]) for one in listed] == [
        (first, False, False),
        (second, True, True),
    ]
    shown = run("models", "list", "--config", settings).out
    assert "in use, newest" in shown
    assert max(map(len, shown.splitlines())) <= 80
    facts = json.loads(run("models", "show", first[:5], "--config", settings, "--json").out)
    assert facts["version"] == first
    assert "logd: predicts with" not in run("models", "show", "newest", "--config", settings).err
    wrong = run("models", "show", "ffffffffffff", "--config", settings)
    assert wrong.code == ExitCode.CONFIG
    assert first in wrong.err


def test_two_versions_are_compared_on_the_same_compounds(two: tuple[Path, str, str], run: Run) -> None:
    settings, first, second = two
    done = run("models", "compare", first, "--config", settings, "--json")
    assert done.code == ExitCode.OK, done.err
    report = json.loads(done.out)
    (endpoint,) = report["endpoints"]
    assert (report["former"], report["later"]) == (first, second)
    assert endpoint["former"] != endpoint["later"]
    low, high = endpoint["interval_pct"]
    assert low <= endpoint["change_pct"] <= high
    same = json.loads(run("models", "compare", first, first, "--config", settings, "--json").out)
    assert same["endpoints"][0]["change_pct"] == 0


def test_the_version_in_use_predicts(two: tuple[Path, str, str], run: Run, tmp_path: Path) -> None:
    settings, first, _ = two
    (tmp_path / "in.csv").write_text("smiles\nCCCO\n")

    def predict(*options: str) -> tuple[str, str]:
        done = run("predict", tmp_path / "in.csv", "--config", settings, *options)
        assert done.code == ExitCode.OK, done.err
        return str(done.out), str(done.err)

    newest, _ = predict()
    older, _ = predict("--model-version", first)
    assert newest != older
    assert run("models", "use", first, "--config", settings).code == ExitCode.OK
    found, told = predict()
    assert found == older
    assert f"version {first}, chosen with kmel-peer models use" in told
    assert run("models", "use", "newest", "--config", settings).code == ExitCode.OK
    assert predict()[0] == newest
    both = run("predict", tmp_path / "in.csv", "--model-version", first, "--model-dir", tmp_path)
    assert both.code == ExitCode.USAGE


def test_prune_asks_and_spares_the_newest(two: tuple[Path, str, str], run: Run) -> None:
    settings, first, second = two
    done = run("models", "prune", "--keep", 1, "--yes", "--config", settings, "--json")
    assert json.loads(done.out) == {"deleted": [first]}
    assert [one["version"] for one in json.loads(run("models", "list", "--config", settings, "--json").out)] == [second]


def test_what_changed_since_a_version_is_told_and_what_learned_from_it(trained: Path, run: Run) -> None:
    settings, state = trained, trained.parent / "state"
    # Reads the dataset as a trainer does, and keeps what was measured.
    assert run("evaluate", "--config", settings, "--json").code == ExitCode.OK
    dataset = json.loads((state / "dataset_STAYS.json").read_text())["dataset_hash"]
    name = keep_version(state, 1_800_000_000.0, dataset)
    same = run("data", "changes", "--config", settings, "--json")
    assert same.code == ExitCode.OK, same.err
    assert json.loads(same.out)["endpoints"] == {"logd": {"added": 0, "changed": 0, "removed": 0}}

    lines = (trained.parent / "d.csv").read_text().splitlines()
    changed = [lines[0], lines[1].replace("0.2", "9.9"), *lines[4:], "CCCCl,1.5"]
    assert changed[1] != lines[1]
    (trained.parent / "d.csv").write_text("\n".join(changed) + "\n")
    report = json.loads(run("data", "changes", "--config", settings, "--json").out)
    assert report["endpoints"] == {"logd": {"added": 1, "changed": 1, "removed": 2}}
    assert report["trained_on_removed"] == {name: 2}
    assert report["since"] == name
    assert f"version {name} was trained on 2 of the removed" in run("data", "changes", "--config", settings).out
    table = (state / "data-check" / "changes_STAYS.csv").read_text().splitlines()
    assert table[0] == "compound,assay_endpoint,kind,before,now"
    assert len(table) == 5
    assert (state / "data-check" / "changes_STAYS.csv").stat().st_mode & 0o777 == 0o600


def test_a_dataset_that_was_read_meanwhile_is_not_taken_for_the_one_trained_on(trained: Path, run: Run) -> None:
    state = trained.parent / "state"
    assert run("evaluate", "--config", trained, "--json").code == ExitCode.OK
    keep_version(state, 1_800_000_000.0, "ab" * 32)
    done = run("data", "changes", "--config", trained)
    assert done.code == ExitCode.CONFIG
    assert "was not kept" in done.err
