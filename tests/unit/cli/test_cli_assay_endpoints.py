"""Assay endpoints that a campaign adds and retires, as an operator sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmel_p2p.agreement.amendment import AmendmentDocument
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.cli_harness import Run

ADDED = '[[assay_endpoints]]\nname = "hERG block"\nunit = "nM"\ntransform = "log10"\ncenter = 1.0\n'


@pytest.fixture
def amended(trained: Path, run: Run, tmp_path: Path) -> Path:
    """A site whose second campaign adds an assay endpoint and retires the only one that its models know."""
    added, file = tmp_path / "added.toml", tmp_path / "second.toml"
    added.write_text(ADDED)
    drafted = run(
        "campaign", "draft", "-c", trained, "--add-endpoint", added, "--retire-endpoint", "logd", "-o", file
    )  # fmt: skip
    assert drafted.code == ExitCode.OK, drafted.err
    assert run("campaign", "sign", file, "-c", trained).code == ExitCode.OK
    store = Store(trained.parent / "state" / STORE_NAME)
    store.add_amendment(1, AmendmentDocument.parse(file.read_text(), str(file)).encode())
    store.close()
    return trained


def test_who_maps_what_is_new_is_told_what_is_trained_now(amended: Path, run: Run, tmp_path: Path) -> None:
    shown = run("campaign", "show", "-c", amended)
    assert "assay endpoints added: hERG block" in shown.out
    assert "assay endpoints retired: logd" in shown.out
    found = run("doctor", "-c", amended, "--json")
    columns = [one["text"] for one in json.loads(found.out)["findings"] if one["check"] == "columns"]
    assert 'add [data.columns."hERG block"] with its column' in columns[0]
    assert columns[1].startswith("logd was retired in campaign 2")
    nothing = run("data", "check", "-c", amended)
    assert (nothing.code, "retired assay endpoints alone" in nothing.err) == (ExitCode.CONFIG, True)
    with amended.open("a") as settings:
        settings.write('[data.columns."hERG block"]\ncolumn = "D"\nunit = "nM"\n')
    report = json.loads(run("data", "check", "-c", amended, "--json").out)
    assert [endpoint["name"] for endpoint in report["endpoints"]] == ["hERG block"]
    assert (report["retired"], report["not_measured_here"]) == ({"logd": 2}, [])


def test_models_from_before_say_what_is_retired_and_what_they_do_not_know(
    amended: Path, run: Run, tmp_path: Path
) -> None:
    asked = tmp_path / "in.csv"
    asked.write_text("smiles\nCCO\n")
    done = run("predict", asked, "-c", amended)
    assert done.code == ExitCode.OK, done.err
    assert "logd was retired in campaign 2: these models are from before" in done.err
    with amended.open("a") as settings:
        settings.write('[data.columns."hERG block"]\ncolumn = "D"\nunit = "nM"\n')
    out = tmp_path / "out"
    done = run("evaluate", "-c", amended, "--out", out, "--json")
    assert done.code == ExitCode.OK, done.err
    report = json.loads(done.out)
    assert [(one["name"], one["retired"]) for one in report["endpoints"]] == [("logd", 2)]
    assert report["came_later"] == ["hERG block"]
    text = run("evaluate", "-c", amended, "--out", out).out
    assert "logd was retired in campaign 2" in text
    assert "hERG block came after these models were made" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "key 'assay_endpoints' is missing"),
        (ADDED.replace("unit", "units"), "did you mean 'unit'?"),
        (ADDED.replace('"nM"', "7"), "assay_endpoints.0.unit"),
        (ADDED + 'head = "shared"\n', "give it head = 'private'"),
        (ADDED.replace("hERG block", "logd"), "'logd' is there already"),
    ],
)
def test_a_slip_in_the_file_is_named(trained: Path, run: Run, tmp_path: Path, text: str, words: str) -> None:
    added = tmp_path / "added.toml"
    added.write_text(text)
    done = run("campaign", "draft", "-c", trained, "--add-endpoint", added, "-o", tmp_path / "second.toml")
    assert done.code == ExitCode.CONFIG
    assert words in done.err
    assert not (tmp_path / "second.toml").exists()


def test_a_column_of_no_assay_endpoint_is_still_a_slip(trained: Path, run: Run) -> None:
    trained.write_text(trained.read_text().replace("logd = {", "logD = {"))
    done = run("evaluate", "-c", trained)
    assert done.code == ExitCode.CONFIG
    assert "data.columns names assay endpoint 'logD', which neither the charter nor a campaign" in done.err
    assert "did you mean 'logd'?" in done.err


def test_a_column_may_be_named_before_its_assay_endpoint_is_added(trained: Path, run: Run, tmp_path: Path) -> None:
    with trained.open("a") as settings:
        settings.write('[data.columns."hERG block"]\ncolumn = "D"\nunit = "nM"\n')
    checked = run("data", "check", "-c", trained, "--json")
    assert [endpoint["name"] for endpoint in json.loads(checked.out)["endpoints"]] == ["logd"]
    assert "[data.columns] names 'hERG block', which is no assay endpoint yet: it is not read" in checked.err
    added, file = tmp_path / "added.toml", tmp_path / "second.toml"
    added.write_text(ADDED)
    assert run("campaign", "draft", "-c", trained, "--add-endpoint", added, "-o", file).code == ExitCode.OK
    assert run("campaign", "sign", file, "-c", trained).code == ExitCode.OK
    (warned,) = [one for one in json.loads(run("doctor", "-c", trained, "--json").out)["findings"]
                 if one["check"] == "columns"]  # fmt: skip
    assert (warned["level"], "'hERG block'" in warned["text"]) == ("warning", True)
