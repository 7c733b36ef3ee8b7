"""privacy plan and spent, and the charter that they are about: what they print, for people and for programs."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.drafted import private_sections
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.strict import build
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.core.sealed.own_part import SealedState
from kmel_p2p.site.config import load_config
from kmel_p2p.site.keys import load_key
from kmel_p2p.site.loaded_site import load_site
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.modes.sealed import ROUND
from kmel_p2p.site.state.store import STORE_NAME, Store
from tests.support.cli_harness import Run


def test_a_plan_is_printed_and_given_to_programs(run: Run) -> None:
    asked = ("privacy", "plan", "--compounds", 1000, "--epsilon", 6, "--steps", 10, "--steps", 20)
    done = run(*asked)
    assert done.code == 0, done.err
    assert "1,000 compounds a site, sums of 4 sites, epsilon 6, delta 0.0001" in done.out
    assert "Outside epsilon" in done.out
    facts = json.loads(run(*asked, "--json").out)
    assert {plan["steps"] for plan in facts["plans"]} == {10, 20}
    assert all(5.9 < plan["epsilon"] <= 6 for plan in facts["plans"])


def test_what_cannot_be_planned_is_refused(run: Run) -> None:
    assert run("privacy", "plan", "--compounds", 10, "--epsilon", 1).code == ExitCode.USAGE
    assert run("privacy", "plan", "--compounds", 1000, "--epsilon", 0).code == ExitCode.USAGE
    done = run("privacy", "plan", "--compounds", 1000, "--epsilon", 1, "--delta", 0.01, "--steps", 1)
    assert done.code == ExitCode.CONFIG
    assert "delta between 0 and 1 in the number of compounds" in done.err


def founded(run: Run, folder: Path, *more: object) -> Path:
    """A site of four whose charter, drafted with these options, is in force."""
    names = ("north", "south", "east", "west")
    for name in names:
        assert run("init", folder / name, "--name", name).code == 0
    sites = [f"--site={name}={load_key(folder / name / 'site.key').key.hex()}@tcp://[::1]:1" for name in names]
    path = folder / "north" / "charter.toml"
    done = run("charter", "new", "--federation", "demo", *sites, "--endpoint", "solubility", "-o", path, *more)
    assert done.code == 0, done.err
    for name in names:
        assert run("charter", "sign", "--yes", path, "--key", folder / name / "site.key").code == 0
    return folder / "north" / "site.toml"


def test_a_draft_with_a_budget_is_of_sealed_noised_rounds(run: Run, tmp_path: Path) -> None:
    config = founded(run, tmp_path, "--epsilon", 6, "--compounds", 2000)
    charter = CharterDocument.parse((config.parent / "charter.toml").read_text(), "charter").charter
    assert (charter.privacy.dp, charter.privacy.epsilon, charter.privacy.delta) == ("record", 6, 1e-5)
    assert (charter.averaging.mode, charter.averaging.steps_per_entry, charter.model.trunk) == (
        "sealed",
        1,
        "projected",
    )
    shown = run("charter", "show", config.parent / "charter.toml").out
    assert "privacy" in shown
    assert "epsilon" in shown


def test_spent_says_what_left_and_what_it_cost(run: Run, tmp_path: Path) -> None:
    config = founded(run, tmp_path, "--epsilon", 6)
    done = run("privacy", "spent", "--config", config)
    assert done.code == 0, done.err
    assert "0 of 214 noised steps: epsilon 0 of 6" in done.out
    site = load_site(load_config(config))
    site.config.site.state_dir.mkdir()
    store = Store(site.config.site.state_dir / STORE_NAME)
    store.averaging.put_state(site.charter.id, 0, b"kmel sealed 1", None)
    store.put_blob(ROUND, SealedState(9, 7, sealed=30).encode(site.charter.id))
    store.close()
    done = run("privacy", "spent", "--config", config, "--json")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert (facts["steps"], facts["budget_steps"], facts["budget_epsilon"]) == (30, 214, 6)
    assert 0 < facts["epsilon"] < 4


def test_a_charter_without_privacy_has_nothing_to_spend(run: Run, tmp_path: Path) -> None:
    done = run("privacy", "spent", "--config", founded(run, tmp_path))
    assert done.code == ExitCode.CONFIG
    assert "no differential privacy" in done.err


def test_a_charter_hashes_as_before_where_privacy_is_off(run: Run, tmp_path: Path) -> None:
    path = founded(run, tmp_path).parent / "charter.toml"
    text = path.read_text()
    assert "privacy" not in text
    charter = CharterDocument.parse(text, "charter").charter
    assert "privacy" not in charter.model_dump(mode="python")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"averaging": {"mode": "ledger"}}, "set averaging.mode to 'sealed'"),
        ({"averaging": {"mode": "sealed", "min_group": 4, "pattern": 1.0}}, "set averaging.steps_per_entry to 1"),
        ({"privacy": {"dp": "record", "colluders": 3}}, "two at least must be left"),
        ({"privacy": {"dp": "record", "epsilon": 0.0}}, "epsilon"),
        ({"privacy": {"epsilon": 4.0}}, "epsilon has no effect without dp = 'record'"),
        ({"pace": {"patience": 5}}, "would show its validation scores"),
        ({"assay_endpoints": ({"name": "logd", "head": "private"},)}, "'logd' has a private head"),
    ],
)
def test_a_charter_that_cannot_keep_its_privacy_is_refused(
    change: dict[str, Any], says: str, run: Run, tmp_path: Path
) -> None:
    config = founded(run, tmp_path, "--epsilon", 6)
    raw = tomllib.loads((config.parent / "charter.toml").read_text())["charter"]
    with pytest.raises(ConfigError, match=re.escape(says)):
        build(Charter, {**raw, **change}, "charter")


@pytest.mark.parametrize(("sites", "least", "colluders"), [(4, 3, 1), (5, 4, 1), (8, 5, 2), (16, 8, 5)])
def test_a_draft_asks_for_sums_of_more_sites_than_may_lie(sites: int, least: int, colluders: int) -> None:
    sections: dict[str, dict[str, Any]] = {"model": {}}
    private_sections(sections, 8.0, 1000, sites)
    assert (sections["averaging"]["min_sum"], sections["privacy"]["colluders"]) == (least, colluders)


def test_a_budget_that_no_trunk_of_that_size_can_keep_is_refused_before_anybody_signs(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="too many for the noise that its budget asks for"):
        founded(run, tmp_path, "--epsilon", 0.5)


def test_a_head_that_stays_at_a_site_cannot_be_drafted_with_a_budget(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="has a private head"):
        founded(run, tmp_path, "--epsilon", 8, "--endpoint", "logd,head=private")


def test_a_trunk_whose_gradients_cannot_be_clipped_is_refused(run: Run, tmp_path: Path) -> None:
    config = founded(run, tmp_path, "--epsilon", 6)
    text = (config.parent / "charter.toml").read_text()
    site = load_site(load_config(config))
    charter = site.charter.changed(model=site.charter.model.changed(members=3))
    with pytest.raises(ConfigError, match=re.escape("choose model.trunk among projected")):
        mode_of(charter).check(site.config, charter, site.identity.key, site.layout)
    assert "projected" in text
