"""What deploy/ names exists: metrics in alert rules and dashboard; and the unit keeps what was hardened."""

from __future__ import annotations

import configparser
import dataclasses
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from kmel_p2p.site.observe.metrics import StatusCollector, why_not_ready
from kmel_p2p.site.observe.status import Ages, SitePhase
from tests.unit.site.test_site_metrics import document

DEPLOY = Path(__file__).parents[3] / "deploy"
UNIT = DEPLOY / "kmel-peer@.service"
LEDGER = {"kmel_sites_said_to_harm", "kmel_sites_suspended"}
"""Figures of averaging mode ledger that the sample document leaves out; `site.modes.ledger` has them."""


def exported() -> set[str]:
    full = dataclasses.replace(document(), ages=Ages(published_s=3.0))
    return {family.name for family in StatusCollector(lambda: full, Counter()).collect()} | LEDGER


def expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    return [*of_alerts("expr"), *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])]


def of_alerts(key: str) -> list[str]:
    """What alert rules say for a key, in order."""
    return re.findall(rf"^ +(?:- )?{key}: (.+)$", (DEPLOY / "alerts.yml").read_text(), re.MULTILINE)


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    asked = {name for expression in expressions() for name in re.findall(r"\bkmel_\w+", expression)}
    assert len(asked) > 15
    assert asked <= exported()
    phases = {name for text in expressions() for name in re.findall(r'phase="(\w+)"', text)}
    assert phases <= {phase.value for phase in SitePhase}


def test_every_alert_says_what_to_do_and_panels_do_not_overlap() -> None:
    names = of_alerts("alert")
    assert len(set(names)) == len(names) == len(of_alerts("summary")) == len(of_alerts("what_to_do"))
    places = [panel["gridPos"] for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]]
    cells = [(p["x"] + dx, p["y"] + dy) for p in places for dx in range(p["w"]) for dy in range(p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_the_ledger_has_the_figures_that_alerts_are_made_from() -> None:
    source = (DEPLOY.parent / "kmel_p2p" / "site" / "modes" / "ledger.py").read_text()
    assert all(f'"{name.removeprefix("kmel_")}"' in source for name in LEDGER)


def test_the_unit_gives_no_privileges() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert service["RestartPreventExitStatus"] == "3 4"
    assert service["ReadWritePaths"] == service["WorkingDirectory"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_systemd_finds_the_unit_little_exposed() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=30", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:]


def test_ready_is_who_takes_part() -> None:
    alive = document()
    assert why_not_ready(alive) == ""
    assert why_not_ready(dataclasses.replace(alive, members=())) == ""
    alone = dataclasses.replace(alive, members=(dataclasses.replace(alive.members[0], state="dead"),))
    assert why_not_ready(alone) == "no other site is reachable"
    preparing = dataclasses.replace(alive, phase=SitePhase.PREPARING, reason="reading")
    assert why_not_ready(preparing) == "preparing: reading"
