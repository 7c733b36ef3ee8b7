"""Real daemons with a trunk over molecular graphs: a killed trainer, one digest, and models that predict and score."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import kmel_p2p
from kmel_p2p.cli.main import invoke
from kmel_p2p.learn.models.reference import trunk_reference_hash
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess, create_federation
from tests.support.local_run import PATIENCE_S, SETTINGS, complete, published, until, write_solubility

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("chemprop") is None, reason="chemprop (extra gnn) is not installed"),
]
ENTRIES, STEPS = 8, 30
SITES = ("north", "south")
COLUMN = "kmel_solubility [log10(mol/L)]"
MODEL = {"trunk": "dmpnn", "message_width": 24, "depth": 3, "hidden": (16,), "dropout": 0.0}


@pytest.fixture
def federation(tmp_path: Path) -> LocalFederation:
    """Two sites with 60 compounds each and 20 for scoring; nothing is started. A step takes about 5 ms."""
    files = write_solubility(tmp_path, [60, 60], 20)
    charter: dict[str, Any] = {
        **SETTINGS["charter"],
        "model": MODEL,
        "averaging": {"entry_limit": ENTRIES, "steps_per_entry": STEPS},
        "pace": {"start_sites": len(SITES)},
    }
    sites = {**SETTINGS["sites"], "names": SITES}
    simulation = Simulation.model_validate({**SETTINGS, "sites": sites, "charter": charter})
    reference = trunk_reference_hash(simulation.charter.features, simulation.model)
    return create_federation(simulation, tmp_path, files[:-1], files[-1], reference)


def training_pid(site: SiteProcess) -> int | None:
    """The trainer's process while it is in the middle of a round after the first."""
    status = site.status()
    training = status is not None and status.trainer.state == "training" and published(site) >= 1
    return status.trainer.pid if status is not None and training else None


def test_a_trunk_over_graphs_survives_a_kill_and_serves_its_sites(
    federation: LocalFederation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with federation:
        federation.start()
        north, south = federation
        os.kill(until("south trains", lambda: training_pid(south), federation), signal.SIGKILL)
        documents = until("both sites are complete", lambda: complete(federation), federation)
        assert [document.averaging.vector for document in documents] == [dict.fromkeys(SITES, ENTRIES)] * 2
        assert len({document.averaging.digest for document in documents}) == 1
        assert [document.trainer.restarts for document in documents] == [0, 1]
        result = north.request("result", timeout_s=PATIENCE_S)
    trunks = [{path.name: path.read_bytes() for path in (site.state_dir / "trunk").iterdir()} for site in federation]
    assert trunks[0] == trunks[1]
    (size,) = result["endpoints"]
    assert size["models"]["federated"]["test"] < size["baseline_median"]["test"]

    config = north.folder / "site.toml"
    assert invoke(["evaluate", "--config", str(config), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)["endpoints"][0]
    assert scored["models"]["federated"]["score"] == pytest.approx(size["models"]["federated"]["test"], rel=1e-4)

    assert invoke(["export", str(tmp_path / "exported"), "--config", str(config)]) == 0
    asked = ["CCO", "no molecule", "c1ccccc1O"]
    (tmp_path / "asked.csv").write_text("smiles\n" + "\n".join(asked) + "\n")
    arguments = ["predict", str(tmp_path / "asked.csv"), "--config", str(config), "--model", "federated"]
    assert invoke([*arguments, "--output", str(tmp_path / "answers.csv")]) == 0
    with (tmp_path / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    exported = kmel_p2p.load(tmp_path / "exported").predictions(asked, model="federated")
    shared = kmel_p2p.load(north.state_dir / "trunk").predictions(asked)
    assert [row.reason == "" for row in exported] == [True, False, True]
    for answer, one, two in zip(answers, exported, shared, strict=True):
        assert one.values == pytest.approx(two.values, rel=1e-5)
        if one.values:
            assert float(answer[COLUMN]) == pytest.approx(one.values["solubility"], rel=1e-3)
