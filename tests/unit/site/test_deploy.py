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
import yaml

from kmel_p2p.site.config import KEY_VARIABLE
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


def instructions(*words: str) -> list[str]:
    """Instructions of the Dockerfile that begin with one of these words, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(words)]


def test_the_image_copies_what_exists_and_what_the_build_may_see() -> None:
    ignored = (DEPLOY.parent / ".dockerignore").read_text().split()
    copied = [path for line in instructions("COPY ") if "--from" not in line for path in line.split()[1:-1]]
    assert len(copied) > 5
    for path in copied:
        assert (DEPLOY.parent / path).exists(), path
        assert f"!{path.split('/')[0]}" in ignored, path
    assert ignored[0] == "*", "nothing else, such as a site's key, gets into a build"


def test_the_image_installs_pinned_packages_and_runs_without_privileges() -> None:
    installs = [part for line in instructions("RUN ") for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all("--require-hashes" in part for part in installs if " -r " in part)
    assert "--no-index" in installs[-1] or "--no-deps" in installs[-1]
    froms = instructions("FROM ")
    assert len(froms) == 2
    assert all("slim" in line for line in froms)
    last = (DEPLOY / "Dockerfile").read_text().rpartition("FROM ")[2]
    assert re.search(r"^USER kmel$", last, re.MULTILINE)
    assert last.index("USER kmel") < last.index("ENTRYPOINT")
    assert "apt-get" not in last[last.index("USER kmel") :]
    assert "VOLUME /srv/kmel" in last
    assert not any("KEY" in line or "secret" in line.lower() for line in instructions("ENV ", "ARG "))
    (health,) = [line for line in last.splitlines() if "/healthz" in line and "CMD" in line]
    code = json.loads(health.partition("CMD ")[2])[2]
    compile(code, "health check", "exec")
    assert ":9477/healthz" in code


def test_the_peers_of_the_example_have_volumes_of_their_own_and_no_privileges() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    peers = compose["services"]
    volumes = [volume for peer in peers.values() for volume in peer["volumes"]]
    assert len(set(volumes)) == len(peers) == 3
    assert {volume.split(":")[0] for volume in volumes} == set(compose["volumes"])
    for peer in peers.values():
        assert (peer["cap_drop"], peer["read_only"]) == (["ALL"], True)
        assert (DEPLOY / peer["build"]["context"] / peer["build"]["dockerfile"]).exists()


def test_the_credential_is_the_key_that_the_peer_reads() -> None:
    text = (DEPLOY / "kmel-peer@credentials.conf").read_text()
    name = re.findall(r"^LoadCredentialEncrypted=([\w.]+):", text, re.MULTILINE)
    assert re.findall(r"^Environment=(\w+)=%d/([\w.]+)$", text, re.MULTILINE) == [(KEY_VARIABLE, name[0])]


def test_the_peer_gets_the_controllers_that_its_limits_need() -> None:
    text = (DEPLOY / "kmel-peer@resources.conf").read_text()
    assert re.findall(r"^[^#\n].*$", text, re.MULTILINE) == [
        "[Service]", "Delegate=cpu memory", "ProtectControlGroups=no",
    ]  # fmt: skip


def test_ready_is_who_takes_part() -> None:
    alive = document()
    assert why_not_ready(alive) == ""
    assert why_not_ready(dataclasses.replace(alive, members=())) == ""
    alone = dataclasses.replace(alive, members=(dataclasses.replace(alive.members[0], state="dead"),))
    assert why_not_ready(alone) == "no other site is reachable"
    preparing = dataclasses.replace(alive, phase=SitePhase.PREPARING, reason="reading")
    assert why_not_ready(preparing) == "preparing: reading"
