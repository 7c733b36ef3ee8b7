"""report.json keeps its keys, the page needs nothing else and hides nothing."""

from __future__ import annotations

import copy
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from kmel_p2p.agreement.charter import Charter, SiteRule
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.errors import DataError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.simulate import SiteFailedError
from kmel_p2p.simulate.comparison import spread
from kmel_p2p.simulate.report import mean_test, render_html, require_agreement, summary
from kmel_p2p.site.loaded_site import architecture_of
from tests.support.report_sample import sample_details, sample_report


class Structure(HTMLParser):
    """Checks that elements close in order, and collects text."""

    VOID = ("meta", "br", "path", "use", "rect", "circle", "line", "image")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_text(page: str) -> str:
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    return " ".join(" ".join(structure.text).split())


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    page = render_html(sample_report(), sample_details())
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert not re.search(r"url\((?!#)", page)
    text = page_text(page)
    for figure in (
        "0.654 hybrid",
        "0.987",
        "0.600",
        "0.800",
        "\N{MINUS SIGN}18 %",
        "\N{MINUS SIGN}1.6 %",
        "200×",
        "north",
        "bit for bit",
    ):
        assert figure in text


def test_what_contributions_were_worth_stands_on_the_page_where_it_was_measured() -> None:
    details = sample_details()
    assert "What contributions were worth" not in page_text(render_html(sample_report(), details))
    worth = {"solubility": {"late": {"value": 0.03, "low": 0.01, "high": 0.05}}}
    authors = {
        "north": {"worth": worth, "notes": []},
        "south": {"worth": {"solubility": {"late": None}}, "notes": ["no visible effect on any assay endpoint"]},
    }
    details["sites"]["north"] = {**details["sites"]["north"], "contribution": {"authors": authors}}
    text = page_text(render_html(sample_report(), details))
    assert "+0.0300 (+0.0100 to +0.0500)" in text
    assert "north about south: no visible effect" in text


def test_disagreement_is_said_loudly() -> None:
    report = sample_report()
    require_agreement(report)
    report["sites"][1]["digest"] = "00" * 32
    assert "did not end with the same trunk" in page_text(render_html(report, sample_details()))
    with pytest.raises(SiteFailedError, match="north: abababab"):
        require_agreement(report)
    report = sample_report()
    report["sites"][1]["vector"] = {"north": 3, "south": 2}
    with pytest.raises(SiteFailedError, match="different models"):
        require_agreement(report)


def test_names_are_text_never_markup() -> None:
    report = sample_report() | {"task": "<b>x</b> & y"}
    page = render_html(report, sample_details())
    assert "<b>x" not in page
    assert "&lt;b&gt;x" in page


def test_a_broken_egress_log_shows() -> None:
    details = copy.deepcopy(sample_details())
    details["sites"]["south"]["egress_problem"] = "line 4: does not follow"
    assert "south: line 4: does not follow" in page_text(render_html(sample_report(), details))


@pytest.mark.parametrize("count", [1, 5, 9])
def test_any_number_of_sites_has_its_panels(count: int) -> None:
    report, details = sample_report(), sample_details()
    names = [f"site{at}" for at in range(count)]
    report["sites"] = [report["sites"][0] | {"site": name} for name in names]
    details["sites"] = dict.fromkeys(names, details["sites"]["north"])
    text = page_text(render_html(report, details))
    assert all(name in text for name in names)


def test_a_site_without_entries_divides_by_nothing() -> None:
    report = sample_report()
    for site in report["sites"]:
        site.update(entries=0, payload_bytes_mean=0.0, bytes_sent=0)
    page_text(render_html(report, sample_details()))
    console = Console(file=io.StringIO(), width=120)
    console.print(summary(report, sample_details()))


def test_the_summary_fits_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=90)
    console.print(summary(sample_report(), sample_details()))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (
        "north",
        "south",
        "personalised",
        "abababab",
        "200 times smaller",
        "north 0.654 (hybrid; a forest 0.987)",
    ):
        assert text in shown.replace("\n", " ")


def test_an_assay_endpoint_without_test_values_is_left_out_of_the_mean() -> None:
    assert mean_test([{"valid": 9.0, "test": 1.0}, {"valid": 9.0}, {"test": 2.0}]) == 1.5
    with pytest.raises(DataError, match=r"data\.test"):
        mean_test([{"valid": 9.0}])


def test_several_assay_endpoints_are_said_to_be_averaged() -> None:
    details, report = sample_details(), {**sample_report(), "unit": "", "metric": "mean of log_loss, rmse"}
    for count in (1, 2):
        details["charter"] = {"assay_endpoints": [{"name": str(at)} for at in range(count)]}
        assert ("a site's is the mean" in page_text(render_html(report, details))) == (count == 2)
    console = Console(file=io.StringIO(), width=120)
    console.print(summary(report, details))
    assert "()" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_pushsum_run_is_shown_as_what_it_is() -> None:
    report = {**sample_report(), "mode": "pushsum", "spread": 0.0123}
    report["sites"][1]["digest"] = "cd" * 32
    require_agreement(report)  # sites of this mode never hold the same state
    text = page_text(render_html(report, sample_details()))
    for words in ("Averaging mode pushsum", "at most 1.2 % of the distance", "bytes per share", "Rounds trained"):
        assert words in text
    assert "bit for bit" not in text
    assert "signed entry" not in text
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(summary(report, sample_details()))
    shown = console.export_text()
    assert "trunks differ by at most 1.2 % of the distance that training moved them" in shown
    assert "a share is 200 times smaller" in shown


def test_the_spread_is_relative_to_the_way_of_the_mean() -> None:
    charter = Charter(
        federation="trial",
        sites=(SiteRule(name="a", key="0" * 64),),
        assay_endpoints=(AssayEndpoint(name="x", head="shared"),),
        model=ModelRule(hidden=(4,)),
        features=FeatureRule(bits=64),
    )
    base = initial_trunk(trunk_layout(architecture_of(charter)), charter.model.seed)
    moved = {"a": base + np.float32(0.75), "b": base + np.float32(1.25)}
    assert spread(moved, charter) == pytest.approx(0.25, rel=1e-5)
    assert spread({"a": base + 1, "b": base + 1}, charter) == 0.0
    assert spread({"a": base}, charter) == 0.0
