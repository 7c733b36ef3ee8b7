"""The first hour of operators: companies found a federation by invitation, a later one joins, mistakes, a doctor.

    python benchmarks/first_hour.py [--founders 3] [--loopback] [--from-source] [--json FILE]

Real commands and real daemons, each company in a network namespace of its own (needs root; `--loopback`: ports of one
host instead), and each with a fresh virtual environment that has the wheel (`--from-source`: this source tree
instead). The people are played: who is at the phone compares the digits that both screens show, then agrees.

  commands_to_found   commands of the busiest founder, up to its running peer
  commands_to_join    commands of a later partner, up to its running peer
  commands_to_sign    commands of a site that agrees to the later partner
  minutes             from the first command until every founder's peer reaches all others
  minutes_to_join     the same for the later partner
  mistakes            what, text, names_the_next_step: the likeliest mistakes, made on purpose
  mistakes_unhelpful  those whose text does not name the next step
  doctor_found        planted faults that `kmel-peer doctor` names
  doctor_missed       those that it does not
  doctor_false        findings at a site that is well, or beside the planted fault
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts.companies import Company, companies, compare_and_agree, until
from benchmarks.parts.first_mistakes import make_mistakes
from benchmarks.parts.measure import Goal, at_least, at_most, parse, publish, say, this_machine
from benchmarks.parts.planted_faults import plant_faults
from tests.testbed.hosts import Hosts

GOALS: dict[str, Goal] = {
    "commands_to_found": at_most(4),
    "commands_to_join": at_most(3),
    "mistakes_unhelpful": at_most(0),
    "doctor_found": at_least(12),
    "doctor_false": at_most(0),
}
SMOKE: dict[str, Any] = {"founders": 2, "loopback": True, "mistakes": 2, "faults": 1, "from_source": True}
FEDERATION = "logd-2026"
ENDPOINT = "logd,head=shared"


def found(founders: Sequence[Company]) -> float:
    """Found the federation and start its peers; gives the minutes it took."""
    began = time.monotonic()
    first, *others = founders
    inviting = first.begin(
        *("invite", "-d", first.folder, "--name", first.name, "--address", first.address, "--data", first.table),
        *("--federation", FEDERATION, "--sites", len(founders), "--endpoint", ENDPOINT, "--column", "logd=LogD"),
    )
    text = inviting.wait_for(r"kmel-invitation-1:\S+")
    joining = {
        other.name: other.begin(
            *("join", text, "-d", other.folder, "--name", other.name, "--address", other.address),
            *("--data", other.table, "--column", "logd=LogD"),
        )
        for other in others
    }
    compare_and_agree(inviting, joining)
    inviting.answer("Sign this charter for this site", "y")
    for name, one in joining.items():
        one.answer(f"does {name} sign this charter", "y")
    for one in (inviting, *joining.values()):
        one.ended_well()
    for company in founders:
        company.run()
    until("all founders reach each other", lambda: all(one.reaches(len(founders) - 1) for one in founders))
    return (time.monotonic() - began) / 60


def join_later(newcomer: Company, inviting: Company, signing: Company, sites: int) -> float:
    """A later partner joins the running federation; gives the minutes it took."""
    began = time.monotonic()
    text = inviting.must("invite", "-d", inviting.folder).found(r"kmel-invitation-1:\S+")
    joining = newcomer.begin(
        *("join", text, "-d", newcomer.folder, "--name", newcomer.name, "--address", newcomer.address),
        *("--data", newcomer.table, "--column", "logd=LogD"),
    )
    digits = joining.wait_for(r"Fingerprint (\d{4}(?: \d{4}){4})")
    until("it is seen", lambda: digits in inviting.shown("invite", "-d", inviting.folder, "list"))
    inviting.must("invite", "-d", inviting.folder, "approve", newcomer.name, answers="y\n")
    until("it is proposed", lambda: newcomer.name in signing.shown("amendment", "proposed", "-c", signing.settings))
    signing.commands.clear()
    signing.must("amendment", "sign", "-c", signing.settings, answers="y\n")
    joining.answer("Take part in", "y")
    joining.ended_well()
    newcomer.run()
    until("it reaches all others", lambda: newcomer.reaches(sites - 1))
    return (time.monotonic() - began) / 60


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    count = options.founders + 1
    with contextlib.ExitStack() as parts:
        hosts = None if options.loopback else parts.enter_context(Hosts(count))
        everybody = companies(folder, count, hosts, installed=not options.from_source)
        for company in everybody:
            parts.callback(company.end)
        founders, newcomer = everybody[:-1], everybody[-1]
        say("founding")
        figures: dict[str, Any] = {"minutes": found(founders)}
        figures["commands_to_found"] = max(len(company.commands) for company in founders)
        if options.later:
            say("a later partner")
            figures["minutes_to_join"] = join_later(newcomer, founders[0], founders[1], count)
            figures["commands_to_join"] = len(newcomer.commands)
            figures["commands_to_sign"] = len(founders[1].commands)
        say("mistakes")
        figures["mistakes"] = make_mistakes(folder / "mistakes", founders[0], options.mistakes)
        figures["mistakes_unhelpful"] = sum(not row["names_the_next_step"] for row in figures["mistakes"])
        say("faults")
        figures |= plant_faults(founders[1], founders[0], options.faults)
    return figures


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--founders", type=int, default=3)
    parser.add_argument("--loopback", action="store_true", default=os.geteuid() != 0, help="no namespaces")
    parser.add_argument("--from-source", action="store_true", help="no virtual environments")
    parser.add_argument("--no-later", dest="later", action="store_false", help="no later partner")
    parser.add_argument("--mistakes", type=int, default=100, help="so many at most")
    parser.add_argument("--faults", type=int, default=100, help="so many at most")
    options = parse(parser, SMOKE, given)
    machine = this_machine()
    folder = Path(tempfile.mkdtemp(prefix="kmel-hour-"))
    try:
        figures = measure(folder, options)
    finally:
        shutil.rmtree(folder)
    publish(f"the first hour of {options.founders} founders", machine, figures, GOALS, options.json)


if __name__ == "__main__":
    main()
