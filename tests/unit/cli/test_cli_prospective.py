"""predict records, prospective compares: from settings to the report, and what is never lost on the way."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.cli import recording_jobs
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.recording_jobs import RecordingJobs
from kmel_p2p.cli.registering import open_register
from kmel_p2p.learn.register import FOLDER, REPORT
from kmel_p2p.learn.register.register import FILE, Register
from kmel_p2p.site.config import load_config
from kmel_p2p.site.observe.drift_alarms import drift_alarms
from tests.support.cli_harness import Run

NEW = [f"{'C' * length}Cl" for length in range(1, 31)]
"""Compounds that the site has not measured."""


@pytest.fixture
def recording(trained: Path) -> Path:
    """Settings of a site whose predictions are recorded."""
    with trained.open("a") as settings:
        settings.write("[predictions]\nrecord = true\n")
    return trained


def predict(run: Run, settings: Path, smiles: list[str]) -> str:
    source = settings.parent / "new.csv"
    source.write_text("\n".join(["smiles", *smiles]) + "\n")
    done = run("predict", source, "--config", settings, "-o", settings.parent / "out.csv")
    assert done.code == ExitCode.OK, done.err
    return str(done.err)


def measure(settings: Path, smiles: list[str], shift: float = 0.0) -> None:
    with (settings.parent / "d.csv").open("a", newline="") as handle:
        csv.writer(handle).writerows((one, len(one) / 10 + shift) for one in smiles)


def test_what_was_predicted_before_it_was_measured_is_compared(recording: Path, run: Run, tmp_path: Path) -> None:
    assert "30 predictions recorded" in predict(run, recording, NEW)
    assert "0 predictions recorded in the register, 30 were there already" in predict(run, recording, NEW)
    waiting = run("prospective", "--config", recording, "--json")
    assert waiting.code == ExitCode.OK, waiting.err
    (found,) = json.loads(waiting.out)["endpoints"]
    assert (found["values"], found["waiting"]) == (0, 30)

    measure(recording, NEW[:20])
    done = run("prospective", "--config", recording, "--export", tmp_path / "pairs.csv")
    assert "20 values measured after their prediction" in done.out
    report = json.loads((recording.parent / "state" / FOLDER / REPORT).read_text())
    (found,) = report["endpoints"]
    assert (found["values"], found["waiting"]) == (20, 10)
    assert "score" in found
    assert (recording.parent / "state" / FOLDER / "prospective.html").read_text().startswith("<!doctype html>")
    pairs = list(csv.DictReader((tmp_path / "pairs.csv").read_text().splitlines()))
    assert [float(pair["measured"]) for pair in pairs] == pytest.approx([len(one) / 10 for one in NEW[:20]])
    assert not {"smiles", "compound"} & set(pairs[0])


def test_a_compound_measured_before_its_prediction_proves_nothing(recording: Path, run: Run) -> None:
    measure(recording, NEW[:20])
    predict(run, recording, [*NEW, "CCCCO"])
    measure(recording, NEW[20:])
    done = run("prospective", "--config", recording, "--json")
    (found,) = json.loads(done.out)["endpoints"]
    assert (found["values"], found["waiting"]) == (10, 0)


def test_drift_is_told_by_the_exit_code_and_becomes_an_alarm_of_the_peer(recording: Path, run: Run) -> None:
    state = recording.parent / "state"
    assert list(drift_alarms(state)) == []
    (state / FOLDER).mkdir()
    (state / FOLDER / REPORT).write_text(json.dumps({"drift": ["logd: predictions of 2026-11 erred 40 % more"]}))
    (alarm,) = drift_alarms(state)
    assert (alarm.what, alarm.text) == ("drift of logd", "logd: predictions of 2026-11 erred 40 % more")
    assert 0 <= alarm.age_s < 600
    for text in ("[]", "not JSON", '{"drift": 3}', "[" * 10_000):
        (state / FOLDER / REPORT).write_text(text)
        assert list(drift_alarms(state)) == []


def test_nothing_is_recorded_unless_asked_for(trained: Path, run: Run) -> None:
    assert "predictions recorded" not in predict(run, trained, NEW)
    assert not (trained.parent / "state" / FILE).exists()
    done = run("prospective", "--config", trained)
    assert done.code == ExitCode.CONFIG
    assert "Set record = true in [predictions]" in done.err


def test_other_models_than_the_site_predicts_with_are_not_recorded(recording: Path, run: Run) -> None:
    source = recording.parent / "new.csv"
    source.write_text("smiles\nCCCl\n")
    assert run("predict", source, "--config", recording, "--model", "federated").code == ExitCode.OK
    folder = recording.parent / "state" / "model"
    assert run("predict", source, "--config", recording, "--model-dir", folder).code == ExitCode.OK
    assert not (recording.parent / "state" / FILE).exists()


def test_a_damaged_register_costs_nobody_the_predictions(recording: Path, run: Run) -> None:
    (recording.parent / "state" / FILE).write_bytes(b"no database at all" * 50)
    source = recording.parent / "new.csv"
    source.write_text("smiles\nCCCl\n")
    done = run("predict", source, "--config", recording)
    assert done.code == ExitCode.CONFIG
    assert len(done.out.splitlines()) == 2, "the table is whole"
    assert "nothing was recorded in the register" in done.err


def test_old_predictions_can_be_deleted(recording: Path, run: Run) -> None:
    predict(run, recording, NEW)
    kept = run("prospective", "--config", recording, "--forget-before", "2020-01-01", "--json")
    assert json.loads(kept.out) == {"forgotten": 0}
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 2 * 86_400))
    assert "30 predictions deleted" in run("prospective", "--config", recording, "--forget-before", day).out


def test_what_serve_answers_is_recorded_too_and_a_full_register_is_told_once(
    recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = RecordingJobs(recording.parent / "state" / "model", recording)
    assert jobs.about()["recorded"]
    jobs.predict([*NEW[:3], "nonsense"], 0.8)
    jobs.explain(NEW[:1], 0.9)
    with open_register(load_config(recording)) as register:
        found = list(register.ahead())
        assert len(found) == 3
        assert {one.level for one in found} == {0.8}
    monkeypatch.setattr(recording_jobs, "open_register", lambda config: Register(config.site.state_dir / FILE, 4))
    jobs = RecordingJobs(recording.parent / "state" / "model", recording)
    for _ in range(2):
        assert len(jobs.predict(NEW[3:6], 0.9)) == 3
    assert capsys.readouterr().err.count("which is full") == 1


def test_without_its_measurements_a_site_does_not_serve_what_it_would_record(recording: Path) -> None:
    (recording.parent / "d.csv").unlink()
    with pytest.raises(ConfigError, match=r"record needs the measurements of this site.*No such file"):
        RecordingJobs(recording.parent / "state" / "model", recording)
