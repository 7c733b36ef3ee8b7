"""privacy plan: what it prints, for people and for programs."""

from __future__ import annotations

import json

from kmel_p2p.cli.exits import ExitCode
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
