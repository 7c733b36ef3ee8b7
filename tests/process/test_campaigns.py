"""Two campaigns of real daemons, with the commands that docs/living.md gives the operator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.main import invoke
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess
from kmel_p2p.site.config import load_config
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.trainer.following import NOT_TAKEN_OVER
from tests.support.local_run import PATIENCE_S, answer, complete, killed, log_times, published, small_federation, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

FIRST, SECOND = 3, 4
"""Entries of each site in the two campaigns."""


ADDED = """
[[assay_endpoints]]
name = "again"
unit = "log10(mol/L)"
center = -3.0
scale = 2.0
valid_range = [-15.0, 5.0]
"""
COLUMN = """
[data.columns.again]
column = "SOL"
unit = "log10(mol/L)"
"""


def operator(capsys: pytest.CaptureFixture[str], site: SiteProcess, *arguments: object) -> tuple[int, str]:
    """Exit code and text of a command at a site."""
    code = invoke([str(each) for each in (*arguments, "-c", site.folder / "site.toml")])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def over(federation: LocalFederation, vector: dict[str, int]) -> list[StatusDocument] | None:
    """Every site's status once all are complete with these entries."""
    documents = complete(federation)
    if documents is None or any(document.averaging.vector != vector for document in documents):
        return None
    return documents


def _trained(capsys: pytest.CaptureFixture[str], site: SiteProcess) -> dict[str, int]:
    """Assay endpoint -> training measurements of the newest models."""
    code, text = operator(capsys, site, "models", "show", "newest", "--json")
    assert code == 0, text
    return {endpoint["name"]: endpoint["train"] for endpoint in json.loads(text)["result"]["endpoints"]}


def _measures_more(capsys: pytest.CaptureFixture[str], site: SiteProcess) -> None:
    """New values for a peer that runs: first in a file that is broken, then in a whole one."""
    file = load_config(site.folder / "site.toml").data.path
    whole = file.read_text()
    file.write_text("PK\x03\x04")
    code, text = operator(capsys, site, "data", "reload")
    assert (code, str(file) in text) == (ExitCode.DATA, True), text
    assert NOT_TAKEN_OVER in [alarm.what for alarm in answer(site).alarms]
    file.write_text(f"{whole}CCCOCCC,-1.5\nCCNCCO,0.5\n")
    code, text = operator(capsys, site, "data", "reload")
    assert (code, "solubility: 2 added, 0 changed, 0 removed" in text) == (0, True), text
    assert NOT_TAKEN_OVER not in [alarm.what for alarm in answer(site).alarms]
    assert len(log_times(site, "peer started")) == 1


def test_a_second_campaign_goes_on_from_the_first_whoever_is_killed_as_it_opens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = tmp_path / "second.toml"
    with small_federation(tmp_path, FIRST, 10) as federation:
        north, south, east = federation
        federation.start()
        vector = {site.name: FIRST for site in federation}
        first = until("the first campaign is over", lambda: over(federation, vector), federation)
        assert len({document.averaging.digest for document in first}) == 1

        _measures_more(capsys, east)
        refused = operator(capsys, north, "campaign", "draft", "--set", "features.bits=4096", "-o", second)
        assert refused[0] == ExitCode.USAGE, refused
        assert not second.exists()
        added = tmp_path / "again.toml"
        added.write_text(ADDED)
        drafted = operator(
            capsys, north, "campaign", "draft", "--entries", SECOND, "--set", "training.learning_rate=2e-4",
            "--sit-out", "east", "--add-endpoint", added, "-o", second,
        )  # fmt: skip
        assert drafted[0] == 0, drafted
        for site in (north, south):
            with (site.folder / "site.toml").open("a") as settings:
                settings.write(COLUMN)
        for site in (north, south):
            signed = operator(capsys, site, "campaign", "sign", second)
            assert signed[0] == 0, signed
        started = operator(capsys, south, "campaign", "start", second)
        assert started[0] == 0, started

        until("the second campaign runs", lambda: published(south) > FIRST, federation)
        killed(south)
        south.start()
        vector = {"north": FIRST + SECOND, "south": FIRST + SECOND, "east": FIRST}
        last = until("the second campaign is over", lambda: over(federation, vector), federation)
        assert len({document.averaging.digest for document in last}) == 1
        assert all(document.averaging.facts["campaign"] == 2 for document in last)
        assert len(log_times(north, "entry published")) == FIRST + SECOND
        # What was added is trained where it is mapped, without a restart, and missing elsewhere.
        assert len(log_times(north, "peer started")) == 1
        assert [document.averaging.facts["unmapped"] for document in last] == [[], [], ["again"]]
        assert log_times(east, "assay endpoints not mapped")
        trained = {site.name: _trained(capsys, site) for site in federation}
        assert {name: counts["again"] > 0 for name, counts in trained.items()} == {
            "north": True, "south": True, "east": False
        }  # fmt: skip

        code, text = operator(capsys, east, "campaign", "show", "--json")
        assert code == 0, text
        rows = json.loads(text)
        assert [row["sites"]["north"] for row in rows] == [
            {"first": 1, "last": FIRST, "sits_out": False},
            {"first": FIRST + 1, "last": FIRST + SECOND, "sits_out": False},
        ]
        assert rows[1]["sites"]["east"]["sits_out"]
        assert [row["added_endpoints"] for row in rows] == [[], ["again"]]
        assert rows[1]["settings"]["training.learning_rate"] == 2e-4
        federation.stop(PATIENCE_S)
        assert [site.exit_code for site in federation] == [0, 0, 0]
        for site in federation:
            code, text = operator(capsys, site, "models", "list", "--json")
            assert code == 0, text
            assert len(json.loads(text)) >= 2, text
