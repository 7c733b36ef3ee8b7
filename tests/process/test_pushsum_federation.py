"""Averaging mode pushsum in real daemons: a killed one goes on where its store says, and no mass is lost or made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from kmel_p2p.simulate.comparison import final_trunks, spread
from kmel_p2p.site.observe.egress_segments import EGRESS_NAME, verify
from tests.support.local_run import PATIENCE_S, complete, killed, log_times, published, small_federation, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

ROUNDS = 14
STEPS = 10


def test_a_killed_daemon_loses_no_mass_and_the_models_are_better_than_local_ones(tmp_path: Path) -> None:
    with small_federation(tmp_path, ROUNDS, STEPS, mode="pushsum", bits=8) as federation:
        federation.start()
        _, south, _ = federation
        until("every site has trained", lambda: all(published(site) >= 3 for site in federation), federation)
        killed(south)
        south.start()
        documents = until("all sites are complete", lambda: complete(federation), federation)

        sections = [document.averaging for document in documents]
        assert [document.mode for document in documents] == ["pushsum"] * 3
        assert all("ledger" not in document.as_dict() for document in documents)
        assert [section.published for section in sections] == [ROUNDS] * 3
        assert documents[1].process.generation == 2
        # Nothing is under way any more: what was minted, and only that, is what the sites hold.
        assert [section.facts["outstanding"] for section in sections] == [{}] * 3
        assert sum(section.facts["mass"] for section in sections) == sum(
            section.facts["weight"] for section in sections
        )
        assert min(section.facts["mass"] for section in sections) > 0

        results = [site.request("result", timeout_s=PATIENCE_S) for site in federation]
        assert mean_error(results, "federated") < mean_error(results, "local")
        state_dirs = {site.name: site.state_dir for site in federation}
        assert 0.0 < spread(final_trunks(state_dirs), federation.document.charter) < 0.1
        for site, section in zip(federation, sections, strict=True):
            card = json.loads((site.state_dir / "model" / "card.json").read_text())
            assert card["labels"]["averaging"] == "pushsum"
            assert card["labels"]["state_digest"] == section.digest

        shown = cli(south.folder, "status")
        assert "of its weight" in shown.stdout
        refused = cli(south.folder, "ledger", "verify")
        assert refused.returncode == 7
        assert "mode pushsum" in refused.stderr

        federation.stop(PATIENCE_S)
        assert [site.exit_code for site in federation] == [0, 0, 0]
        for site in federation:
            verdict = verify(site.state_dir / EGRESS_NAME)
            assert verdict.problem == ""
            shares = [line for line in egress_lines(site.state_dir) if line["kind"] == "MassTransfer"]
            assert shares
            assert all("trunk.0.weight" in line["what"] and line["messages"] == 1 for line in shares)
            assert len(log_times(site, "share sent")) > 0


def mean_error(results: list[Any], model: str) -> float:
    return fmean(endpoint["models"][model]["test"] for result in results for endpoint in result["endpoints"])


def egress_lines(state_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (state_dir / EGRESS_NAME).read_text().splitlines()]


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kmel_p2p.cli.main", *arguments, "--config", str(folder / "site.toml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
