"""What the page says: whether it pays, what to do next, how links stand, in both languages."""

from __future__ import annotations

import dataclasses
import re
import string
from pathlib import Path
from typing import Any

import pytest

from kmel_p2p.site.observe.activity import HELD
from kmel_p2p.site.observe.federation_payoff import FederationPayoff
from kmel_p2p.site.observe.headline import site_payoff
from kmel_p2p.site.observe.next_step import STEPS, next_step
from kmel_p2p.site.observe.status import Alarm, AveragingStatus, SitePhase
from kmel_p2p.site.page.federation_map import MOST_DRAWN, federation_map
from kmel_p2p.site.page.view import headline, page_values
from kmel_p2p.site.page.words import WORDS, language
from kmel_p2p.web import korean
from tests.support.page_sample import comparison, facts, members, status, trouble


def test_both_languages_have_every_word_with_the_same_places() -> None:
    assert WORDS["ko"].keys() == WORDS["en"].keys()
    for name, text in WORDS["en"].items():
        places = {field for _, field, _, _ in string.Formatter().parse(text) if field}
        assert places == {field for _, field, _, _ in string.Formatter().parse(WORDS["ko"][name]) if field}, name


@pytest.mark.parametrize(
    ("query", "accepted", "expected"),
    [("", "", "en"), ("", "ko-KR,ko;q=0.9,en;q=0.8", "ko"), ("", "en-US,ko;q=0.9", "en"), ("lang=en", "ko", "en"),
     ("part=main&lang=ko", "en", "ko"), ("lang=kok", "kok", "en")],
)  # fmt: skip
def test_the_language_is_what_was_asked_for_then_what_the_browser_prefers(
    query: str, accepted: str, expected: str
) -> None:
    assert language(query, accepted) == expected


@pytest.mark.parametrize(
    ("result", "beginning"),
    [
        (None, "Whether it pays is known when the run has ended."),
        (comparison(), "It pays for 1 of 2 assay endpoints (solubility): what this site predicts with errs 7 % less"),
        (comparison("best_local"), "It does not pay: best local answers for every assay endpoint."),
        (comparison(test=0.9), "Held-out compounds speak for the federation, the test fold does not: what this site "
                               "predicts with errs 25 % more"),
    ],
)  # fmt: skip
def test_the_first_line_says_whether_it_pays(result: Any, beginning: str) -> None:
    verdict, cost, exposed = headline(facts(result=result), "en")
    assert verdict.startswith(beginning)
    assert cost == "It has cost 12 of 40 entries, 1.3 MB of traffic and 60 min."
    assert exposed == "Sites saw each other's entries; no structure and no measurement has left this site."


def test_held_out_compounds_that_differ_by_chance_are_no_evidence() -> None:
    result = comparison()
    result["endpoints"][0]["stacked"]["difference"] = [-0.05, 0.04]
    payoff = site_payoff(result)
    assert (payoff.gaining, payoff.unclear, payoff.alone) == ([], ["solubility"], ["logd"])
    seems = "It seems to pay, though held-out compounds alone are too few to tell: what this site predicts with errs 7"
    assert headline(facts(result=result), "en")[0].startswith(seems)
    result["endpoints"][0]["predicted"]["test"] = 0.9
    assert headline(facts(result=result), "en")[0].startswith("It seems not to pay, though")
    result["endpoints"][0]["predicted"]["test"] = 0.6
    assert headline(facts(result=result), "en")[0].startswith("There is no evidence either way: what")
    result["endpoints"][0]["stacked"]["difference"] = None
    assert site_payoff(result).unclear == ["solubility"]


def test_a_run_that_is_over_has_taken_until_its_last_entry() -> None:
    samples = [{**point, "phase": "training" if place < 31 else "complete"} for place, point in
               enumerate(facts().samples)]  # fmt: skip
    over = facts(status(phase=SitePhase.COMPLETE), samples=samples)
    assert headline(over, "en")[1].endswith("1.3 MB of traffic and 30 min.")


def test_a_comparison_without_a_stack_says_nothing_of_pay() -> None:
    assert site_payoff({"endpoints": [{"name": "logd", "train": 5, "predicted": {}}]}) is None
    assert site_payoff({"endpoints": []}) is None


def test_next_is_what_only_the_operator_can_do_then_alarms_then_the_phase() -> None:
    averaging = dataclasses.replace(status().averaging, held=1)
    held = Alarm(HELD, "entry 13 waits", 1.0)
    assert next_step(status(averaging=averaging, alarms=(held, *trouble()["alarms"]))) == "decide"
    assert next_step(status(**trouble())) == "look"
    assert next_step(status(alarms=(held,))) == "train"
    assert next_step(status(phase=SitePhase.FAILED, averaging=averaging)) == "mend"
    assert {next_step(status(phase=phase)) for phase in SitePhase} <= set(STEPS)
    done = status(phase=SitePhase.LISTENING)
    finishing = dataclasses.replace(done, trainer=dataclasses.replace(done.trainer, state="finishing"))
    assert (next_step(done), next_step(finishing)) == ("listen", "finish")


def test_a_way_is_shut_only_where_no_connection_serves() -> None:
    south, east, west = page_values(facts(), "en")["members"]
    assert (south["to"], south["from"]) == ("open", "open")
    assert (east["to"], east["from"]) == ("not needed", "open")
    assert (west["to"], west["from"], west["problem"]) == ("shut", "shut", "tcp://west:7700 does not answer")
    drawn = federation_map("north", members(), WORDS["en"])
    assert [drawn.count(f'"way {state}"') for state in ("open", "spare", "shut")] == [3, 1, 2]
    assert "3 other sites, 2 of them reachable" in drawn


@pytest.mark.parametrize("count", [0, 1, 2, 3, 16, 17, MOST_DRAWN, MOST_DRAWN + 1])
def test_the_map_stays_within_its_frame(count: int) -> None:
    many = [dataclasses.replace(members()[0], name=f"a-name-of-quite-some-length-{n}") for n in range(count)]
    drawn = federation_map("north", many, WORDS["en"])
    assert bool(drawn) == (0 < count <= MOST_DRAWN)
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn):
        assert 15 <= float(x) <= 345
        assert 15 <= float(y) <= 275


def test_of_many_authors_own_first_and_last_have_a_curve() -> None:
    vector = {"north": 5, **{f"site-{n:03}": n for n in range(200)}}
    document = status(averaging=AveragingStatus(vector, "", 5, 100, entry_limit=300))
    values = page_values(facts(document, samples=[{"at": 1_764_500_000.0, "vector": vector, "sent": 1}]), "en")
    drawn = str(values["vectors"])
    assert drawn.count('class="curve') == 20  # each once in the chart and once in its key
    for name in ("north", "site-199", "site-000"):
        assert f"{name}</li>" in drawn
    assert "site-100" not in drawn


def test_curves_of_a_fold_are_compared_with_best_local_on_the_same() -> None:
    curves = page_values(facts(result=comparison()), "en")["curves"]
    assert [curve["name"] for curve in curves] == ["solubility", "logd"]
    assert all("best local</li>" in str(curve["drawn"]) for curve in curves)
    assert "best local" not in str(page_values(facts(), "en")["curves"])


def test_what_left_is_told_by_partner_and_content() -> None:
    egress = page_values(facts(), "en")["egress"]
    assert egress["sorts"] == ["entries", "control messages"]
    assert egress["rows"] == [("east", ["380 kB", "15.0 kB"], "395 kB"), ("south", ["700 kB", "90.0 kB"], "790 kB")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ["No entry waits.", "Every entry leaves without being asked about."]),
        ({"asks": True}, ["No entry waits.", "Every entry waits for approval."]),
        ({"asks": True, "approved_until": 9}, ["No entry waits.", "Entries up to 9 leave without being asked about."]),
        ({"asks": True, "held": (13, 48_000, 95.0)},
         ["Entry 13, 48.0 kB, since 95 s.", "Every entry waits for approval."]),
    ],
)  # fmt: skip
def test_what_waits_for_approval_is_told(changes: dict[str, Any], said: list[str]) -> None:
    assert page_values(facts(**changes), "en")["held"] == said


def test_the_page_says_what_all_sites_state_of_their_payoff() -> None:
    assert page_values(facts(), "en")["federation_payoff"] == ""
    payoff = FederationPayoff({"north": "better", "south": "unknown"}, {"logd": {"better": 1}}, 0)
    document = status(federation_payoff=payoff)
    assert page_values(facts(document), "en")["federation_payoff"] == (
        "Over all sites, it pays for 1 of 2 sites (1 of 1 assay endpoints), 1 without a statement, by what the sites "
        "state of themselves."
    )
    assert "기관 2곳 중 1곳에서" in page_values(facts(document), "ko")["federation_payoff"]


def test_korean_lines_break_between_words() -> None:
    style = (Path(korean.__file__).parent / "style.css").read_text("utf-8")
    assert ":lang(ko){word-break:keep-all;" in style
