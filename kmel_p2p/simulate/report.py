"""From what the sites ended with to `report.json` (its keys are fixed), `details.json` and `report.html`."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import DataError
from kmel_p2p.chem.structures.parallel import usable_cores
from kmel_p2p.files import write_whole
from kmel_p2p.learn.evaluate.pooled import Pooled
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.simulate import SiteFailedError
from kmel_p2p.simulate import report_plots as plots
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.data import DividedData
from kmel_p2p.simulate.follow import Final, RunRecord, sample_rows
from kmel_p2p.simulate.payoff import in_words, payoff_of, percent
from kmel_p2p.site.loaded_site import architecture_of
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.observe.status import bytes_text
from kmel_p2p.version import VERSION
from kmel_p2p.web.templates import page

TEMPLATE = "report.html"
MODELS = ("local", "federated", "personalised", "hybrid")


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """Everything known about a finished simulation."""

    simulation: Simulation
    charter: Charter
    divided: DividedData
    record: RunRecord
    finals: Mapping[str, Final]
    pooled: Pooled
    run_s: float
    """Until all sites were complete."""
    wall_s: float
    """With the pooled model."""
    out: Path
    spread: float | None = None
    """Where each site has a trunk of its own: how far apart the sites' trunks are (`report_spread.spread`)."""


def build_report(outcome: RunOutcome) -> dict[str, Any]:
    """The figures of a run. Scores are means over the assay endpoints, on the compounds that belong to nobody.

    Those of a site are means over what it has measurements to train on, of the pooled model over all.
    """
    params = trunk_layout(architecture_of(outcome.charter)).size
    endpoints = outcome.charter.assay_endpoints
    metrics = {endpoint["metric"] for final in outcome.finals.values() for endpoint in final.result["endpoints"]}
    units = sorted({endpoint["unit"] for final in outcome.finals.values() for endpoint in final.result["endpoints"]})
    return {
        "task": outcome.simulation.task,
        "metric": metrics.pop() if len(metrics) == 1 else "mean of " + ", ".join(sorted(metrics)),
        "unit": units[0] if len(units) == 1 else "",
        "params": params,
        "seed": outcome.simulation.seed,
        "wall_s": round(outcome.wall_s, 2),
        "pooled": mean_test(outcome.pooled.scores[e.name] for e in endpoints),
        "baseline_median": mean_test(outcome.pooled.baseline_median[e.name] for e in endpoints),
        "fp32_bytes_per_exchange": 4 * params,
        "sites": [_site(name, final) for name, final in outcome.finals.items()],
        **({} if outcome.spread is None else {"mode": outcome.charter.averaging.mode, "spread": outcome.spread}),
    }


def mean_test(scores: Iterable[Mapping[str, float]]) -> float:
    """Mean test score over the assay endpoints that have one: those with a measured value among the test compounds.

    Raises:
        DataError: there is none.
    """
    known = [fold["test"] for fold in scores if "test" in fold]
    if not known:
        raise DataError("no compound of data.test has a measured value of any assay endpoint; bounds are not scored")
    return fmean(known)


def _site(name: str, final: Final) -> dict[str, Any]:
    endpoints = _own(final)
    averaging = final.status.averaging
    return {
        "site": name,
        "train_rows": final.status.data["train_rows"],
        **{model: mean_test(endpoint["models"][model] for endpoint in endpoints) for model in MODELS},
        "entries": final.entries,
        "payload_bytes_mean": final.entry_bytes_mean,
        "bytes_sent": sum(size for _, size in final.egress.values()),
        "digest": averaging.digest,
        "vector": dict(averaging.vector),
    }


def _own(final: Final) -> list[dict[str, Any]]:
    """Results of the assay endpoints that the site has measurements to train on; its local model knows no others."""
    return [endpoint for endpoint in final.result["endpoints"] if endpoint["train"]]


def build_details(outcome: RunOutcome) -> dict[str, Any]:
    """What the plots are drawn from, and the machine it was measured on."""
    return {
        "version": VERSION,
        "machine": {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": usable_cores(),
        },
        "run_s": round(outcome.run_s, 2),
        "longest_status_answer_s": round(outcome.record.longest_answer_s, 4),
        "charter_id": outcome.charter.id.hex(),
        "charter": outcome.charter.model_dump(mode="json"),
        "exposed": mode_of(outcome.charter).exposes["en"],
        "sites": {name: _details(outcome, at, name) for at, name in enumerate(outcome.finals)},
        "pooled_history": [[share, dict(scores)] for share, scores in outcome.pooled.history],
    }


def _details(outcome: RunOutcome, at: int, name: str) -> dict[str, Any]:
    final = outcome.finals[name]
    endpoints = _own(final)
    return {
        # What the site itself computed with its models, and what it would have without any.
        "predicts": mean_test(endpoint["predicted"] for endpoint in endpoints),
        "best_local": _best_local(endpoints),
        "forest": mean_test(endpoint["baseline_forest"] for endpoint in endpoints),
        "chosen": "/".join(dict.fromkeys(endpoint["chosen"] for endpoint in endpoints)),
        "chemistry": dataclasses.asdict(outcome.divided.figures[at]),
        "data": dict(final.status.data),
        "comparison": final.result,
        "entry_bytes": final.entry_bytes,
        "steps": final.steps,
        "contribution": final.contribution,
        "egress": {kind: list(total) for kind, total in final.egress.items()},
        "egress_problem": final.egress_problem,
        "daemon_rss_max": outcome.record.daemon_rss.get(name, 0),
        "trainer_rss_max": outcome.record.trainer_rss.get(name, 0),
        "alarms": [dataclasses.asdict(alarm) for alarm in final.status.alarms],
        "samples": sample_rows(outcome.record).get(name, []),
    }


def _best_local(endpoints: Iterable[Mapping[str, Any]]) -> float | None:
    """What the best that the site can make alone would score; None without a stack."""
    sides = [endpoint.get("stacked", {}).get("best_local") for endpoint in endpoints]
    return mean_test(sides) if sides and all(sides) else None


def write_report(out: Path, report: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    """Write `report.json`, `details.json` and `report.html` into `out`."""
    write_whole(out / "report.json", _json(report), mode=0o644)
    write_whole(out / "details.json", _json(details), mode=0o644)
    write_whole(out / "report.html", render_html(report, details).encode(), mode=0o644)


def require_agreement(report: Mapping[str, Any]) -> None:
    """All sites must hold the same entries and the same trunk, unless the mode gives each a trunk of its own.

    Raises:
        SiteFailedError: they do not; shows vectors and digests.
    """
    if "spread" in report:
        return
    if len({(site["digest"], tuple(sorted(site["vector"].items()))) for site in report["sites"]}) > 1:
        lines = [f"{site['site']}: {site['digest'][:16]} at {site['vector']}" for site in report["sites"]]
        raise SiteFailedError("the sites ended with different models:\n" + "\n".join(lines))


def summary(report: Mapping[str, Any], details: Mapping[str, Any]) -> Group:
    """The report in a few lines for the terminal."""
    unit = f" ({report['unit']})" if report["unit"] else ""
    table = Table(title=f"{report['task']}, test {report['metric']}{unit}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("site", style="bold", no_wrap=True)
    units = ("rounds", "B/share") if "spread" in report else ("entries", "B/entry")
    for column in ("rows", *MODELS, *units, "sent"):
        table.add_column(column, justify="right", no_wrap=True)
    for site in report["sites"]:
        table.add_row(
            site["site"],
            str(site["train_rows"]),
            *(f"{site[model]:.3f}" for model in MODELS),
            str(site["entries"]),
            f"{site['payload_bytes_mean']:,.0f}",
            f"{site['bytes_sent'] / 1e6:.2f} MB",
        )
    sizes = [site["payload_bytes_mean"] for site in report["sites"] if site["entries"]]
    smaller = report["fp32_bytes_per_exchange"] / fmean(sizes) if sizes else 0.0
    what = "a share" if "spread" in report else "an entry"
    line = (
        f"pooled {report['pooled']:.3f}, median {report['baseline_median']:.3f}; {what} is {smaller:.0f} times "
        f"smaller than the trunk in float32 ({report['params']:,} values); {report['wall_s']:.0f} s"
    )
    predicts = ", ".join(
        f"{name} {site['predicts']:.3f} ({site['chosen'].replace('_', ' ')}; a forest {site['forest']:.3f})"
        for name, site in details["sites"].items()
    )
    answer = Text(f"{' '.join(in_words(report, details))}\n\neach site predicts with: {predicts}")
    if "spread" in report:
        share = f"{100 * report['spread']:.2g} %"
        apart = f"the sites' trunks differ by at most {share} of the distance that training moved them"
        return Group(table, answer, Text(line), Text(apart))
    digests = sorted({site["digest"][:16] for site in report["sites"]})
    same = "all sites hold the same trunk: digest" if len(digests) == 1 else "the sites hold different trunks: digests"
    return Group(table, answer, Text(line), Text(f"{same} {' '.join(digests)}"))


def render_html(report: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: as in `report.json`.
        details: as in `details.json`.
    """
    values = {
        "report": report,
        "details": details,
        "headline": _headline(report),
        "worth": in_words(report, details),
        "payoff": payoff_of(details),
        "metric": plots.error_label(report),
        "kinds": sorted({kind for site in details["sites"].values() for kind in site["egress"]}),
        "models": list(plots.MODEL_STYLE),
        "own_trunks": "spread" in report,
        "contributions": _contributions(details),
        "agreed": len({(site["digest"], tuple(sorted(site["vector"].items()))) for site in report["sites"]}) == 1,
        "error_by_model": Markup(plots.error_by_model(report, details)),
        "error_by_entry": Markup(plots.error_by_entry(report, details)),
        "vectors": Markup(plots.vectors_over_time(report, details)),
        "traffic": Markup(plots.bytes_over_time(report, details)),
    }
    return page("kmel_p2p.simulate", TEMPLATE, values, {"size": bytes_text, "percent": percent})


def _headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the sites, and their ratios."""
    sites = report["sites"]
    local, federated = fmean(site["local"] for site in sites), fmean(site["federated"] for site in sites)
    entry = fmean(site["payload_bytes_mean"] for site in sites)
    return {
        "local": local,
        "federated": federated,
        "change": federated / local - 1,
        "to_pooled": federated / report["pooled"] - 1,
        "entry_bytes": entry,
        "smaller": report["fp32_bytes_per_exchange"] / entry if entry else 0.0,
        "least_gain": max(site["federated"] / site["local"] - 1 for site in sites),
    }


def _contributions(details: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page shows of contributions: a cell for each author and site; None where nothing was measured."""
    found = {name: site.get("contribution", {}) for name, site in details["sites"].items()}
    authors = sorted({author for each in found.values() for author in each.get("authors", {})})
    rows = {}
    for name, each in found.items():
        late = {
            author: [worth["late"] for worth in facts["worth"].values() if worth["late"] is not None]
            for author, facts in each.get("authors", {}).items()
        }
        if any(late.values()):
            rows[name] = [_mean_interval(late.get(author, [])) for author in authors]
    notes = [
        f"{name} about {author}: {note}"
        for name, each in found.items()
        for author, facts in each.get("authors", {}).items()
        for note in facts["notes"]
    ]
    return {"authors": authors, "rows": rows, "notes": notes} if rows else None


def _mean_interval(worth: Sequence[Mapping[str, float]]) -> str:
    if not worth:
        return ""
    value, low, high = (fmean(each[name] for each in worth) for name in ("value", "low", "high"))
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})".replace("-", "\N{MINUS SIGN}")


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
